/* The described machine, as the calls see it. */
#ifndef FAKE_NVML_MACHINE_H
#define FAKE_NVML_MACHINE_H

#include "nvml_types.h"

#define MAX_LINES 128
#define MAX_DEVICES 32

/* A block of the machine file: the system, a GPU, or a MIG instance. Its lines are kept as text and
 * read when a call needs them; a key that is not there is a fact that the device does not have. */
struct device {
    char *keys[MAX_LINES];
    char *values[MAX_LINES];
    int lines;
    struct device *parent;                 /* of a MIG instance */
    struct device *instances[MAX_DEVICES]; /* of a GPU, by slot; NULL is a hole */
};

extern struct device system_block;
extern struct device *gpus[MAX_DEVICES];
extern int gpu_count;

void read_machine(void);

/* The value of the n-th line with this key, or NULL. */
const char *value_of(struct device *block, const char *key, int n);

/* The number after a key, or NVML_ERROR_NOT_SUPPORTED. */
nvmlReturn_t number_of(struct device *block, const char *key, unsigned int *number);

/* Called first by every call: writes it to the log, and then does what the file says about it:
 * answers with a status, hangs for ever, or crashes. */
nvmlReturn_t enter(struct device *block, const char *function);

#define ENTER(block)                                      \
    do {                                                  \
        nvmlReturn_t entered_ = enter((block), __func__); \
        if (entered_ != NVML_SUCCESS) return entered_;    \
    } while (0)

#endif
