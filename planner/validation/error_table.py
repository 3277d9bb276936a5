"""planner/validation/errors.json: the measured error of the time and memory that answers state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from planner.validation.predict import MEMORY_METRICS, Compared
from planner.validation.statistics import grouped, percentile

# Digits that are kept: an error of errors is not known better, and machines differ beyond.
DIGITS = 3


def error_table(rows: Sequence[Compared]) -> dict[str, object]:
    """p90 of the absolute error on grade a rows, by stack; each source weighs the same."""
    judged = [r for r in rows if r.run.grade == "a"]
    return {
        "schema_version": 1,
        "what": "90th percentile of |predicted / measured - 1| on grade a rows, mean over sources",
        "time": _kind(judged, time_error_of),
        "memory": _kind(judged, memory_error_of),
    }


def as_text(table: Mapping[str, object]) -> str:
    return json.dumps(table, indent=2) + "\n"


def time_error_of(row: Compared) -> float | None:
    """Of the step time; from tokens/s where the row has no time."""
    if "step_seconds" in row.error:
        return row.error["step_seconds"]
    if "tokens_per_second_per_gpu" in row.error:
        return 1 / (1 + row.error["tokens_per_second_per_gpu"]) - 1
    return None


def memory_error_of(row: Compared) -> float | None:
    """Of the peak that the row has; allocated before reserved before the device's."""
    return next((row.error[m] for m in MEMORY_METRICS if m in row.error), None)


def _kind(
    rows: Sequence[Compared], error_of: Callable[[Compared], float | None]
) -> dict[str, object]:
    used = [r for r in rows if error_of(r) is not None]
    by_stack = grouped(used, lambda r: r.run.stack or "")
    return {
        "overall": _figure(used, error_of),
        "by_stack": {
            name: _figure(members, error_of) for name, members in sorted(by_stack.items())
        },
    }


def _figure(rows: Sequence[Compared], error_of: Callable[[Compared], float | None]) -> float | None:
    sources = [
        percentile([abs(e) for r in members if (e := error_of(r)) is not None], 0.9)
        for members in grouped(rows, lambda r: r.run.group).values()
    ]
    return round(fmean(sources), DIGITS) if sources else None
