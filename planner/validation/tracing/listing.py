"""The storages that are live at a moment of a traced step, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from planner.units import BYTES_PER_GIB
from planner.validation.tracing.step import StepTrace
from planner.validation.tracing.storage import Storage


def dump(step: StepTrace, what: str, full: bool, limit: int) -> Iterator[str]:
    """The live storages of a moment; saved: what autograd held after the first forward pass.

    what: peak, forward, backward or optimizer (their highest moments), after_forward,
    after_backward, saved, or an operator such as _log_softmax. Equal storages of equal layers are
    one line, times their number; `full` gives a line each.
    """
    if what == "saved" and step.saved:
        yield "held by autograd at the end of the first forward pass:"
        yield from listing(step.saved, full, limit)
        return
    moment = step.moment("after_forward" if what == "saved" else what)
    total = step.tracker.by_category(moment)["Total"]
    yield f"{total} bytes after {moment.phase}: {moment.operator}; {moment.module or '-'}"
    yield from listing(step.tracker.live(moment), full, limit)


def merged(storages: Iterable[Storage], full: bool = False) -> list[tuple[int, int, Storage]]:
    """(times, bytes in all, one of them), largest first; equal ones merged unless `full`."""
    groups: dict[object, list[Storage]] = {}
    for number, storage in enumerate(storages):
        groups.setdefault(number if full else storage.key(), []).append(storage)
    rows = [(len(group), sum(s.bytes for s in group), group[0]) for group in groups.values()]
    return sorted(rows, key=lambda row: -row[1])


def listing(storages: list[Storage], full: bool, limit: int) -> Iterator[str]:
    """The table of the storages of a moment, as lines."""
    total = sum(s.bytes for s in storages)
    yield f"{len(storages)} storages, {total} bytes ({total / BYTES_PER_GIB:.3f} GiB)"
    yield "times          bytes  category    dtype     shape; made by; module; saved by"
    for times, size, one in merged(storages, full)[:limit]:
        shape = "x".join(map(str, one.shape)) or "?"
        savers = f"; saved by {', '.join(one.savers)}" if one.savers else ""
        made = f"{one.phase}: {one.operator or 'before the step'}; {one.module or '-'}"
        yield f"{times:5d} {size:14d}  {one.category:10s}  {one.dtype:8s}  {shape}; {made}{savers}"
