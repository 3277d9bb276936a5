"""Rules that a GPU's values must obey: what catches a sparse peak, a doubled link, a lost unit.

A rule compares values of one profile with each other or with what the silicon can do
(hardware_profiles/silicon.yaml). It says nothing where the values that it needs are unknown. A
profile that breaks a rule for a reason lists the rule under its `exceptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from planner.hardware.profile import GpuProfile
from planner.hardware.silicon import Yardstick, measure


@dataclass(frozen=True)
class Finding:
    """A value that cannot be right."""

    rule: str
    path: tuple[str, ...]  # the field in the profile's file
    message: str


Found: TypeAlias = Iterator[tuple[tuple[str, ...], str]]  # the field, and what is wrong
Rule: TypeAlias = Callable[[GpuProfile, Yardstick], Found]


def check(profile: GpuProfile) -> Iterator[Finding]:
    """What is not plausible in a profile, its exceptions not yet considered."""
    yardstick = measure(profile)
    for name, rule in RULES.items():
        for path, message in rule(profile, yardstick):
            yield Finding(name, path, message)


def _tensor_rate_per_clock(profile: GpuProfile, yardstick: Yardstick) -> Found:
    expected = yardstick.matrix_flops_per_clock
    if expected is None or profile.sm_count is None or profile.boost_clock_hz is None:
        return
    for dtype in ("bf16", "fp16"):
        peak = profile.peak_flops_per_second.get(dtype)
        if peak is None:
            continue
        per_clock = peak / (profile.sm_count * profile.boost_clock_hz)
        # Boards of one chip differ by a half (A10G) and by their clock's definition; not by two.
        if not 0.45 * expected <= per_clock <= 1.15 * expected:
            sparse = ": is this the sparse peak? Dense is half" if per_clock > expected else ""
            yield ("peak", dtype), _told_per_clock(profile, peak, per_clock, expected) + sparse


def _tensor_to_fp32(profile: GpuProfile, yardstick: Yardstick) -> Found:
    """The same without a clock: matrix units against plain ones."""
    if yardstick.matrix_flops_per_clock is None or yardstick.fp32_flops_per_clock is None:
        return
    expected = yardstick.matrix_flops_per_clock / yardstick.fp32_flops_per_clock
    fp32 = profile.peak_flops_per_second.get("fp32")
    for dtype in ("bf16", "fp16"):
        peak = profile.peak_flops_per_second.get(dtype)
        if peak and fp32 and peak / fp32 > 1.15 * expected:
            message = (
                f"{_tflops(peak)} are {peak / fp32:.1f} times fp32, compute capability "
                f"{profile.compute_capability} has {expected:.0f} times: is this the sparse peak?"
            )
            yield ("peak", dtype), message


def _fp32_rate_per_clock(profile: GpuProfile, yardstick: Yardstick) -> Found:
    expected, fp32 = yardstick.fp32_flops_per_clock, profile.peak_flops_per_second.get("fp32")
    if not (expected and fp32 and profile.sm_count and profile.boost_clock_hz):
        return
    per_clock = fp32 / (profile.sm_count * profile.boost_clock_hz)
    # Sheets of Hopper give fp32 at the highest clock and the matrix peaks at a lower one.
    if not 0.75 * expected <= per_clock <= 1.2 * expected:
        yield ("peak", "fp32"), _told_per_clock(profile, fp32, per_clock, expected)


def _ratio(dtype: str, to: tuple[str, ...], low: float, high: float, told: str) -> Rule:
    """A rule on the ratio of a dtype's peak to the first of `to` that is known."""

    def rule(profile: GpuProfile, _: Yardstick) -> Found:
        peaks = profile.peak_flops_per_second
        base = next((name for name in to if name in peaks), None)
        if dtype not in peaks or base is None:
            return
        ratio = peaks[dtype] / peaks[base]
        if not low <= ratio <= high:
            yield (
                ("peak", dtype),
                f"{_tflops(peaks[dtype])} are {ratio:.2f} times {base}, expected {told}",
            )

    return rule


def _roofline_ridge(profile: GpuProfile, _: Yardstick) -> Found:
    peaks = profile.peak_flops_per_second
    peak = peaks.get("bf16") or peaks.get("fp16")
    if peak is None:
        return
    ridge = peak / profile.memory_bandwidth_bytes_per_second
    # From the shipped profiles: 31 (H20-3e) to 560 (TPU v6e).
    if not 20 <= ridge <= 700:
        message = (
            f"the matrix peak is {ridge:.0f} FLOPs per byte of this bandwidth, expected 20 to 700"
        )
        yield ("memory", "bandwidth"), f"{message}: are the units right?"


def _usable_memory(profile: GpuProfile, _: Yardstick) -> Found:
    usable = profile.usable_memory_bytes
    if usable is not None and not 0.95 <= usable / profile.memory_bytes <= 1:
        yield (
            ("memory", "usable"),
            f"is {usable / profile.memory_bytes:.3f} of the total, expected 0.95 to 1",
        )


