"""An out-of-memory message explained: the only place for the wording, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.answers.oom import OomAnswer
from planner.answers.oom_message import OutOfMemory
from planner.answers.remedies import Remedy
from planner.units import format_memory

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


def oom_sentences(answer: OomAnswer) -> Iterator[str]:
    """What was asked for, why it failed, and the cheapest change that avoids it."""
    message = answer.message
    yield f"Out of memory: {_asked_for(answer)}"
    if answer.other_gpu and message.capacity is not None:
        yield (
            f"The message is from a GPU of {format_memory(message.capacity)}: this answer is for "
            "another (--gpu)."
        )
    if answer.candidates and message.allocated is not None:
        yield _then(answer)
    yield _why(answer)
    change = answer.change
    if change is None:
        yield "No single change that the planner knows lowers the peak enough."
        return
    kept = "same training" if change.same_training else "changes training"
    yield (
        f"Cheapest change: {change.change}: peak {format_memory(change.peak_bytes)}, time per "
        f"token x {change.step_seconds_ratio:.2f}, {kept}."
    )
    others = "; ".join(one.change for one in answer.changes[1:4])
    if others:
        yield f"Also: {others}."


def _asked_for(answer: OomAnswer) -> str:
    tried = format_memory(answer.message.tried)
    if answer.small:
        return (
            f"{tried} is a segment that any small tensor takes: which one it was says nothing, the "
            "GPU was full before it."
        )
    if not answer.candidates:
        return (
            f"no tensor of this step is {tried}: the run differs from what is described here, or "
            "it was allocated outside the step."
        )
    first, *others = (
        f"{c.allocation.tensor} ({c.allocation.phase}, {c.allocation.where})"
        for c in answer.candidates
    )
    also = f"; as large: {'; '.join(others)}" if others else ""
    return f"{tried} was asked for {first}{also}."


def _then(answer: OomAnswer) -> str:
    message, expected = answer.message, answer.candidates[0].allocated_bytes
    assert message.allocated is not None
    told = (
        f"Allocated then: {format_memory(message.allocated)}, predicted {format_memory(expected)}"
    )
    if answer.far:
        return f"{told}: far apart, so the run differs from what is described here."
    return f"{told}."


def _why(answer: OomAnswer) -> str:
    message = answer.message
    if answer.fragmentation is None:
        return "The message does not say whether fragmentation is the cause."
    assert message.unallocated is not None
    unallocated = format_memory(message.unallocated)
    if answer.fragmentation:
        return (
            f"Fragmentation is the cause: {unallocated} was reserved but unallocated, in pieces; "
            f"try {EXPANDABLE} first."
        )
    missing = format_memory(max(_missing_in_all(message), 0.0))
    return (
        f"Fragmentation is not the cause: with all {unallocated} of reserved but unallocated "
        f"memory {missing} would still be missing{_others(message)}."
    )


def _missing_in_all(message: OutOfMemory) -> float:
    return message.tried - (message.free or 0.0) - (message.unallocated or 0.0)


def _others(message: OutOfMemory) -> str:
    if message.others is None:
        return ""
    return (
        f"; {format_memory(message.others)} is CUDA's context, communication buffers and other "
        "programs"
    )


def remedy_json(remedy: Remedy) -> dict[str, Any]:
    return {
        "change": remedy.change,
        "same_training": remedy.same_training,
        "peak_bytes": round(remedy.peak_bytes),
        "verdict": remedy.verdict,
        "step_seconds_ratio": remedy.step_seconds_ratio,
    }


def oom_json(answer: OomAnswer) -> dict[str, Any]:
    """What the message says, the tensors, and the changes; unknown is null."""
    message = answer.message

    def whole(value: float | None) -> int | None:
        return None if value is None else round(value)

    return {
        "tried_bytes": whole(message.tried),
        "capacity_bytes": whole(message.capacity),
        "free_bytes": whole(message.free),
        "allocated_bytes": whole(message.allocated),
        "reserved_unallocated_bytes": whole(message.unallocated),
        "other_bytes": whole(message.others),
        "missing_bytes": whole(message.missing),
        "small_segment": answer.small,
        "tensors": [
            {
                "tensor": c.allocation.tensor,
                "group": c.allocation.group,
                "phase": c.allocation.phase,
                "where": c.allocation.where,
                "bytes": whole(c.allocation.bytes),
                "predicted_allocated_bytes": whole(c.allocated_bytes),
            }
            for c in answer.candidates
        ],
        "fragmentation": answer.fragmentation,
        "far_from_prediction": answer.far,
        "change": None if answer.change is None else remedy_json(answer.change),
        "changes": [remedy_json(change) for change in answer.changes],
        "explanation": list(oom_sentences(answer)),
    }
