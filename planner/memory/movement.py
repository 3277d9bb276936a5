"""What the steps of a tape move through memory, and how many kernels they start: for the time."""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.sizes import ZERO, Size, plus
from planner.memory.tape import PRODUCTS, VIEWS, Step

# Steps that other GPUs answer: priced as collectives.
EXCHANGES = ("all_gather", "reduce_scatter", "all_to_all")
# What one dispatcher does and another does not: priced with the experts.
SORTS = ("sort_chunks",)
_NO_MOVEMENT = (*VIEWS, *PRODUCTS, *EXCHANGES, *SORTS)


def moved_forward(steps: Iterable[Step]) -> Size:
    """Bytes through memory of the elementwise steps; a temporary is written and read."""
    moved = [ZERO]
    for step in _elementwise(steps):
        moved += [v.storage.size for v in (*step.inputs, *step.outputs)]
        moved += [step.forward_scratch, step.forward_scratch]
    return plus(*moved)


def moved_backward(steps: Iterable[Step]) -> Size:
    """The same of their backward passes: gradients, and what was kept for them."""
    moved = [ZERO]
    for step in _elementwise(steps):
        moved += [v.storage.size for v in step.outputs]
        moved += [
            v.storage.size
            for v, rule in zip(step.inputs, step.gradients, strict=True)
            if rule == "new" and v.requires_grad
        ]
        moved += [s.size for s in step.saves]
        moved += [step.backward_scratch, step.backward_scratch]
    return plus(*moved)


def launches(steps: Iterable[Step]) -> tuple[int, int]:
    """Kernels started, forward and backward: one a step, then one per gradient that is made."""
    forward = backward = 0
    for step in steps:
        if step.name in VIEWS:
            continue
        forward += 1
        backward += sum(rule == "new" for rule in step.gradients) + any(step.weight_gradient)
    return forward, backward


def _elementwise(steps: Iterable[Step]) -> Iterable[Step]:
    return (s for s in steps if s.name not in _NO_MOVEMENT)