def _magnitudes(profile: GpuProfile, _: Yardstick) -> Found:
    """Wide bounds, which a wrong prefix leaves."""
    bounds: tuple[tuple[tuple[str, ...], float | None, float, float, str], ...] = (
        (("memory", "total"), profile.memory_bytes / 2**30, 1, 4096, "GiB"),
        (("memory", "bandwidth"), profile.memory_bandwidth_bytes_per_second / 1e9, 20, 1e5, "GB/s"),
        (("chip", "boost_clock"), _over(profile.boost_clock_hz, 1e6), 300, 5000, "MHz"),
        (("chip", "power_limit"), profile.power_limit_watts, 10, 5000, "W"),
        (("chip", "l2_cache"), _over(profile.l2_bytes, 2**20), 0.25, 4096, "MiB"),
        *(
            (("peak", dtype), peak / 1e12, 0.5, 1e5, "TFLOPS")
            for dtype, peak in profile.peak_flops_per_second.items()
        ),
    )
    for path, value, low, high, unit in bounds:
        if value is not None and not low <= value <= high:
            yield path, f"{value:g} {unit}, expected {low:g} to {high:g} {unit}"


def _link_generation(profile: GpuProfile, yardstick: Yardstick) -> Found:
    link, most = profile.link, yardstick.link_bytes_per_second
    if link is None:
        return
    rate = link.bytes_per_second_per_direction
    if most is not None and rate > 1.01 * most:
        message = f"{rate / 1e9:g} GB/s, but {link.kind} has {most / 1e9:g} per direction at most"
        yield ("link", "rate"), f"{message}: are both directions added up?"
    if rate > profile.memory_bandwidth_bytes_per_second:
        yield ("link", "rate"), f"{rate / 1e9:g} GB/s are more than the memory's bandwidth"


def _pcie_generation(profile: GpuProfile, yardstick: Yardstick) -> Found:
    pcie, whole = profile.pcie, yardstick.pcie_bytes_per_second
    if pcie is None:
        return
    if whole is None:
        yield ("pcie", "generation"), f"{pcie.generation} is not a generation with a known rate"
    elif not any(
        abs(pcie.bytes_per_second_per_direction / (whole * lanes / 16) - 1) <= 0.05
        for lanes in (16, 8, 4)
    ):
        message = (
            f"{pcie.bytes_per_second_per_direction / 1e9:g} GB/s, but generation "
            f"{pcie.generation} has {whole / 1e9:g} per direction with 16 lanes"
        )
        yield ("pcie", "rate"), message


def _measured_matmul(profile: GpuProfile, _: Yardstick) -> Found:
    measured = profile.measured and profile.measured.matmul_bf16_flops_per_second
    peak = profile.peak("bf16")
    # Boards that boost above their sheet's clock exceed it a little (RTX 4090: 1.08).
    if measured and peak and measured > 1.15 * peak:
        yield (
            ("measured", "matmul_bf16"),
            f"{_tflops(measured)} are above the peak of {_tflops(peak)}",
        )


RULES: Mapping[str, Rule] = {
    "magnitudes": _magnitudes,
    "tensor_rate_per_clock": _tensor_rate_per_clock,
    "fp32_rate_per_clock": _fp32_rate_per_clock,
    "tensor_to_fp32": _tensor_to_fp32,
    "fp16_equals_bf16": _ratio("fp16", ("bf16",), 0.98, 1.02, "the same rate"),
    "tf32_ratio": _ratio("tf32", ("bf16", "fp16"), 0.45, 0.55, "half (are both dense?)"),
    "fp8_ratio": _ratio(
        "fp8", ("bf16", "fp16"), 0.95, 2.1, "the same or twice: 4 times is the sparse peak"
    ),
    "int8_ratio": _ratio(
        "int8", ("bf16", "fp16"), 0.95, 2.1, "the same or twice: 4 times is the sparse peak"
    ),
    "fp4_ratio": _ratio("fp4", ("fp8",), 0.95, 2.1, "twice: 4 times is the sparse peak"),
    "roofline_ridge": _roofline_ridge,
    "usable_memory": _usable_memory,
    "link_generation": _link_generation,
    "pcie_generation": _pcie_generation,
    "measured_matmul": _measured_matmul,
}


def _told_per_clock(profile: GpuProfile, peak: float, per_clock: float, expected: float) -> str:
    return (
        f"{_tflops(peak)} are {per_clock:.0f} FLOPs per clock and multiprocessor, compute "
        f"capability {profile.compute_capability} has {expected:.0f}"
    )


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _tflops(flops_per_second: float) -> str:
    return f"{flops_per_second / 1e12:g} TFLOPS"
