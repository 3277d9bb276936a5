"""`layout: auto`: the plain defaults, and the fewest changes of them after which it fits.

Not a search for the fastest layout: it looks at sharding, recompute and tensor parallelism, takes
as few changes as will do, and among equally few the fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from planner.answers.fit import Asker, Target
from planner.answers.request import Request, resolve, with_changes
from planner.errors import InputError
from planner.estimate import estimate, verdict_of
from planner.model.spec import ModelSpec

# Each axis from the plain default outwards.
AXES: dict[str, tuple[object, ...]] = {
    "sharding": (None, "zero1", "zero2", "zero3"),
    "recompute": (None, "selective", "full"),
    "tensor_parallel": (1, 2, 4, 8),
}


def arranged(
    model: ModelSpec, request: Request, target: Target, free: frozenset[str]
) -> tuple[Request, tuple[str, ...]]:
    """The request with its free axes settled, and what was assumed in doing so.

    free: the axes of AXES that nobody has written down
    """
    assert request.gpus is not None
    tight: tuple[Request, tuple[str, ...]] | None = None
    for changes in _fewest_first(free, target.cluster(request.gpus).gpus_per_node):
        found = [
            with_changes(request, **change)
            for change in changes
            if _verdict(model, request, target, change) == "fits"
        ]
        if found:
            chosen = min(found, key=lambda r: _seconds_per_token(model, r, target))
            return chosen, _notes(request, chosen, "fit")
        if tight is None:
            near = [c for c in changes if _verdict(model, request, target, c) == "tight"]
            if near:
                chosen = with_changes(request, **near[0])
                tight = chosen, _notes(request, chosen, "fit, tightly")
    if tight is not None:
        return tight
    return request, (f"the plain defaults: no change of {', '.join(sorted(free))} makes it fit",)


def _fewest_first(free: frozenset[str], gpus_per_node: int) -> Iterator[list[dict[str, object]]]:
    """All combinations of changes: none, then each single one, then pairs ..."""
    axes = [name for name in AXES if name in free]
    by_number: list[list[dict[str, object]]] = [[] for _ in range(len(axes) + 1)]
    for values in product(*(AXES[name] for name in axes)):
        change = {
            name: value for name, value in zip(axes, values, strict=True) if value != AXES[name][0]
        }
        # Tensor parallelism across nodes is slower than anything else that could be done.
        tensor = change.get("tensor_parallel", 1)
        if isinstance(tensor, int) and tensor <= gpus_per_node:
            by_number[len(change)].append(change)
    yield from by_number


def _verdict(
    model: ModelSpec, request: Request, target: Target, change: dict[str, object]
) -> str | None:
    try:
        memory = Asker(model, request, target).memory(**change)
    except InputError:  # a stack that does not know the model
        return None
    return None if memory is None else verdict_of(memory)


def _seconds_per_token(model: ModelSpec, request: Request, target: Target) -> float:
    assert request.gpus is not None
    plan = resolve(request, model, request.gpus)
    result = estimate(model, plan.recipe, plan.layout, target.cluster(request.gpus))
    return 1 / float(result.run.tokens_per_second)


def _notes(before: Request, after: Request, how: str) -> tuple[str, ...]:
    changed = [
        f"{name} {getattr(after, name)}"
        for name in AXES
        if getattr(after, name) != getattr(before, name)
    ]
    if not changed:
        return ()
    told = f"{', '.join(changed)}: the fewest changes of the plain defaults that {how}"
    return (f"{told} (not a search for the fastest)",)
