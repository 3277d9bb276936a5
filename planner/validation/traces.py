"""Predicted beside traced training steps: the peak, its parts, and the saved activations.

The cases ship with the planner (planner/validation/data/traces): real models' steps on fake
tensors, every storage counted. None of their numbers was made by the planner.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.resources import package_file
from planner.validation.statistics import Summary, grouped, summary_of
from planner.validation.trace_compare import PARTS
from planner.validation.traced import TracedCase, case_of, predicted, predicted_saved_bytes

FILES = (
    "validation/data/traces/memory_visible.json.gz",
    "validation/data/traces/memory_sharded_visible.json.gz",
)


@dataclass(frozen=True)
class TracedRow:
    """peak, saved: predicted / traced - 1. parts: the difference over the traced peak."""

    id: str
    family: str
    stack: str
    peak: float
    saved: float | None
    parts: Mapping[str, float]


def shipped_cases() -> Iterator[TracedCase]:
    for name in FILES:
        rows: list[Mapping[str, Any]] = json.loads(gzip.decompress(package_file(name).read_bytes()))
        yield from map(case_of, rows)


def compare_traces(cases: Iterator[TracedCase]) -> tuple[TracedRow, ...]:
    return tuple(map(_compare, cases))


def _compare(case: TracedCase) -> TracedRow:
    found = predicted(case)
    traced = case.result.get("saved_for_backward")
    saved = None if not traced else predicted_saved_bytes(case) / traced - 1
    parts: dict[str, float] = {}
    same_moment = case.result.get("peak_phase") == found.phase
    if case.on_gpu and same_moment:
        peak = case.result["peak"]
        moment = max(found.rows, key=lambda row: float(row.total))
        for name, (ours, theirs) in PARTS.items():
            mine = sum(float(moment.parts.get(part, 0)) for part in ours)
            parts[name] = (mine - sum(peak.get(part, 0) for part in theirs)) / case.peak_bytes
    return TracedRow(
        case.id,
        case.model.model_type,
        case.layout.stack,
        float(found.allocated_bytes) / case.peak_bytes - 1,
        saved,
        parts,
    )


def by_stack(rows: Sequence[TracedRow]) -> dict[str, Summary]:
    return _peaks(grouped(rows, lambda r: r.stack))


def by_family(rows: Sequence[TracedRow]) -> dict[str, Summary]:
    return _peaks(grouped(rows, lambda r: r.family))


def _peaks(groups: Mapping[str, Sequence[TracedRow]]) -> dict[str, Summary]:
    return {
        name: found
        for name, members in sorted(groups.items())
        if (found := summary_of(row.peak for row in members))
    }


def saved_by_family(rows: Sequence[TracedRow]) -> dict[str, Summary]:
    """Saved activations at the end of the forward pass."""
    with_saved = [row for row in rows if row.saved is not None]
    return {
        name: found
        for name, members in sorted(grouped(with_saved, lambda r: r.family).items())
        if (found := summary_of(row.saved for row in members if row.saved is not None))
    }


def part_errors(rows: Sequence[TracedRow]) -> dict[str, Summary]:
    """Of each part, over the traced peak."""
    return {
        name: found
        for name in PARTS
        if (found := summary_of(row.parts[name] for row in rows if name in row.parts))
    }
