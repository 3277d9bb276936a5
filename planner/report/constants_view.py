"""What is known of the time model's constants on one GPU, as rows of text and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planner.hardware.kernel_constants import KernelConstants, Quality
from planner.hardware.kernel_files import KINDS

KERNEL_TITLE = (
    "Time model: kernels (measured on this GPU, borrowed from one of its generation, or assumed "
    "from all)"
)
STEP_TITLE = "Time model: what kernels alone cannot give (fitted on runs of all GPUs)"
KERNEL_COLUMNS = ("kernel", "how known", "shapes", "held-out median", "p90", "source")
STEP_COLUMNS = ("of a step", "how known", "value", "looked for in")


def kernel_data(constants: KernelConstants) -> list[dict[str, Any]]:
    """Every kernel that a step needs, with how well its constants describe held-out shapes."""
    return [
        {
            "kernel": f"{kind} {key}",
            "evidence": quality.evidence,
            "shapes": quality.shapes,
            "held_out": quality.held_out,
            "median_error": quality.median_error,
            "p90_error": quality.p90_error,
            "source": quality.source,
        }
        for kind, key, quality in _qualities(constants)
    ]


def kernel_rows(constants: KernelConstants) -> list[tuple[str, ...]]:
    """The same as rows of KERNEL_COLUMNS."""
    return [
        (
            f"{kind} {key}",
            quality.evidence,
            str(quality.shapes or "-"),
            _percent(quality.median_error),
            _percent(quality.p90_error),
            quality.source,
        )
        for kind, key, quality in _qualities(constants)
    ]


def step_rows(table: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What kernels alone cannot give, as rows of STEP_COLUMNS.

    >>> step_rows({"interference": {"value": 0.5, "evidence": "fitted", "range": [0.0, 1.0]}})
    [('interference', 'fitted', '0.5', '0 to 1')]
    """
    return [
        (name.replace("_", " "), evidence, f"{value:g}", f"{low:g} to {high:g}")
        for constant, row in table.items()
        for name, evidence, value, (low, high) in _single(constant, row)
    ]


def _single(name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str, float, list[float]]]:
    value, evidence, searched = row["value"], row["evidence"], row["range"]
    if not isinstance(value, Mapping):
        yield name, evidence, value, searched
        return
    for of, one in value.items():
        yield f"{name} {of}", evidence[of], one, searched[of]


def _qualities(constants: KernelConstants) -> Iterator[tuple[str, str, Quality]]:
    for kind in KINDS:
        for key, one in getattr(constants, kind).items():
            yield kind, key, one.quality


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
