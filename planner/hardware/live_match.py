"""Which profile a GPU has: one of the library's, or one derived from what NVML says of the chip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from planner.hardware.live_silicon import chip_of, peaks_per_clock
from planner.hardware.live_types import LiveGpu
from planner.hardware.profile import GpuProfile, Source

# Older drivers show up to 2 % less for the same board; another board differs by more.
MEMORY_TOLERANCE = 0.03
MEMORY_TRANSFERS_PER_CLOCK = 2  # NVML's memory clock is half the data rate of every kind so far
UNKNOWN_CAPABILITY = "9.0"  # for a driver that does not even say the capability
NAME_LENGTH = 60  # of a profile's id


def match(gpu: LiveGpu, profiles: Sequence[GpuProfile]) -> GpuProfile | None:
    """The library's profile of this board: same whole name, capability and memory.

    Of a MIG instance it is the profile of its parent, whose memory is not its own.
    """
    if gpu.name is None:
        return None
    wanted = plain_name(gpu.name)
    found = [
        profile
        for profile in profiles
        if any(plain_name(name) == wanted for name in profile.nvml_names)
        and (gpu.compute_capability or profile.compute_capability) == profile.compute_capability
        and (gpu.mig is not None or _memory_apart(gpu, profile) <= MEMORY_TOLERANCE)
    ]
    return min(found, key=lambda profile: _memory_apart(gpu, profile), default=None)


def plain_name(name: str) -> str:
    """A board's name without what drivers add or leave out.

    >>> plain_name("NVIDIA A100-SXM4-40GB MIG 1g.5gb") == plain_name("A100-SXM4-40GB")
    True
    """
    board = re.split(r"\s+MIG\s+", name, maxsplit=1)[0]
    return re.sub(r"^nvidia\s+", "", " ".join(board.split()).casefold())


def _memory_apart(gpu: LiveGpu, profile: GpuProfile) -> float:
    if gpu.memory_total_bytes is None:
        return 1.0
    return abs(gpu.memory_total_bytes / profile.memory_bytes - 1)


def made_id(gpu: LiveGpu) -> str:
    """An id from NVML's name.

    >>> made_id(LiveGpu(0, "ok", name="NVIDIA X900 (rev. 2) MIG 1g.5gb"))
    'nvidia-x900-rev.-2'
    """
    board = re.split(r"\s+MIG\s+", gpu.name or "unknown gpu", maxsplit=1)[0]
    made = re.sub(r"[^a-z0-9.]+", "-", board.lower()).strip("-.")
    return made[:NAME_LENGTH] or "unknown-gpu"


def identified(gpu: LiveGpu, profiles: Sequence[GpuProfile]) -> LiveGpu:
    """The GPU with the name and origin of its profile, and its multiprocessors counted."""
    if gpu.memory_total_bytes is None and not gpu.mig:
        return gpu  # broken: nothing to tell a profile by
    matched = match(gpu, profiles)
    sm_count = gpu.sm_count
    if sm_count is None and gpu.cores is not None and gpu.compute_capability is not None:
        sm_count = gpu.cores // chip_of(gpu.compute_capability).cores
    if sm_count is None and matched is not None and not gpu.mig:
        sm_count = matched.sm_count
    return replace(
        gpu,
        profile=made_id(gpu) if matched is None else matched.id,
        profile_source="derived" if matched is None or gpu.mig else "matched",
        sm_count=sm_count,
    )


def derive(gpu: LiveGpu, profiles: Sequence[GpuProfile]) -> GpuProfile:
    """A profile for a board that the library does not know.

    peak = multiprocessors x highest clock x FLOPs per clock of the capability (or the nearest known
    one); bandwidth = memory clock x 2 x bus width / 8. What NVML does not say (a driver before 510)
    is taken from the library's board of the nearest capability and memory.
    """
    capability = gpu.compute_capability or UNKNOWN_CAPABILITY
    base = _nearest_board(gpu, capability, profiles)
    clock_hz = _clock_hz(gpu) or base.boost_clock_hz
    sm_count = gpu.sm_count or base.sm_count
    name = gpu.name or "unknown GPU"
    peaks = dict(base.peak_flops_per_second)
    if clock_hz and sm_count:
        rates = peaks_per_clock(name, capability)
        peaks = {dtype: rate * sm_count * clock_hz for dtype, rate in rates.items()}
    return GpuProfile(
        id=made_id(gpu),
        name=name,
        vendor="nvidia",
        architecture=chip_of(capability).architecture,
        memory_kind=base.memory_kind,
        memory_bytes=gpu.memory_total_bytes or base.memory_bytes,
        memory_bandwidth_bytes_per_second=_bandwidth(gpu) or _bandwidth_like(gpu, base),
        peak_flops_per_second=peaks,
        compute_capability=capability,
        nvml_names=(name,),
        sm_count=sm_count,
        l2_bytes=base.l2_bytes,
        boost_clock_hz=clock_hz,
        power_limit_watts=gpu.power_default_watts or gpu.power_limit_watts,
        sources=(
            Source(
                "identity",
                "read",
                ("NVML of this machine",),
                f"derived from clocks and units; what is missing is {base.id}'s",
            ),
        ),
        notes=(f"Derived: the library has no profile of this board; nearest is {base.id}.",),
    )


def _nearest_board(gpu: LiveGpu, capability: str, profiles: Sequence[GpuProfile]) -> GpuProfile:
    nvidia = [one for one in profiles if one.vendor == "nvidia" and one.compute_capability]
    memory = gpu.memory_total_bytes or 0
    return min(
        nvidia,
        key=lambda one: (
            abs(float(one.compute_capability or 0) - float(capability)),
            abs(one.memory_bytes - memory),
            one.id,
        ),
    )


def _clock_hz(gpu: LiveGpu) -> float | None:
    return gpu.clocks.sm_max_mhz * 1e6 if gpu.clocks and gpu.clocks.sm_max_mhz else None


def _bandwidth(gpu: LiveGpu) -> float | None:
    if not gpu.clocks or not gpu.clocks.memory_max_mhz or not gpu.memory_bus_width_bits:
        return None
    transfers = gpu.clocks.memory_max_mhz * 1e6 * MEMORY_TRANSFERS_PER_CLOCK
    return transfers * gpu.memory_bus_width_bits / 8


def _bandwidth_like(gpu: LiveGpu, board: GpuProfile) -> float:
    """A known board's; of a MIG instance its share by memory."""
    share = min((gpu.memory_total_bytes or 0) / board.memory_bytes, 1.0) if gpu.mig else 1.0
    return board.memory_bandwidth_bytes_per_second * (share or 1.0)
