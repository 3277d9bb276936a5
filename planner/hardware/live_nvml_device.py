"""The facts of one device, as NVML tells them: a whole GPU, or a MIG instance of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pynvml

from planner.hardware import live_nvml_structures as structures
from planner.hardware.live_nvml_asker import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    SYSTEM,
    Asker,
    RefusedError,
    Value,
    text,
)

# Far above any board's number of links (18 on Hopper, 36 in the newest header): the library's own
# refusal ends the count, and this only bounds a library that never refuses.
MOST_LINKS = 256
FIELD_NVLINK_SPEED = 164  # NVML_FI_DEV_NVLINK_GET_SPEED, MB/s of the line, link in the scope
CLOCK_SM, CLOCK_MEMORY = 1, 2  # nvmlClockType_t


# Facts of a whole GPU that one call answers: name, call, further arguments, how to make it plain
PLAIN_FACTS: tuple[tuple[str, str, tuple[int, ...], Callable[[Any], Value]], ...] = (
    ("name", "nvmlDeviceGetName", (), lambda name: text(name)),
    ("pci_bus_id", "nvmlDeviceGetPciInfo", (), lambda pci: text(pci.busId)),
    ("compute_capability", "nvmlDeviceGetCudaComputeCapability", (), list),
    ("cores", "nvmlDeviceGetNumGpuCores", (), int),
    ("memory_bus_width_bits", "nvmlDeviceGetMemoryBusWidth", (), int),
    ("sm_clock_max_mhz", "nvmlDeviceGetMaxClockInfo", (CLOCK_SM,), int),
    ("sm_clock_mhz", "nvmlDeviceGetClockInfo", (CLOCK_SM,), int),
    ("memory_clock_max_mhz", "nvmlDeviceGetMaxClockInfo", (CLOCK_MEMORY,), int),
    ("memory_clock_mhz", "nvmlDeviceGetClockInfo", (CLOCK_MEMORY,), int),
    ("power_limit_milliwatts", "nvmlDeviceGetEnforcedPowerLimit", (), int),
    ("power_default_milliwatts", "nvmlDeviceGetPowerManagementDefaultLimit", (), int),
    ("power_usage_milliwatts", "nvmlDeviceGetPowerUsage", (), int),
    ("ecc", "nvmlDeviceGetEccMode", (), lambda modes: bool(modes[0])),
    ("compute_mode", "nvmlDeviceGetComputeMode", (), int),
    ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", (), int),
    ("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", (), int),
    ("pcie_max_generation", "nvmlDeviceGetMaxPcieLinkGeneration", (), int),
    ("pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth", (), int),
)


def ask_memory(asker: Asker, device: str, handle: Any) -> None:
    """Total, free, used; and reserved, where the driver tells it apart from used (since 510)."""
    try:
        memory = asker.first(
            device,
            (
                "nvmlDeviceGetMemoryInfo_v2",
                lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
            ),
            ("nvmlDeviceGetMemoryInfo", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle)),
        )
    except RefusedError as refused:
        if refused.status == GPU_IS_LOST:
            raise
        return
    reserved = getattr(memory, "reserved", None)
    asker.fact(
        device,
        "memory",
        {
            "total": int(memory.total),
            "free": int(memory.free),
            "used": int(memory.used),
            "reserved": None if reserved is None else int(reserved),
        },
    )


def ask_throttling(asker: Asker, device: str, handle: Any) -> None:
    """The bits of what holds the clocks down; drivers before 535 call them throttle reasons."""
    names = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    if asker.try_fact(device, "throttle_bits", names[0], handle) is None:
        asker.try_fact(device, "throttle_bits", names[1], handle)


def ask_processes(asker: Asker, device: str, handle: Any) -> None:
    """[pid, bytes or None] of the compute, graphics and MPS lists, and the programs' names."""
    for kind in ("Compute", "Graphics", "MPSCompute"):
        function = f"nvmlDeviceGet{kind}RunningProcesses"
        ways = [(name, _bound(name, handle)) for name in (f"{function}_v3", f"{function}_v2")]
        if kind != "MPSCompute":  # drivers before 450 know only the lists without a version
            ways.append((function, _bound_v1(function, handle)))
        try:
            processes = asker.first(device, *ways)
        except RefusedError as refused:
            if refused.status == GPU_IS_LOST:
                raise
            continue
        found = [(int(one.pid), structures.known_bytes(one.usedGpuMemory)) for one in processes]
        asker.fact(device, f"processes_{kind.lower()}", found)
        for pid, _ in found:
            if pid not in asker.programs:
                asker.programs.add(pid)
                asker.try_fact(
                    SYSTEM, f"program_{pid}", "nvmlSystemGetProcessName", pid, plain=text
                )


def _bound(function: str, handle: Any) -> Callable[[], Any]:
    return lambda: getattr(pynvml, function)(handle)


def _bound_v1(function: str, handle: Any) -> Callable[[], Any]:
    return lambda: structures.processes_v1(function, handle)


