"""What a chip of a compute capability can do, also of one that does not exist yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from planner.documents import load
from planner.hardware.quantities import RATE, read
from planner.hardware.silicon import Silicon
from planner.resources import HARDWARE_PROFILES, shipped_folder
from planner.schema import PositiveFloat, PositiveInt, build

_FILE = Path(__file__).with_name("data") / "live_silicon.yaml"
# Of the line rate since Hopper: 25 of 26.5625 GB/s, 50 of 53.125 (data/live_silicon.yaml).
NVLINK_PAYLOAD_FRACTION = 16 / 17
FLOPS_PER_CORE_AND_CLOCK = 2  # one fused multiply-add
FIRST_WITH_MATRIX_UNITS = 7.0


@dataclass(frozen=True)
class Chip:
    """One entry of data/live_silicon.yaml."""

    architecture: str
    cores: PositiveInt
    nvlink: str | None = None
    units: dict[str, PositiveFloat] = field(default_factory=dict)
    full: dict[str, PositiveFloat] = field(default_factory=dict)


@dataclass(frozen=True)
class ChipFile:
    """data/live_silicon.yaml."""

    capabilities: dict[str, Chip]


def nearest(capability: str, known: Iterable[str]) -> str:
    """The capability itself, or the known one whose number is closest.

    >>> nearest("11.0", ["9.0", "10.3", "12.0"])
    '10.3'
    """
    return min(known, key=lambda one: (abs(float(one) - float(capability)), one))


def chip_of(capability: str) -> Chip:
    """The chip of this capability or the nearest known one."""
    chips = _chips()
    return chips[nearest(capability, chips)]


def nvlink_bytes_per_second(
    capability: str | None, line_bytes_per_second: float | None = None
) -> float | None:
    """Payload of one NVLink and direction.

    `line_bytes_per_second`: the line rate that NVML gives, which decides for a capability that is
    not known yet; without it the nearest known one's rate does.

    >>> nvlink_bytes_per_second("9.0", 26.562e9)
    25000000000.0
    """
    rates = _nvlink_rates()
    if capability is None:
        return None
    if capability not in rates and line_bytes_per_second:
        return line_bytes_per_second * NVLINK_PAYLOAD_FRACTION
    return rates[nearest(capability, rates)]


def peaks_per_clock(name: str, capability: str) -> dict[str, float]:
    """Dense FLOPs per clock and multiprocessor by dtype, accumulated in fp32.

    >>> peaks_per_clock("NVIDIA GeForce RTX 4090", "8.9")["bf16"]
    512.0
    """
    chip = chip_of(capability)
    rates = _silicon().compute_capabilities
    numbered = [one for one in rates if one[0].isdigit()]
    known = rates[nearest(capability, numbered)]
    peaks: dict[str, float] = {"fp32": float(chip.cores * FLOPS_PER_CORE_AND_CLOCK)}
    if float(capability) >= FIRST_WITH_MATRIX_UNITS:
        peaks |= {dtype: known.matrix_rate(name) * ratio for dtype, ratio in chip.units.items()}
        peaks |= {dtype: known.matrix * ratio for dtype, ratio in chip.full.items()}
    return peaks


@cache
def _chips() -> Mapping[str, Chip]:
    return build(ChipFile, load(_FILE)).capabilities


@cache
def _nvlink_rates() -> Mapping[str, float]:
    document = load(_FILE)
    return {
        capability: read(document, RATE, chip.nvlink, "capabilities", capability, "nvlink")
        for capability, chip in build(ChipFile, document).capabilities.items()
        if chip.nvlink is not None
    }


@cache
def _silicon() -> Silicon:
    return build(Silicon, load(shipped_folder(HARDWARE_PROFILES) / "silicon.yaml"))
