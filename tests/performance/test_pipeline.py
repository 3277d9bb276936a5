"""The closed forms of pipeline schedules against a small event simulation that knows none of them.

Each stage runs a fixed list of work in order; a piece starts when its stage is free and what it
waits for is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.performance.pipeline import bubble_seconds, layers_per_stage, step_seconds

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


TIMES = st.floats(0.1, 10.0)


@given(st.integers(1, 8), st.integers(0, 12), TIMES, TIMES)
def test_bubble_of_alike_stages(stages: int, more: int, forward: float, backward: float) -> None:
    passes = stages + more
    orders = [one_forward_one_backward(s, stages, passes) for s in range(stages)]
    simulated = finish(orders, [forward] * stages, [backward] * stages)
    bubble = bubble_seconds(
        "1f1b", stages, forward=forward, input_gradient=backward / 2, weight_gradient=backward / 2
    )
    assert simulated == pytest.approx(passes * (forward + backward) + bubble)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 4), TIMES)
def test_bubble_of_interleaved_stages(
    stages: int, groups: int, chunks: int, forward: float
) -> None:
    passes, backward = groups * stages, 2 * forward
    orders = [interleaved(s, stages, passes, chunks) for s in range(stages)]
    each, back = forward / chunks, backward / chunks
    simulated = finish(orders, [each] * stages, [back] * stages, chunks)
    bubble = bubble_seconds(
        "1f1b",
        stages,
        forward=forward,
        input_gradient=forward,
        weight_gradient=forward,
        chunks=chunks,
    )
    assert simulated == pytest.approx(passes * (forward + backward) + bubble)


@given(st.integers(2, 8), st.integers(0, 20), TIMES, st.floats(1.0, 2.0))
def test_a_slower_last_stage_sets_the_pace(
    stages: int, more: int, forward: float, slower: float
) -> None:
    passes = stages + more
    times = [forward] * (stages - 1) + [slower * forward]
    orders = [one_forward_one_backward(s, stages, passes) for s in range(stages)]
    simulated = finish(orders, times, [2 * t for t in times])
    closed = step_seconds(3 * max(times), 3 * sum(times), passes)
    assert simulated == pytest.approx(closed)


def test_zero_bubble_and_dualpipe_wait_less() -> None:
    parts = {"forward": 1.0, "input_gradient": 1.0, "weight_gradient": 1.0}
    bubbles = [bubble_seconds(name, 8, **parts) for name in ("1f1b", "zero_bubble", "dualpipe")]
    # DeepSeek-V3's table: (p/2 - 1)(F&B + B - 3W) with all three alike is (p/2 - 1)
    assert bubbles == [21.0, 7.0, 3.0]


def test_schedule_that_nobody_knows() -> None:
    with pytest.raises(InputError, match="pipeline schedule"):
        bubble_seconds("gpipe2", 4, forward=1, input_gradient=1, weight_gradient=1)


def test_layers_of_the_fullest_stage() -> None:
    assert [layers_per_stage(80, 8), layers_per_stage(126, 8), layers_per_stage(61, 16)] == [
        10,
        16,
        4,
    ]
