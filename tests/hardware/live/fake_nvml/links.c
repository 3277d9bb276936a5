/* Calls about NVLink, peers and the fabric.
 *
 * "link STATE TYPE REMOTE_PCI" once per link, in order: STATE up or down, TYPE gpu or switch.
 * "fabric STATE CLIQUE UUID_HEX STATUS HEALTH" once.
 */
#include <stdio.h>
#include <string.h>

#include "machine.h"

static nvmlReturn_t link_of(struct device *device, unsigned int link, int *up, int *type,
                            char *pci) {
    char state[8], kind[8];
    if (!value_of(device, "link", 0)) return NVML_ERROR_NOT_SUPPORTED;
    const char *line = value_of(device, "link", (int)link);
    if (!line || sscanf(line, "%7s %7s %31s", state, kind, pci) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    *up = strcmp(state, "up") == 0;
    *type = strcmp(kind, "switch") == 0 ? 2 : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, int *active) {
    ENTER(device);
    int type;
    char pci[32];
    return link_of(device, link, active, &type, pci);
}

#if NVML_DRIVER >= 470
nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link,
                                                 int *type) {
    ENTER(device);
    int up;
    char pci[32];
    nvmlReturn_t status = link_of(device, link, &up, type, pci);
    if (status == NVML_SUCCESS && !up) *type = 0xFF;
    return status;
}
#endif

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link,
                                                 nvmlPciInfo_t *pci) {
    ENTER(device);
    int up, type;
    memset(pci, 0, sizeof *pci);
    nvmlReturn_t status = link_of(device, link, &up, &type, pci->busId);
    if (status == NVML_SUCCESS && !up) return NVML_ERROR_NOT_SUPPORTED;
    return status;
}

/* Field 164 is a link's line rate in MB/s, the link in scopeId; "nvlink_speed MBPS" */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    ENTER(device);
    for (int i = 0; i < count; i++) {
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (values[i].fieldId == 164)
            values[i].nvmlReturn = number_of(device, "nvlink_speed", &values[i].value.uiVal);
    }
    return NVML_SUCCESS;
}

/* Two GPUs reach each other by NVLink if a link of the first ends at the second, or if both have a
 * link to a switch. */
static int reaches(struct device *from, struct device *to) {
    int up, type, from_switch = 0, to_switch = 0;
    char pci[32];
    const char *target = value_of(to, "pci", 0);
    for (unsigned int n = 0; link_of(from, n, &up, &type, pci) == NVML_SUCCESS; n++) {
        if (up && type == 0 && target && strcmp(pci, target) == 0) return 1;
        from_switch |= up && type == 2;
    }
    for (unsigned int n = 0; link_of(to, n, &up, &type, pci) == NVML_SUCCESS; n++)
        to_switch |= up && type == 2;
    return from_switch && to_switch;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t first, nvmlDevice_t second, int index,
                                    int *status) {
    ENTER(first);
    *status = index == 2 && reaches(first, second) ? 0 : 5;
    return NVML_SUCCESS;
}

#if NVML_DRIVER >= 525
static nvmlReturn_t fabric_of(struct device *device, nvmlGpuFabricInfo_v2_t *fabric) {
    char uuid[33];
    unsigned int state, byte;
    const char *line = value_of(device, "fabric", 0);
    if (!line || sscanf(line, "%u %u %32s %d %u", &state, &fabric->cliqueId, uuid,
                        &fabric->status, &fabric->healthMask) != 5)
        return NVML_ERROR_NOT_SUPPORTED;
    fabric->state = (unsigned char)state;
    for (int i = 0; i < 16; i++) {
        sscanf(uuid + 2 * i, "%2x", &byte);
        fabric->clusterUuid[i] = (unsigned char)byte;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *fabric) {
    ENTER(device);
    nvmlGpuFabricInfo_v2_t known;
    nvmlReturn_t status = fabric_of(device, &known);
    if (status != NVML_SUCCESS) return status;
    memset(fabric, 0xA5, sizeof *fabric); /* a client that reads padding as data shall notice */
    memcpy(fabric->clusterUuid, known.clusterUuid, sizeof fabric->clusterUuid);
    fabric->status = known.status;
    fabric->cliqueId = known.cliqueId;
    fabric->state = known.state;
    return NVML_SUCCESS;
}
#endif

#if NVML_DRIVER >= 550
nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v2_t *fabric) {
    ENTER(device);
    unsigned int version = fabric->version;
    if (version != VERSION_WORD(nvmlGpuFabricInfo_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(fabric, 0xA5, sizeof *fabric); /* a client that reads padding as data shall notice */
    fabric->version = version;
    return fabric_of(device, fabric);
}
#endif
