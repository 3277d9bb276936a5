"""The closed forms of pipeline schedules against a simulation that knows none of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_events import finish, interleaved, one_forward_one_backward

from planner.errors import InputError
from planner.performance.pipeline import bubble_seconds, layers_per_stage, step_seconds

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
