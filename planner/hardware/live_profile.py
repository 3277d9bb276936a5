"""The profile that a plan uses: the board's, with what was measured in this machine put over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.hardware.live_links import pcie_bytes_per_second
from planner.hardware.live_match import derive, match
from planner.hardware.live_types import Interconnect, LiveGpu
from planner.hardware.power import power_slowdown
from planner.hardware.profile import GpuProfile, Link, Pcie, Topology

MIG_MEMORY_SLICES = 8  # of every GPU that has MIG; a slice has its share of the bandwidth
# NVLink generation by the first digits of the compute capability
NVLINK_KINDS = {"6": "nvlink1", "7": "nvlink2", "8": "nvlink3", "9": "nvlink4", "10": "nvlink5"}


def profile_of(gpu: LiveGpu, profiles: Sequence[GpuProfile]) -> GpuProfile:
    """The matched or derived profile of one GPU with its measured facts over it."""
    base = match(gpu, profiles) or derive(gpu, profiles)
    if gpu.mig:
        base = _instance_of(base, gpu)
    elif gpu.sm_count and base.sm_count and gpu.sm_count != base.sm_count:
        base = _scaled(base, gpu.sm_count / base.sm_count)
    total = gpu.memory_total_bytes or base.memory_bytes
    usable = base.usable_memory_bytes
    return _with_power(
        replace(
            base,
            memory_bytes=total,
            usable_memory_bytes=usable and round(usable * (total / base.memory_bytes)),
            sm_count=gpu.sm_count or base.sm_count,
            pcie=_pcie(gpu) or base.pcie,
        ),
        gpu,
    )


def _scaled(profile: GpuProfile, factor: float) -> GpuProfile:
    """The same board with all compute rates times a factor."""
    peaks = {dtype: peak * factor for dtype, peak in profile.peak_flops_per_second.items()}
    measured = profile.measured
    if measured and measured.matmul_bf16_flops_per_second:
        best = measured.matmul_bf16_flops_per_second * factor
        measured = replace(measured, matmul_bf16_flops_per_second=best)
    return replace(profile, peak_flops_per_second=peaks, measured=measured)


def _with_power(profile: GpuProfile, gpu: LiveGpu) -> GpuProfile:
    """A capped GPU is slower: its peaks are those of the clocks that it keeps."""
    limit, default = gpu.power_limit_watts, gpu.power_default_watts or profile.power_limit_watts
    if limit is None or default is None:
        return profile
    kept = power_slowdown(limit, default)
    slower = profile if kept == 1.0 else _scaled(profile, kept)
    clock = slower.boost_clock_hz
    return replace(slower, power_limit_watts=limit, boost_clock_hz=clock and clock * kept)


def _instance_of(parent: GpuProfile, gpu: LiveGpu) -> GpuProfile:
    """A MIG instance as a small GPU: its multiprocessors, and its share of memory and bandwidth."""
    name = gpu.mig.profile if gpu.mig and gpu.mig.profile else "instance"
    part_of_memory = (gpu.memory_total_bytes or parent.memory_bytes) / parent.memory_bytes
    slices = min(max(round(part_of_memory * MIG_MEMORY_SLICES), 1), MIG_MEMORY_SLICES)
    share = slices / MIG_MEMORY_SLICES
    units = gpu.sm_count / parent.sm_count if gpu.sm_count and parent.sm_count else share
    return replace(
        _scaled(parent, units),
        id=f"{parent.id}-mig-{name.replace('+', '-')}",
        name=f"{parent.name} MIG {name}",
        aliases=(),
        memory_bandwidth_bytes_per_second=parent.memory_bandwidth_bytes_per_second * share,
        l2_bytes=parent.l2_bytes and round(parent.l2_bytes * share),
        link=None,
        gpus_per_node=1,
        price=None,
    )


def _pcie(gpu: LiveGpu) -> Pcie | None:
    rate = pcie_bytes_per_second(gpu)
    return Pcie(gpu.pcie_max_generation, rate) if rate and gpu.pcie_max_generation else None


def joined(
    profiles: Sequence[GpuProfile], gpus: Sequence[LiveGpu], interconnect: Interconnect | None
) -> GpuProfile:
    """One profile for all GPUs of the node: of each rate the smallest, and the link that they have.

    The slowest GPU gives the name; with equal GPUs this is simply their profile.
    """
    slowest = min(profiles, key=_speed)
    peaks = {
        dtype: min(profile.peak_flops_per_second[dtype] for profile in profiles)
        for dtype in slowest.peak_flops_per_second
        if all(dtype in profile.peak_flops_per_second for profile in profiles)
    }
    usable = [one.usable_memory_bytes for one in profiles if one.usable_memory_bytes]
    return replace(
        slowest,
        memory_bytes=min(one.memory_bytes for one in profiles),
        usable_memory_bytes=min(usable) if len(usable) == len(profiles) else None,
        memory_bandwidth_bytes_per_second=min(
            one.memory_bandwidth_bytes_per_second for one in profiles
        ),
        peak_flops_per_second=peaks,
        link=_link(slowest, gpus, interconnect),
        pcie=min(
            (one.pcie for one in profiles if one.pcie),
            key=lambda pcie: pcie.bytes_per_second_per_direction,
            default=None,
        ),
        gpus_per_node=len(gpus),
        power_limit_watts=max(
            (one.power_limit_watts for one in profiles if one.power_limit_watts), default=None
        ),
    )


def _speed(profile: GpuProfile) -> tuple[float, int, str]:
    return profile.peak("bf16") or profile.peak("fp16") or 0.0, profile.memory_bytes, profile.id


def _link(
    profile: GpuProfile, gpus: Sequence[LiveGpu], interconnect: Interconnect | None
) -> Link | None:
    """The NVLink that this machine has, not the one that the board could have."""
    if any(gpu.link_ends is None for gpu in gpus) and not any(gpu.nvlink for gpu in gpus):
        return profile.link if len(gpus) > 1 else None  # it could not be asked
    links = [gpu.nvlink for gpu in gpus if gpu.nvlink and gpu.nvlink.peers]
    if not links or len(links) < len(gpus):
        return None
    reached = min(len(link.peers) for link in links) + 1
    rate = min(link.bytes_per_second_per_direction for link in links)
    known = profile.link
    family = (profile.compute_capability or "").split(".")[0]
    kind = known.kind if known else NVLINK_KINDS.get(family, "nvlink")
    if interconnect and interconnect.kind == "nvswitch":
        topology: Topology = "switch"
        beyond = known.gpus_reached if known and interconnect.fabric else None
        reached = max(reached, beyond or 0)
    else:
        topology = "bridge" if known is None or known.topology == "switch" else known.topology
    latency = known.latency_seconds if known else None
    return Link(kind, topology, rate, reached, latency)
