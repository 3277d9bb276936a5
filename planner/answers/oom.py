"""An out-of-memory message explained: what was asked for, why it failed, what avoids it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.answers.oom_message import (
    MIDDLE_SEGMENT_BYTES,
    OutOfMemory,
    read_message,
    segment_bytes,
)
from planner.answers.remedies import Remedy, remedies_for
from planner.answers.request import Request
from planner.estimate import Estimate
from planner.memory.allocations import allocations
from planner.memory.weight_allocations import Allocation
from planner.model.spec import ModelSpec

if TYPE_CHECKING:
    from planner.answers.fit import Target

# So many tensors are named.
MOST_NAMED = 3
# Where what is allocated differs by more from what is predicted then, the run is another one, or
# holds what the planner does not know of; and where a GPU's memory does, it is another GPU.
FAR_FRACTION = 0.15


@dataclass(frozen=True)
class Candidate:
    """A tensor that may have been asked for; allocated_bytes: what is predicted to be allocated
    before it, the library's workspace included."""

    allocation: Allocation
    allocated_bytes: float


@dataclass(frozen=True)
class OomAnswer:
    """candidates: tensors of this size, the likeliest first; none: no tensor has it.

    small          the size is a segment that any small tensor takes, and says nothing of it
    fragmentation  reserved but unallocated memory would have held it; None: not said
    far            what was allocated is far from what is predicted at the likeliest moment
    other_gpu      the message's GPU has another memory than the one that is asked about
    changes        after which the peak is lower by what was missing, cheapest in time first
    """

    message: OutOfMemory
    candidates: tuple[Candidate, ...]
    small: bool
    fragmentation: bool | None
    far: bool
    other_gpu: bool
    changes: tuple[Remedy, ...]

    @property
    def change(self) -> Remedy | None:
        """The cheapest: first of those that keep the training as it is."""
        return self.changes[0] if self.changes else None


def explain(
    text: str, model: ModelSpec, request: Request, target: Target, e: Estimate
) -> OomAnswer:
    """The explanation of a message from a run of the estimated layout."""
    message = read_message(text)
    found = likeliest(message, e)
    nearest = found[0].allocated_bytes if found else e.memory.peak_allocated_bytes
    far = (
        message.allocated is not None
        and abs(message.allocated - nearest) > FAR_FRACTION * message.allocated
    )
    return OomAnswer(
        message,
        found,
        small=message.tried <= MIDDLE_SEGMENT_BYTES,
        fragmentation=_fragmentation(message),
        far=far,
        other_gpu=message.capacity is not None
        and abs(message.capacity - e.memory.capacity_bytes) > FAR_FRACTION * message.capacity,
        changes=remedies_for(model, request, target, e, _limit(message, e)),
    )


def _limit(message: OutOfMemory, e: Estimate) -> float:
    """The peak below which the run would not have failed."""
    missing = message.tried if message.missing is None else message.missing
    return min(e.memory.peak_bytes - missing, e.memory.available_bytes)


def _fragmentation(message: OutOfMemory) -> bool | None:
    if message.free is None or message.unallocated is None:
        return None
    return message.tried <= message.free + message.unallocated


def likeliest(message: OutOfMemory, e: Estimate) -> tuple[Candidate, ...]:
    """Tensors of the size that was tried, nearest to what was allocated; each named once."""
    workspace = e.memory.library_workspace_bytes
    of_size = [
        one
        for one in allocations(e.model, e.recipe, e.layout, e.memory.peak_stage)
        if abs(segment_bytes(one.bytes) - message.tried) <= message.tolerance
    ]
    allocated = message.allocated
    if allocated is None:  # the failure is where the most is asked for
        candidates = [Candidate(one, one.most + workspace) for one in of_size]
        candidates.sort(key=lambda c: -c.allocated_bytes)
    else:
        candidates = [
            Candidate(one, _nearest(allocated, one.least + workspace, one.most + workspace))
            for one in of_size
        ]
        candidates.sort(key=lambda c: abs(c.allocated_bytes - allocated))
    return tuple(_named_once(candidates))[:MOST_NAMED]


def _nearest(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _named_once(candidates: Iterable[Candidate]) -> Iterable[Candidate]:
    seen: set[tuple[str, str]] = set()
    for candidate in candidates:
        key = (candidate.allocation.phase, candidate.allocation.tensor)
        if key not in seen:
            seen.add(key)
            yield candidate
