/* Calls about the system and the way to a device's handle. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

static nvmlReturn_t text_of(struct device *block, const char *key, char *text, unsigned int size) {
    const char *value = value_of(block, key, 0);
    if (!value) return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(value) >= size) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(text, value);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    read_machine();
    ENTER(&system_block);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) {
    ENTER(&system_block);
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t status) {
    (void)status;
    return "a status of the fake library";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    ENTER(&system_block);
    return text_of(&system_block, "driver", version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ENTER(&system_block);
    return number_of(&system_block, "cuda", (unsigned int *)version);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    ENTER(&system_block);
    char program[256];
    unsigned int known;
    const char *line;
    for (int n = 0; (line = value_of(&system_block, "program", n)); n++)
        if (sscanf(line, "%u %255[^\n]", &known, program) == 2 && known == pid) {
            snprintf(name, length, "%s", program);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    ENTER(&system_block);
    *count = (unsigned int)gpu_count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index >= (unsigned int)gpu_count) return NVML_ERROR_INVALID_ARGUMENT;
    ENTER(gpus[index]);
    *device = gpus[index];
    return NVML_SUCCESS;
}

static int has_uuid(struct device *block, const char *uuid) {
    const char *own = value_of(block, "uuid", 0);
    return own && strcmp(own, uuid) == 0;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    ENTER(&system_block);
    for (int gpu = 0; gpu < gpu_count; gpu++) {
        if (has_uuid(gpus[gpu], uuid)) {
            *device = gpus[gpu];
            return NVML_SUCCESS;
        }
        for (int slot = 0; slot < MAX_DEVICES; slot++) {
            struct device *instance = gpus[gpu]->instances[slot];
            if (instance && has_uuid(instance, uuid)) {
                *device = instance;
                return NVML_SUCCESS;
            }
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    ENTER(device);
    return text_of(device, "uuid", uuid, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    ENTER(device);
    return text_of(device, "name", name, length);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    ENTER(device);
    memset(pci, 0, sizeof *pci);
    return text_of(device, "pci", pci->busId, sizeof pci->busId);
}
