"""From what NVML answered to one LiveGpu for each visible GPU or MIG instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.hardware.live_ask import SYSTEM, Answers, DeviceAnswers
from planner.hardware.live_failures import meaning
from planner.hardware.live_types import (
    COMPUTE_MODES,
    THROTTLE_BITS,
    Clocks,
    FabricState,
    LinkEnd,
    LiveGpu,
    Mig,
    Process,
    State,
)
from planner.hardware.visible_devices import Choice

GPU_IS_LOST, NOT_SUPPORTED, FUNCTION_NOT_FOUND, RESET_REQUIRED = 15, 3, 13, 16
MEMORY_CALLS = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")
# Chips whose GPU has no memory of its own: Xavier, Orin, Thor (two numbers), GB10.
UNIFIED_CAPABILITIES = ("7.2", "8.7", "10.1", "11.0", "12.1")
MEMORY_PARTS = ("total", "free", "used", "reserved")
HEALTH_DEGRADED_BANDWIDTH = 1  # the two lowest bits of the fabric's health mask: 1 is "yes"

HOST_MEMORY = Path("/proc/meminfo")


def gpus_of(answers: Answers) -> tuple[LiveGpu, ...]:
    """The visible GPUs and instances, in the order in which CUDA_VISIBLE_DEVICES has them."""
    found: dict[tuple[int, str | None], LiveGpu] = {}
    for choice in answers.chosen or ():
        for gpu in _gpus_of_choice(answers, choice):
            found.setdefault((gpu.index, gpu.uuid if gpu.mig else None), gpu)
    return tuple(found.values())


def _gpus_of_choice(answers: Answers, choice: Choice) -> list[LiveGpu]:
    answered = answers.device(str(choice.gpu))
    whole = _whole_gpu(answers, choice.gpu, answered)
    if not whole.mig_mode:
        return [whole]
    if whole.state == "lost":
        return [whole]
    instances = [
        _instance(answers, whole, part)
        for name, part in answers.devices.items()
        if name.startswith(f"{choice.gpu}/")
        and "uuid" in part.facts
        and choice.instance in (None, part.facts["uuid"])
    ]
    if not instances:
        return [_without_instance(whole)]
    return instances


def _without_instance(whole: LiveGpu) -> LiveGpu:
    reason = whole.error or (
        "in MIG mode without an instance: create one with nvidia-smi mig -cgi PROFILE -C"
    )
    return replace(whole, state="error", error=reason)


def _whole_gpu(answers: Answers, index: int, answered: DeviceAnswers) -> LiveGpu:
    facts = answered.facts
    capability = _capability(facts.get("compute_capability"))
    mig_mode = bool(facts["mig_modes"][0]) if "mig_modes" in facts else None
    unified = _is_unified(facts.get("name"), capability, answered)
    state, error = _state(answered, needs_memory=not mig_mode and not unified)
    processes, mps = _processes(answers, facts)
    memory = _memory(facts, unified)
    if unified and not memory:
        state, error = "error", f"shares the host's memory, but {HOST_MEMORY} cannot be read"
    return LiveGpu(
        index=index,
        state=state,
        error=error,
        uuid=facts.get("uuid"),
        name=facts.get("name"),
        memory_total_bytes=memory.get("total"),
        memory_free_bytes=memory.get("free"),
        memory_used_bytes=memory.get("used"),
        memory_reserved_bytes=memory.get("reserved"),
        memory_unified=unified,
        compute_capability=capability,
        cores=facts.get("cores"),
        memory_bus_width_bits=facts.get("memory_bus_width_bits"),
        power_limit_watts=_watts(facts.get("power_limit_milliwatts")),
        power_default_watts=_watts(facts.get("power_default_milliwatts")),
        power_usage_watts=_watts(facts.get("power_usage_milliwatts")),
        ecc=facts.get("ecc"),
        compute_mode=COMPUTE_MODES.get(facts.get("compute_mode", -1)),
        mps=mps,
        pci_bus_id=facts.get("pci_bus_id"),
        pcie_generation=facts.get("pcie_generation"),
        pcie_width=facts.get("pcie_width"),
        pcie_max_generation=facts.get("pcie_max_generation"),
        pcie_max_width=facts.get("pcie_max_width"),
        clocks=Clocks(
            facts.get("sm_clock_mhz"),
            facts.get("sm_clock_max_mhz"),
            facts.get("memory_clock_mhz"),
            facts.get("memory_clock_max_mhz"),
        ),
        mig_mode=mig_mode,
        processes=processes,
        throttled=_throttled(facts.get("throttle_bits")),
        fabric=_fabric(facts.get("fabric")),
        link_ends=_link_ends(facts.get("links")),
        link_line_rate_mbps=facts.get("link_line_rate_mbps"),
        p2p_nvlink=_reached(facts),
    )


def _instance(answers: Answers, whole: LiveGpu, answered: DeviceAnswers) -> LiveGpu:
    """A MIG instance: what it cannot tell itself it has from its parent."""
    facts = answered.facts
    name = facts.get("name")
    attributes = facts.get("attributes") or {}
    state, error = _state(answered, needs_memory=True)
    if whole.state != "ok":
        state, error = whole.state, whole.error
    memory = _memory(facts, unified=False)
    processes, mps = _processes(answers, facts)
    changes: dict[str, Any] = {
        "state": state,
        "error": error,
        "uuid": facts.get("uuid"),
        "name": name or whole.name,
        **{f"memory_{part}_bytes": memory.get(part) for part in MEMORY_PARTS},
        "cores": None,
        "sm_count": attributes.get("sm_count"),
        "memory_bus_width_bits": None,
        "mig": Mig(_mig_profile(name, attributes), whole.uuid),
        "processes": processes,
        "mps": mps,
        "fabric": None,
        "link_ends": None,
    }
    return replace(whole, **changes)


def _mig_profile(name: str | None, attributes: Mapping[str, int]) -> str | None:
    """ "1g.5gb" of "NVIDIA A100-SXM4-40GB MIG 1g.5gb"; else made from slices and memory."""
    if name and " MIG " in name:
        return name.rsplit(" MIG ", 1)[1].strip()
    if attributes:
        return f"{attributes['gpu_slices']}g.{round(attributes['memory_mib'] / 1024)}gb"
    return None


def _state(answered: DeviceAnswers, *, needs_memory: bool) -> tuple[State, str | None]:
    """ok, lost or error, and why: judged by the calls that nothing can do without."""
    refusals = answered.refusals
    for call, (status, text) in refusals.items():
        if status == GPU_IS_LOST:
            return "lost", f"{meaning(status, text)} (says {call}): see dmesg for Xid 79"
    if answered.broken:
        how, call = answered.broken
        did = "crashed in" if how == "crashed" else "gave no answer to"
        return "error", f"the driver {did} {call}"
    for call, (status, text) in refusals.items():
        if call == "nvmlDeviceGetHandleByIndex" or status == RESET_REQUIRED:
            return "error", f"{meaning(status, text)} (says {call})"
    if needs_memory and "memory" not in answered.facts:
        asked = [(call, *refusals[call]) for call in MEMORY_CALLS if call in refusals]
        if not asked:
            return "error", "not asked: time was up"
        call, status, text = asked[-1]
        return "error", f"its memory cannot be read: {meaning(status, text)} (says {call})"
    return "ok", None


def _is_unified(name: str | None, capability: str | None, answered: DeviceAnswers) -> bool:
    """Whether the GPU shares the host's memory: such a chip, and NVML has no memory of its own."""
    if "memory" in answered.facts:
        return False
    refused = {answered.refusals[call][0] for call in MEMORY_CALLS if call in answered.refusals}
    if not refused or not refused <= {NOT_SUPPORTED, FUNCTION_NOT_FOUND}:
        return False
    return capability in UNIFIED_CAPABILITIES or (name or "").endswith("GB10")


