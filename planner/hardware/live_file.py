"""A live profile as a YAML file, which `--gpu FILE` takes on any other machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from planner.hardware.plausibility import check
from planner.hardware.profile import GpuProfile

BYTES_PER_MIB = 2**20
# How a quantity is written: its unit, and how many base units that is.
_DIGITS = 9


def to_yaml(profile: GpuProfile, driver_version: str | None, day: date) -> str:
    """The file's text: the units stand in it, and the source says where it was read, and when."""
    driver = driver_version or "unknown"
    comment = (
        f"# Read from this machine's GPUs by `planner hardware live --save`, {day.isoformat()}.\n"
        f"# Driver {driver}. Memory, multiprocessors, power limit, PCIe and NVLink are as found;\n"
        "# a power cap lowers the peaks. Use it with --gpu FILE.\n"
    )
    read = f"NVML, driver {driver}, {day.isoformat()}"
    content = {
        "id": profile.id,
        "name": profile.name,
        "vendor": profile.vendor,
        "architecture": profile.architecture,
        "compute_capability": profile.compute_capability,
        "released": profile.released,
        "nvml_names": list(profile.nvml_names),
        "memory": {
            "kind": profile.memory_kind,
            "total": _in(profile.memory_bytes, BYTES_PER_MIB, "MiB"),
            "usable": _in(profile.usable_memory_bytes, BYTES_PER_MIB, "MiB"),
            "bandwidth": _in(profile.memory_bandwidth_bytes_per_second, 1e9, "GB/s"),
        },
        "peak": {
            dtype: _in(peak, 1e12, "TFLOPS")
            for dtype, peak in profile.peak_flops_per_second.items()
        },
        "chip": {
            "multiprocessors": profile.sm_count,
            "l2_cache": _in(profile.l2_bytes, BYTES_PER_MIB, "MiB"),
            "boost_clock": _in(profile.boost_clock_hz, 1e6, "MHz"),
            "power_limit": _in(profile.power_limit_watts, 1.0, "W"),
        },
        "link": _link(profile),
        "pcie": profile.pcie
        and {
            "generation": profile.pcie.generation,
            "rate": _in(profile.pcie.bytes_per_second_per_direction, 1e9, "GB/s"),
        },
        "node": {
            "gpus": profile.gpus_per_node,
            "network": _in(profile.network_bytes_per_second, 1e9, "GB/s"),
        },
        "price": profile.price and _filled(vars(profile.price)),
        "measured": profile.measured
        and {
            "matmul_bf16": _in(profile.measured.matmul_bf16_flops_per_second, 1e12, "TFLOPS"),
            "how": profile.measured.how,
            "others": profile.measured.others,
        },
        "sources": {
            **{
                source.group: {
                    "seen": source.seen,
                    "references": list(source.references),
                    "note": source.note,
                }
                for source in profile.sources
            },
            "chip": {"seen": "read", "references": [read]},
        },
        "exceptions": _exceptions(profile),
        "notes": list(profile.notes),
    }
    return comment + "".join(_lines(_filled(content)))


def _in(value: float | None, unit: float, name: str) -> str | None:
    """ "81559 MiB": with all digits that count, and none of floating point.

    >>> _in(85520809984, 2**20, "MiB"), _in(1.5e12, 1e9, "GB/s")
    ('81559 MiB', '1500 GB/s')
    """
    if value is None:
        return None
    number = f"{value / unit:.{_DIGITS}f}".rstrip("0").rstrip(".")
    return f"{number} {name}"


def _link(profile: GpuProfile) -> dict[str, Any] | None:
    link = profile.link
    if link is None:
        return None
    return {
        "kind": link.kind,
        "topology": link.topology,
        "rate": _in(link.bytes_per_second_per_direction, 1e9, "GB/s"),
        "gpus_reached": link.gpus_reached,
        "latency": _in(link.latency_seconds, 1e-6, "us"),
    }


def _exceptions(profile: GpuProfile) -> list[dict[str, str]]:
    """The rules that the machine as it is breaks: what is there is there."""
    kept = {exemption.rule: exemption.reason for exemption in profile.exceptions}
    for finding in check(profile):
        kept.setdefault(finding.rule, "as found in the machine")
    return [{"rule": rule, "reason": reason} for rule, reason in kept.items()]


def _filled(content: Any) -> Any:
    """Without what is unknown: in a profile that is left out."""
    if not isinstance(content, dict):
        return content
    filled = {key: _filled(value) for key, value in content.items()}
    return {key: value for key, value in filled.items() if value not in (None, {}, [])}


def _lines(content: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """YAML: mappings over lines; scalars and lists as JSON has them, which YAML reads alike."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:\n"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n"
