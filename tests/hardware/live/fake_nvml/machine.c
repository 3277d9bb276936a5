/* Reads the machine file named by FAKE_NVML_MACHINE.
 *
 * One "key value" per line; "#" begins a comment. "gpu" begins a GPU, "instance SLOT" a MIG
 * instance of the GPU before it; lines before the first "gpu" are the system's. In every block:
 *     status FUNCTION NUMBER    that call answers with this status
 *     hang FUNCTION             that call never returns, whatever signal comes but SIGKILL
 *     crash FUNCTION            that call kills the process
 * FAKE_NVML_LOG, if set, names a file to which every call is appended as "function uuid".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

struct device system_block;
struct device *gpus[MAX_DEVICES];
int gpu_count;

static void fail(const char *what, const char *about) {
    fprintf(stderr, "fake NVML: %s: %s\n", what, about);
    abort(); /* a wrong test, not a described failure */
}

static char *copy(const char *text) {
    char *made = malloc(strlen(text) + 1);
    return strcpy(made, text);
}

static struct device *new_device(struct device *parent) {
    struct device *made = calloc(1, sizeof(struct device));
    made->parent = parent;
    return made;
}

void read_machine(void) {
    const char *path = getenv("FAKE_NVML_MACHINE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) fail("cannot open the machine file", path ? path : "FAKE_NVML_MACHINE is not set");

    memset(&system_block, 0, sizeof system_block);
    gpu_count = 0;
    struct device *block = &system_block, *gpu = NULL;
    char line[1024];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "#\n")] = '\0';
        char *key = line + strspn(line, " \t");
        if (!*key) continue;
        char *value = key + strcspn(key, " \t");
        if (*value) *value++ = '\0';
        value += strspn(value, " \t");
        for (char *end = value + strlen(value); end > value && end[-1] == ' ';) *--end = '\0';

        if (strcmp(key, "gpu") == 0) {
            if (gpu_count == MAX_DEVICES) fail("too many GPUs", path);
            block = gpu = gpus[gpu_count++] = new_device(NULL);
        } else if (strcmp(key, "instance") == 0) {
            int slot = atoi(value);
            if (!gpu || slot < 0 || slot >= MAX_DEVICES) fail("an instance out of place", value);
            block = gpu->instances[slot] = new_device(gpu);
        } else {
            if (block->lines == MAX_LINES) fail("too many lines in a block", key);
            block->keys[block->lines] = copy(key);
            block->values[block->lines++] = copy(value);
        }
    }
    fclose(file);
}

const char *value_of(struct device *block, const char *key, int n) {
    for (int i = 0; i < block->lines; i++)
        if (strcmp(block->keys[i], key) == 0 && n-- == 0) return block->values[i];
    return NULL;
}

nvmlReturn_t number_of(struct device *block, const char *key, unsigned int *number) {
    const char *value = value_of(block, key, 0);
    if (!value) return NVML_ERROR_NOT_SUPPORTED;
    *number = (unsigned int)strtoul(value, NULL, 0);
    return NVML_SUCCESS;
}

static void hang(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;) pause();
}

static void write_log(struct device *block, const char *function) {
    const char *path = getenv("FAKE_NVML_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    const char *uuid = value_of(block, "uuid", 0);
    fprintf(log, "%s %s\n", function, uuid ? uuid : "-");
    fclose(log);
}

nvmlReturn_t enter(struct device *block, const char *function) {
    if (!block) return NVML_ERROR_INVALID_ARGUMENT;
    write_log(block, function);
    char name[128];
    int status;
    for (int i = 0; i < block->lines; i++) {
        const char *key = block->keys[i], *value = block->values[i];
        if (strcmp(key, "hang") == 0 && strcmp(value, function) == 0) hang();
        if (strcmp(key, "crash") == 0 && strcmp(value, function) == 0) raise(SIGSEGV);
        if (strcmp(key, "status") == 0 && sscanf(value, "%127s %d", name, &status) == 2 &&
            (strcmp(name, function) == 0 || strcmp(name, "every") == 0))
            return status;
    }
    return NVML_SUCCESS;
}