def _memory(facts: Mapping[str, Any], unified: bool) -> dict[str, int | None]:
    given: dict[str, int | None] = facts.get("memory") or (_host_memory() if unified else {})
    return given


def _host_memory() -> dict[str, int | None]:
    """The host's memory: MemTotal, and as free what programs can still have, MemAvailable."""
    try:
        lines = HOST_MEMORY.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    # "MemTotal:       131072000 kB", which are KiB
    values = {line.split(":")[0]: line.split() for line in lines if ":" in line}
    try:
        total, free = (int(values[key][1]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (KeyError, IndexError, ValueError):
        return {}
    return {"total": total, "free": free, "used": total - free, "reserved": None}


def _processes(
    answers: Answers, facts: Mapping[str, Any]
) -> tuple[tuple[Process, ...] | None, bool | None]:
    """Each pid of the three lists once, with the most that any says; and whether MPS runs."""
    if "processes_compute" not in facts:
        return None, None
    names = answers.device(SYSTEM).facts
    used: dict[int, int | None] = {}
    for kind in ("compute", "graphics", "mpscompute"):
        for pid, amount in facts.get(f"processes_{kind}") or ():
            before = used.get(pid)
            used[pid] = amount if before is None else max(before, amount or 0)
    processes = tuple(
        Process(pid, names.get(f"program_{pid}"), amount) for pid, amount in sorted(used.items())
    )
    clients = bool(facts.get("processes_mpscompute"))
    server = any("nvidia-cuda-mps-server" in (one.name or "") for one in processes)
    return processes, clients or server


def _throttled(bits: int | None) -> tuple[str, ...] | None:
    if bits is None:
        return None
    return tuple(name for bit, name in THROTTLE_BITS.items() if bits & bit)


def _fabric(fact: Mapping[str, Any] | None) -> FabricState | None:
    if fact is None or not fact["state"]:  # state 0: this GPU has no fabric
        return None
    mask = fact["health_mask"]
    return FabricState(
        state=fact["state"],
        status=fact["status"],
        clique=fact["clique"],
        cluster_uuid=fact["cluster_uuid"],
        degraded=mask is not None and mask & 3 == HEALTH_DEGRADED_BANDWIDTH,
    )


def _link_ends(fact: list[dict[str, Any]] | None) -> tuple[LinkEnd, ...] | None:
    return None if fact is None else tuple(LinkEnd(**link) for link in fact)


def _reached(facts: Mapping[str, Any]) -> tuple[int, ...]:
    prefix = "p2p_nvlink_"
    return tuple(
        int(name.removeprefix(prefix))
        for name, status in facts.items()
        if name.startswith(prefix) and status == 0
    )


def _capability(pair: list[int] | None) -> str | None:
    return None if pair is None else f"{pair[0]}.{pair[1]}"


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
