"""The allocator's slack as the measured runs have it: the fitted constants of training.stacks.

Slack is what torch's allocator has reserved at the peak beside what is allocated, over what is
allocated. Runs that report no allocated peak are held against the predicted one, so that an error
of the model is in their slack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from planner.validation.predict import Compared
from planner.validation.statistics import grouped

JUDGED = ("a", "b")


@dataclass(frozen=True)
class SlackRow:
    """One stack and source. used: what is predicted; without: fitted without this source (mean of
    the other sources' medians; None where there is no other)."""

    stack: str
    source: str
    rows: int
    measured: float
    used: float
    without: float | None


def slack_rows(rows: Sequence[Compared]) -> tuple[SlackRow, ...]:
    found: list[SlackRow] = []
    usable = [r for r in rows if r.run.grade in JUDGED and _measured(r) is not None]
    for stack, members in sorted(grouped(usable, stack_of).items()):
        sources = {
            source: [m for r in own if (m := _measured(r)) is not None]
            for source, own in grouped(members, lambda r: r.run.group).items()
        }
        used = {
            source: median(_predicted(r) for r in own)
            for source, own in grouped(members, lambda r: r.run.group).items()
        }
        for source, slacks in sorted(sources.items()):
            others = [median(s) for name, s in sources.items() if name != source]
            found.append(
                SlackRow(
                    stack,
                    source,
                    len(slacks),
                    median(slacks),
                    used[source],
                    fmean(others) if others else None,
                )
            )
    return tuple(found)


def stack_of(row: Compared) -> str:
    """The stack that was planned for, where it is not the column's."""
    for note in row.assumptions:
        if note.startswith("stack "):
            return note.split()[1].rstrip(":")
    return row.run.stack or ""


def _measured(row: Compared) -> float | None:
    """Measured reserved over allocated, less one; the allocated is predicted if not measured."""
    allocated = row.measured["peak_allocated_bytes"] or row.predicted["peak_allocated_bytes"]
    reserved = row.measured["peak_reserved_bytes"]
    device, beside = row.measured["peak_bytes"], _beside_allocator(row)
    if reserved is None and isinstance(device, float) and beside is not None:
        reserved = device - beside
    if not isinstance(allocated, float) or not isinstance(reserved, float):
        return None
    return reserved / allocated - 1


def _beside_allocator(row: Compared) -> float | None:
    """Context and communicators."""
    device, reserved = row.predicted["peak_bytes"], row.predicted["peak_reserved_bytes"]
    if isinstance(device, float) and isinstance(reserved, float):
        return device - reserved
    return None


def _predicted(row: Compared) -> float:
    allocated, reserved = (
        row.predicted["peak_allocated_bytes"],
        row.predicted["peak_reserved_bytes"],
    )
    assert isinstance(allocated, float)
    assert isinstance(reserved, float)
    return reserved / allocated - 1