def ask_links(asker: Asker, device: str, handle: Any) -> None:
    """Each NVLink: up or not, what kind of device is at its other end, and where that one sits."""
    links: list[dict[str, Value]] = []
    for link in range(MOST_LINKS):
        try:
            up = bool(asker.call(device, "nvmlDeviceGetNvLinkState", handle, link))
        except RefusedError as refused:
            if refused.status == GPU_IS_LOST:
                raise
            if refused.status in (INVALID_ARGUMENT, NOT_SUPPORTED, FUNCTION_NOT_FOUND):
                break  # no more links, or none at all
            up = False
        links.append({"up": up, **(_remote(asker, device, handle, link) if up else {})})
    asker.fact(device, "links", links)
    first_up = next((place for place, link in enumerate(links) if link["up"]), None)
    if first_up is not None:
        _ask_line_rate(asker, device, handle, first_up)


def _remote(asker: Asker, device: str, handle: Any, link: int) -> dict[str, Value]:
    found: dict[str, Value] = {"remote_type": None, "remote_pci": None}
    for name, function, plain in (
        ("remote_type", "nvmlDeviceGetNvLinkRemoteDeviceType", int),
        ("remote_pci", "nvmlDeviceGetNvLinkRemotePciInfo", lambda pci: text(pci.busId)),
    ):
        try:
            found[name] = plain(asker.call(device, function, handle, link))
        except RefusedError as refused:
            if refused.status == GPU_IS_LOST:
                raise
    return found


def _ask_line_rate(asker: Asker, device: str, handle: Any, link: int) -> None:
    def first_value(fields: Any) -> Value:
        return int(fields[0].value.uiVal) if fields[0].nvmlReturn == 0 else None

    function = "nvmlDeviceGetFieldValues"
    fields = [(FIELD_NVLINK_SPEED, link)]
    asker.try_fact(device, "link_line_rate_mbps", function, handle, fields, plain=first_value)


def ask_fabric(asker: Asker, device: str, handle: Any) -> None:
    """The NVLink fabric that the GPU has joined, by the versioned call or the one before it."""
    try:
        fabric = asker.first(
            device,
            ("nvmlDeviceGetGpuFabricInfoV", lambda: structures.fabric_v2(handle)),
            ("nvmlDeviceGetGpuFabricInfo", lambda: structures.fabric_v1(handle)),
        )
    except RefusedError as refused:
        if refused.status == GPU_IS_LOST:
            raise
        return
    asker.fact(device, "fabric", fabric)


def ask_instances(asker: Asker, gpu: int, handle: Any, only: set[str]) -> None:
    """The MIG instances of a GPU: all of them, or those with a UUID in `only`."""
    for slot, instance, uuid in instances_of(asker, gpu, handle):
        if only and uuid not in only:
            continue
        device = f"{gpu}/{slot}"
        asker.fact(device, "uuid", uuid)
        asker.try_fact(device, "name", "nvmlDeviceGetName", instance, plain=text)
        ask_memory(asker, device, instance)
        asker.try_fact(
            device,
            "attributes",
            "nvmlDeviceGetAttributes",
            instance,
            plain=lambda attributes: {
                "sm_count": int(attributes.multiprocessorCount),
                "gpu_slices": int(attributes.gpuInstanceSliceCount),
                "memory_mib": int(attributes.memorySizeMB),
            },
        )
        ask_processes(asker, device, instance)


def instances_of(asker: Asker, gpu: int, handle: Any) -> Iterable[tuple[int, Any, str | None]]:
    """Slot, handle and UUID of each MIG instance; slots may have holes."""
    device = str(gpu)
    try:
        slots = int(asker.call(device, "nvmlDeviceGetMaxMigDeviceCount", handle))
    except RefusedError as refused:
        if refused.status == GPU_IS_LOST:
            raise
        return
    for slot in range(slots):
        try:
            instance = asker.call(device, "nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
            uuid = text(asker.call(f"{gpu}/{slot}", "nvmlDeviceGetUUID", instance))
        except RefusedError as refused:
            if refused.status == GPU_IS_LOST:
                raise
            continue
        yield slot, instance, uuid


def in_mig_mode(asker: Asker, gpu: int, handle: Any) -> bool:
    modes = asker.try_fact(str(gpu), "mig_modes", "nvmlDeviceGetMigMode", handle, plain=list)
    return bool(modes and modes[0])


def ask_gpu(asker: Asker, gpu: int, handle: Any, only: set[str]) -> None:
    """Every fact of one visible GPU; of one in MIG mode only what its instances cannot tell."""
    device = str(gpu)
    for name, function, arguments, plain in PLAIN_FACTS:
        asker.try_fact(device, name, function, handle, *arguments, plain=plain)
    ask_memory(asker, device, handle)
    ask_throttling(asker, device, handle)
    if in_mig_mode(asker, gpu, handle):
        ask_instances(asker, gpu, handle, only)
    else:
        ask_processes(asker, device, handle)
        ask_links(asker, device, handle)
        ask_fabric(asker, device, handle)
    asker.fact(device, "complete", True)
