"""What a user should know of the GPUs before relying on them: each names the GPU and the figure.

A healthy, idle machine of equal GPUs has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.hardware.live_types import (
    FABRIC_COMPLETED,
    FABRIC_IN_PROGRESS,
    FABRIC_NOT_STARTED,
    LiveGpu,
    Process,
)
from planner.hardware.power import power_slowdown
from planner.hardware.profile import GpuProfile
from planner.hardware.visible_devices import VARIABLE

ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
BYTES_PER_MIB, BYTES_PER_GIB = 2**20, 2**30
WATTS_OF_NO_MATTER = 1.0  # limits are set and read in milliwatts, and boards round them
# An idle GPU's own use; and with a driver before 510, whose figure includes what it reserves (the
# more, the larger the memory).
IDLE_USED_BYTES = 512 * BYTES_PER_MIB
IDLE_USED_WITH_RESERVED_BYTES = BYTES_PER_GIB
IDLE_USED_WITH_RESERVED_FRACTION = 0.03
# What slows a GPU that is not just at its power limit, which is usual under load.
SLOWED_BY = {
    "sw_thermal_slowdown": "heat",
    "hw_thermal_slowdown": "heat",
    "hw_slowdown": "a hardware slowdown",
    "hw_power_brake": "the power supply (external power brake)",
}


def ignored_entries(text: str, ignored: Sequence[str]) -> Iterator[str]:
    """Entries of CUDA_VISIBLE_DEVICES that CUDA does not read."""
    if ignored:
        first, *others = ignored
        after = f", and so is what follows it: {', '.join(others)}" if others else ""
        yield f"{VARIABLE}={text}: {first!r} names no GPU and is ignored{after}"


def of_machine(gpus: Sequence[LiveGpu], device_order: str | None) -> Iterator[str]:
    """What is wrong with the GPUs as a group."""
    usable = [gpu for gpu in gpus if gpu.usable]
    for gpu in gpus:
        if not gpu.usable:
            yield f"{gpu.label} is left out: {gpu.error}"
    whole = [gpu for gpu in usable if not gpu.mig]
    instances = [gpu for gpu in usable if gpu.mig]
    if instances and whole:
        yield (
            f"{len(instances)} MIG instances are left out: they cannot be joined with whole GPUs; "
            f"to plan for one, set {VARIABLE} to its UUID, such as {instances[0].uuid}"
        )
    elif len(instances) > 1:
        smallest = smallest_instance(instances)
        yield (
            f"{len(instances)} MIG instances cannot be joined into one job: planning for one, "
            f"{smallest.name} ({_gib(smallest.memory_total_bytes)}); to choose another, set "
            f"{VARIABLE} to its UUID, such as {instances[-1].uuid}"
        )
    names = list(dict.fromkeys(_kind(gpu) for gpu in whole))
    if len(names) > 1:
        yield f"unlike GPUs in one node ({', '.join(names)}): the smallest of each figure decides"
        if device_order != "PCI_BUS_ID":
            yield (
                f"CUDA numbers unlike GPUs fastest first, NVML (shown here) by PCI address: set "
                f"{ORDER_VARIABLE}=PCI_BUS_ID to have one numbering"
            )


def smallest_instance(instances: Sequence[LiveGpu]) -> LiveGpu:
    """The MIG instance that decides: what fits there fits on each that is visible."""
    return min(instances, key=lambda gpu: (gpu.memory_total_bytes or 0, gpu.memory_free_bytes or 0))


def _kind(gpu: LiveGpu) -> str:
    """Its profile; without one its name and memory, since one name may mean two sizes."""
    if gpu.profile_source == "matched" and gpu.profile:
        return gpu.profile
    return f"{gpu.name or 'unnamed'} of {_gib(gpu.memory_total_bytes)}"


def of_gpu(gpu: LiveGpu, profile: GpuProfile) -> Iterator[str]:
    """What is out of the ordinary with one usable GPU of this profile."""
    for warning in (
        *_unknown_board(gpu, profile),
        *_memory(gpu),
        *_power_and_heat(gpu),
        *_links(gpu, profile),
        *_modes(gpu),
    ):
        yield f"{gpu.label}: {warning}"


def _unknown_board(gpu: LiveGpu, profile: GpuProfile) -> Iterator[str]:
    if gpu.profile_source == "derived" and profile.notes and profile.notes[0].startswith("Derived"):
        peak = profile.peak("bf16") or profile.peak("fp16") or 0.0
        rate = profile.memory_bandwidth_bytes_per_second
        yield (
            "no profile has this name, memory and capability; one was derived from its clocks and "
            f"units: {peak / 1e12:.0f} TFLOPS bf16, {rate / 1e9:.0f} GB/s"
        )


def _memory(gpu: LiveGpu) -> Iterator[str]:
    if gpu.memory_unified:
        yield (
            "unified memory, shared with the CPU: "
            f"{_gib(gpu.memory_free_bytes)} of {_gib(gpu.memory_total_bytes)} are available now"
        )
    if gpu.processes is None:
        if not gpu.memory_unified:
            yield f"{_mib(gpu.memory_used_bytes)} are used, but who holds them may not be asked"
        return
    if gpu.processes:
        yield f"memory is held by {', '.join(_holder(process) for process in gpu.processes)}"
    known = sum(process.used_bytes or 0 for process in gpu.processes)
    rest = (gpu.memory_used_bytes or 0) - known
    idle = IDLE_USED_BYTES
    if gpu.memory_reserved_bytes is None:
        part = round(IDLE_USED_WITH_RESERVED_FRACTION * (gpu.memory_total_bytes or 0))
        idle = max(IDLE_USED_WITH_RESERVED_BYTES, part)
    nobody_unknown = all(process.used_bytes is not None for process in gpu.processes)
    if rest > idle and nobody_unknown and not gpu.memory_unified:
        yield f"{_mib(rest)} are used by programs that NVML does not list (another container?)"


def _holder(process: Process) -> str:
    amount = "an unknown amount" if process.used_bytes is None else _mib(process.used_bytes)
    return f"pid {process.pid} ({process.name or 'no name'}, {amount})"


def _power_and_heat(gpu: LiveGpu) -> Iterator[str]:
    limit, default = gpu.power_limit_watts, gpu.power_default_watts
    if limit and default and limit < default - WATTS_OF_NO_MATTER:
        kept = power_slowdown(limit, default)
        yield f"power is capped at {limit:g} W of {default:g} W: planned at {kept:.0%} of the clock"
    causes = {SLOWED_BY[name]: name for name in gpu.throttled or () if name in SLOWED_BY}
    for cause, name in causes.items():
        yield f"slowed down by {cause} ({name})"


def _links(gpu: LiveGpu, profile: GpuProfile) -> Iterator[str]:
    width, most = gpu.pcie_width, gpu.pcie_max_width
    if width and most and width < most:
        yield f"PCIe has {width} of {most} lanes"
    ends = gpu.link_ends or ()
    up = sum(end.up for end in ends)
    # A PCIe board without its bridge has links that are all down, and nothing is wrong with it.
    expected = profile.link is not None and profile.link.topology in ("switch", "cube-mesh")
    if up < len(ends) and (up or expected):
        yield f"{len(ends) - up} of {len(ends)} NVLink links are down"
    fabric = gpu.fabric
    if fabric and fabric.state in (FABRIC_NOT_STARTED, FABRIC_IN_PROGRESS):
        stage = "not started" if fabric.state == FABRIC_NOT_STARTED else "in progress"
        yield f"the NVLink fabric is not ready ({stage}): CUDA will not start until it is"
    elif fabric and fabric.state == FABRIC_COMPLETED and fabric.status:
        yield f"the NVLink fabric is not ready: joining it failed with NVML status {fabric.status}"
    if fabric and fabric.degraded:
        yield "the NVLink fabric works with reduced bandwidth"


def _modes(gpu: LiveGpu) -> Iterator[str]:
    if gpu.mps:
        yield "MPS is running: other programs share its multiprocessors"
    if gpu.compute_mode == "prohibited":
        yield "compute mode is prohibited: no CUDA program can use it (nvidia-smi -c 0 allows it)"
    elif gpu.compute_mode in ("exclusive_process", "exclusive_thread") and gpu.processes:
        yield f"compute mode is {gpu.compute_mode}, and a program uses it already"


def _mib(amount: int | None) -> str:
    return "an unknown amount" if amount is None else f"{amount / BYTES_PER_MIB:,.0f} MiB"


def _gib(amount: int | None) -> str:
    return "an unknown amount" if amount is None else f"{amount / BYTES_PER_GIB:.1f} GiB"
