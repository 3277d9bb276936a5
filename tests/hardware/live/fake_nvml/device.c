/* Calls about one device: memory, chip, clocks, power, health, PCIe, MIG. */
#include <stdio.h>
#include <string.h>

#include "machine.h"

/* "memory TOTAL RESERVED USED" in bytes */
static nvmlReturn_t memory_of(struct device *device, nvmlMemory_v2_t *memory) {
    const char *line = value_of(device, "memory", 0);
    if (!line || sscanf(line, "%llu %llu %llu", &memory->total, &memory->reserved,
                        &memory->used) != 3)
        return NVML_ERROR_NOT_SUPPORTED;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    ENTER(device);
    nvmlMemory_v2_t known;
    nvmlReturn_t status = memory_of(device, &known);
    if (status != NVML_SUCCESS) return status;
    memory->total = known.total;
    memory->free = known.free;
    memory->used = known.total - known.free; /* this version counts the reserved bytes as used */
    return NVML_SUCCESS;
}

#if NVML_DRIVER >= 510
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    ENTER(device);
    if (memory->version != VERSION_WORD(nvmlMemory_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return memory_of(device, memory);
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores) {
    ENTER(device);
    return number_of(device, "cores", cores);
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits) {
    ENTER(device);
    return number_of(device, "bus_width", bits);
}
#endif

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    ENTER(device);
    const char *line = value_of(device, "capability", 0);
    if (!line || sscanf(line, "%d.%d", major, minor) != 2) return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

/* "clock_sm MAX NOW", "clock_memory MAX NOW" in MHz; kinds of clocks as NVML numbers them */
static nvmlReturn_t clock_of(struct device *device, int kind, unsigned int *max,
                             unsigned int *now) {
    const char *line = kind == 1   ? value_of(device, "clock_sm", 0)
                       : kind == 2 ? value_of(device, "clock_memory", 0)
                                   : NULL;
    if (!line || sscanf(line, "%u %u", max, now) != 2) return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int kind, unsigned int *clock) {
    ENTER(device);
    unsigned int now;
    return clock_of(device, kind, clock, &now);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int kind, unsigned int *clock) {
    ENTER(device);
    unsigned int max;
    return clock_of(device, kind, &max, clock);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts) {
    ENTER(device);
    return number_of(device, "power_enforced", milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device,
                                                      unsigned int *milliwatts) {
    ENTER(device);
    return number_of(device, "power_default", milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    ENTER(device);
    return number_of(device, "power_usage", milliwatts);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned int *current,
                                  unsigned int *pending) {
    ENTER(device);
    *pending = 1;
    return number_of(device, "ecc", current);
}

static nvmlReturn_t reasons_of(struct device *device, unsigned long long *reasons) {
    unsigned int bits;
    nvmlReturn_t status = number_of(device, "throttle", &bits);
    *reasons = bits;
    return status;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                       unsigned long long *reasons) {
    ENTER(device);
    return reasons_of(device, reasons);
}

#if NVML_DRIVER >= 535
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long *reasons) {
    ENTER(device);
    return reasons_of(device, reasons);
}
#endif

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, int *mode) {
    ENTER(device);
    return number_of(device, "compute_mode", (unsigned int *)mode);
}

/* "pcie GENERATION WIDTH MAX_GENERATION MAX_WIDTH" */
static nvmlReturn_t pcie_of(struct device *device, int which, unsigned int *number) {
    unsigned int numbers[4];
    const char *line = value_of(device, "pcie", 0);
    if (!line || sscanf(line, "%u %u %u %u", &numbers[0], &numbers[1], &numbers[2],
                        &numbers[3]) != 4)
        return NVML_ERROR_NOT_SUPPORTED;
    *number = numbers[which];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *number) {
    ENTER(device);
    return pcie_of(device, 0, number);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *number) {
    ENTER(device);
    return pcie_of(device, 1, number);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *number) {
    ENTER(device);
    return pcie_of(device, 2, number);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *number) {
    ENTER(device);
    return pcie_of(device, 3, number);
}

#if NVML_DRIVER >= 450
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current,
                                  unsigned int *pending) {
    ENTER(device);
    nvmlReturn_t status = number_of(device, "mig", current);
    *pending = *current;
    return status;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    ENTER(device);
    *count = 7;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                 nvmlDevice_t *instance) {
    ENTER(device);
    if (index >= MAX_DEVICES || !device->instances[index]) return NVML_ERROR_NOT_FOUND;
    *instance = device->instances[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t instance,
                                                          nvmlDevice_t *device) {
    ENTER(instance);
    if (!instance->parent) return NVML_ERROR_INVALID_ARGUMENT;
    *device = instance->parent;
    return NVML_SUCCESS;
}

/* "attributes SMS GPU_SLICES COMPUTE_SLICES MEMORY_MB" */
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    ENTER(device);
    const char *line = value_of(device, "attributes", 0);
    memset(attributes, 0, sizeof *attributes);
    if (!line || sscanf(line, "%u %u %u %llu", &attributes->multiprocessorCount,
                        &attributes->gpuInstanceSliceCount, &attributes->computeInstanceSliceCount,
                        &attributes->memorySizeMB) != 4)
        return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}
#endif
