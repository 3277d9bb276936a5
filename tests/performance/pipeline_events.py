"""A small event simulation of pipeline schedules: the independent check of the closed forms.

Each stage runs a fixed list of work in order; a piece starts when its stage is free and what it
waits for is done. Nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Sequence

# (what, micro-batch, chunk): "F" forward, "B" backward
Piece = tuple[str, int, int]


def one_forward_one_backward(stage: int, stages: int, passes: int) -> list[Piece]:
    """Warm up, then alternate, then drain (Narayanan et al. 2021, figure 4 top)."""
    ahead = min(stages - stage - 1, passes)
    order: list[Piece] = [("F", i, 0) for i in range(ahead)]
    for i in range(passes - ahead):
        order += [("F", ahead + i, 0), ("B", i, 0)]
    return order + [("B", i, 0) for i in range(passes - ahead, passes)]


def interleaved(stage: int, stages: int, passes: int, chunks: int) -> list[Piece]:
    """Megatron-LM's interleaving: groups of `stages` micro-batches go through chunk after chunk."""
    forward = [
        (group * stages + i, chunk)
        for group in range(passes // stages)
        for chunk in range(chunks)
        for i in range(stages)
    ]
    backward = [(i, chunks - 1 - chunk) for i, chunk in forward]
    total = passes * chunks
    ahead = min(2 * (stages - stage - 1) + (chunks - 1) * stages, total)
    order: list[Piece] = [("F", *forward[i]) for i in range(ahead)]
    for i in range(total - ahead):
        order += [("F", *forward[ahead + i]), ("B", *backward[i])]
    return order + [("B", *backward[i]) for i in range(total - ahead, total)]


def finish(
    orders: Sequence[Sequence[Piece]],
    forward: Sequence[float],
    backward: Sequence[float],
    chunks: int = 1,
) -> float:
    """When the last piece ends; times are of one chunk on each stage."""
    stages = len(orders)
    done: dict[tuple[str, int, int, int], float] = {}
    free = [0.0] * stages
    at = [0] * stages
    left = sum(len(order) for order in orders)
    while left:
        before = left
        for stage, order in enumerate(orders):
            while at[stage] < len(order):
                what, batch, chunk = order[at[stage]]
                needs = _needs(what, batch, chunk, stage, stages, chunks)
                if any(need not in done for need in needs):
                    break
                start = max([free[stage], *(done[need] for need in needs)])
                took = forward[stage] if what == "F" else backward[stage]
                free[stage] = done[what, batch, chunk, stage] = start + took
                at[stage] += 1
                left -= 1
        if left == before:
            raise RuntimeError("the schedule waits for itself")
    return max(free)


def _needs(
    what: str, batch: int, chunk: int, stage: int, stages: int, chunks: int
) -> list[tuple[str, int, int, int]]:
    if what == "F":
        if stage:
            return [("F", batch, chunk, stage - 1)]
        return [("F", batch, chunk - 1, stages - 1)] if chunk else []
    own = ("F", batch, chunk, stage)
    if stage < stages - 1:
        return [own, ("B", batch, chunk, stage + 1)]
    return [own, ("B", batch, chunk + 1, 0)] if chunk < chunks - 1 else [own]
