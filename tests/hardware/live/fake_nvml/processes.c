/* The lists of processes, in the versions that the driver exports.
 *
 * "process LIST PID BYTES" once per entry: LIST compute, graphics or mps; BYTES a number or "unknown".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define MAX_PROCESSES 64

static unsigned int read_list(struct device *device, const char *list,
                              nvmlProcessInfo_v2_t *found) {
    char name[16], bytes[32];
    unsigned int pid, count = 0;
    const char *line;
    for (int n = 0; (line = value_of(device, "process", n)); n++) {
        if (sscanf(line, "%15s %u %31s", name, &pid, bytes) != 3 || strcmp(name, list) != 0)
            continue;
        if (count == MAX_PROCESSES) break;
        memset(&found[count], 0, sizeof found[count]);
        found[count].pid = pid;
        found[count].usedGpuMemory =
            strcmp(bytes, "unknown") == 0 ? ~0ULL : strtoull(bytes, NULL, 10);
        count++;
    }
    return count;
}

/* NVML's two-step protocol: too small a count is answered with the right one. */
static nvmlReturn_t give(struct device *device, const char *list, unsigned int *count, void *out,
                         int version) {
    nvmlProcessInfo_v2_t found[MAX_PROCESSES];
    unsigned int there = read_list(device, list, found), room = *count;
    *count = there;
    if (there == 0) return NVML_SUCCESS;
    if (room < there || !out) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < there; i++)
        if (version == 1) {
            ((nvmlProcessInfo_v1_t *)out)[i].pid = found[i].pid;
            ((nvmlProcessInfo_v1_t *)out)[i].usedGpuMemory = found[i].usedGpuMemory;
        } else {
            ((nvmlProcessInfo_v2_t *)out)[i] = found[i];
        }
    return NVML_SUCCESS;
}

#define LIST(function, list, version)                                            \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *count, void *out) { \
        ENTER(device);                                                           \
        return give(device, list, count, out, version);                          \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, "compute", 1)
LIST(nvmlDeviceGetGraphicsRunningProcesses, "graphics", 1)
#if NVML_DRIVER >= 450
LIST(nvmlDeviceGetComputeRunningProcesses_v2, "compute", 2)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics", 2)
#endif
#if NVML_DRIVER >= 470
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps", 2)
#endif
#if NVML_DRIVER >= 510
LIST(nvmlDeviceGetComputeRunningProcesses_v3, "compute", 3)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics", 3)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps", 3)
#endif
