"""The closed forms of pipeline schedules against a small event simulation that knows none of them.

Each stage runs a fixed list of pieces in order; a piece starts when its stage is free and what it
waits for is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.training.schedule import (
    SCHEDULES,
    layers_at,
    layers_of_stage,
    schedule,
    uneven_bubble,
)


@dataclass(frozen=True)
class Times:
    """Of one micro-batch on one stage: forward, gradient of the input, gradient of the weights."""

    forward: float
    back: float
    weights: float

    @property
    def whole(self) -> float:
        return self.forward + self.back + self.weights


# What a piece does: F forward, B gradient of the input, W of the weights, "BW" both at once.
# (what, micro-batch, stage of the model: of p, or of p v with interleaving, direction 0 or 1)
Work = tuple[str, int, int, int]
# Pieces that overlap: they start and end together.
Piece = tuple[Work, ...]


def one_forward_one_backward(stage: int, stages: int, passes: int) -> list[Piece]:
    """Warm up, then alternate, then drain (Narayanan et al. 2021, figure 4 top)."""
    ahead = min(stages - stage - 1, passes)
    order: list[Piece] = [(("F", i, stage, 0),) for i in range(ahead)]
    for i in range(passes - ahead):
        order += [(("F", ahead + i, stage, 0),), (("BW", i, stage, 0),)]
    return order + [(("BW", i, stage, 0),) for i in range(passes - ahead, passes)]


def all_forward_first(stage: int, stages: int, passes: int) -> list[Piece]:
    """GPipe (Huang et al. 2019, figure 2c)."""
    forward: list[Piece] = [(("F", i, stage, 0),) for i in range(passes)]
    return forward + [(("BW", i, stage, 0),) for i in range(passes)]


def zero_bubble(stage: int, stages: int, passes: int) -> list[Piece]:
    """ZB-H1: as 1F1B, but the weights' gradients follow `stage` micro-batches late, so that every
    stage has the same number in flight; the rest fill the drain (Qi et al. 2023, figure 3 top)."""
    order: list[Piece] = []
    done = 0
    for piece in one_forward_one_backward(stage, stages, passes):
        ((what, batch, _, _),) = piece
        if what == "F":
            order.append(piece)
            continue
        order.append((("B", batch, stage, 0),))
        if batch >= stage:
            order.append((("W", done, stage, 0),))
            done += 1
    return order + [(("W", i, stage, 0),) for i in range(done, passes)]


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

    def piece(what: str, at: tuple[int, int]) -> Piece:
        return ((what, at[0], at[1] * stages + stage, 0),)

    order = [piece("F", forward[i]) for i in range(ahead)]
    for i in range(total - ahead):
        order += [piece("F", forward[ahead + i]), piece("BW", backward[i])]
    return order + [piece("BW", backward[i]) for i in range(total - ahead, total)]


class _Directions:
    """Pieces of one rank of DualPipe, its micro-batches numbered in each direction."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.order: list[Piece] = []
        self.next = {(what, phase): 0 for what in "FB" for phase in (0, 1)}
        self.late: list[Work] = []

    def one(self, what: str, phase: int) -> Work:
        """The next micro-batch of a phase; phase 0 comes from the nearer end."""
        direction = phase if self.rank < self.ranks // 2 else 1 - phase
        at = self.rank if direction == 0 else self.ranks - 1 - self.rank
        key = (what[0], phase)
        self.next[key] += 1
        return (what, self.next[key] - 1, at, direction)

    def forward(self, phase: int) -> None:
        self.order.append((self.one("F", phase),))

    def backward(self, phase: int, late: bool = False) -> None:
        work = self.one("B" if late else "BW", phase)
        self.order.append((work,))
        if late:
            self.late.append(("W", *work[1:]))

    def both(self, ahead: int, back: int) -> None:
        self.order.append((self.one("F", ahead), self.one("BW", back)))

    def weights(self) -> None:
        self.order.append((self.late.pop(0),))


def dualpipe(rank: int, ranks: int, passes: int) -> list[Piece]:
    """The eight steps of deepseek-ai/DualPipe (dualpipe/dualpipe.py, DualPipe.step)."""
    half = ranks // 2
    near = min(rank, ranks - 1 - rank)
    far, middle = half - near - 1, near == half - 1
    d = _Directions(rank, ranks)
    for _ in range(2 * far):
        d.forward(0)
    for _ in range(near + 1):
        d.forward(0)
        d.forward(1)
    for _ in range(far):
        d.backward(1, late=True)
        d.weights()
        d.forward(1)
    for i in range(passes // 2 - ranks + near + 1):
        if middle and i == 0:
            d.forward(0)
            d.backward(1)
        else:
            d.both(0, 1)
        d.both(1, 0)
    for _ in range(far):
        d.backward(1)
        d.both(1, 0)
    late = False
    for i in range(near + 1):
        late = late or (i == (near + 1) // 2 and near % 2 == 1)
        d.backward(1, late)
        late = late or (i == (near + 1) // 2 and near % 2 == 0)
        d.backward(0, late)
    for _ in range(far):
        d.weights()
        d.backward(0, late=True)
    for _ in range(near + 1):
        d.weights()
    assert not d.late
    return d.order


def finish(orders: Sequence[Sequence[Piece]], times: Sequence[Times], depth: int) -> float:
    """When the last piece ends. times: of each stage of the model, `depth` of them."""
    done: dict[Work, float] = {}
    free = [0.0] * len(orders)
    at = [0] * len(orders)
    left = sum(len(order) for order in orders)
    while left:
        before = left
        for rank, order in enumerate(orders):
            while at[rank] < len(order):
                piece = order[at[rank]]
                needs = [need for work in piece for need in _needs(work, depth)]
                if any(need not in done for need in needs):
                    break
                start = max([free[rank], *(done[need] for need in needs)])
                free[rank] = start + sum(_took(work, times[work[2]]) for work in piece)
                for what, *rest in piece:
                    for letter in what:
                        done[(letter, *rest)] = free[rank]
                at[rank] += 1
                left -= 1
        if left == before:
            raise RuntimeError("the schedule waits for itself")
    return max(free)


def _took(work: Work, times: Times) -> float:
    seconds = {"F": times.forward, "B": times.back, "W": times.weights}
    return sum(seconds[letter] for letter in work[0])


def _needs(work: Work, depth: int) -> list[Work]:
    what, batch, stage, direction = work
    if what == "F":
        return [("F", batch, stage - 1, direction)] if stage else []
    if what == "W":
        return [("B", batch, stage, direction)]
    own: list[Work] = [("F", batch, stage, direction)]
    return own if stage == depth - 1 else [*own, ("B", batch, stage + 1, direction)]


def _bubble(name: str, stages: int, times: Times, chunks: int = 1) -> float:
    row = schedule(name)
    return float(row.bubble(stages, chunks, times.forward, times.back, times.weights))


SECONDS = st.floats(0.1, 10.0)
TIMES = st.builds(Times, SECONDS, SECONDS, SECONDS)
ORDERS = {"1f1b": one_forward_one_backward, "gpipe": all_forward_first}


@given(st.sampled_from(sorted(ORDERS)), st.integers(1, 8), st.integers(0, 12), TIMES)
def test_bubble_of_alike_stages(name: str, stages: int, more: int, times: Times) -> None:
    passes = stages + more
    orders = [ORDERS[name](s, stages, passes) for s in range(stages)]
    simulated = finish(orders, [times] * stages, stages)
    assert simulated == pytest.approx(passes * times.whole + _bubble(name, stages, times))


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 4), TIMES)
def test_bubble_of_interleaved_stages(stages: int, groups: int, chunks: int, times: Times) -> None:
    passes = groups * stages
    orders = [interleaved(s, stages, passes, chunks) for s in range(stages)]
    # the closed form is for a backward pass that is longer than the forward one
    times = Times(times.forward, times.forward + times.back, times.weights)
    each = Times(times.forward / chunks, times.back / chunks, times.weights / chunks)
    simulated = finish(orders, [each] * stages * chunks, stages * chunks)
    bubble = _bubble("interleaved", stages, times, chunks)
    assert simulated == pytest.approx(passes * times.whole + bubble)


@given(st.integers(2, 8), st.integers(0, 12), SECONDS, st.floats(0.2, 1.0))
def test_bubble_of_zero_bubble(stages: int, more: int, back: float, weights: float) -> None:
    """Where W is no longer than B, which fills the drain without a gap."""
    times = Times(back, back, back * weights)
    passes = 2 * stages + more
    orders = [zero_bubble(s, stages, passes) for s in range(stages)]
    simulated = finish(orders, [times] * stages, stages)
    closed = passes * times.whole + _bubble("zero-bubble", stages, times)
    assert simulated == pytest.approx(closed)


@given(st.integers(1, 5), st.integers(0, 6), SECONDS)
def test_bubble_of_dualpipe(pairs: int, more: int, seconds: float) -> None:
    """F, B and W alike, as the report draws it."""
    stages, times = 2 * pairs, Times(seconds, seconds, seconds)
    passes = 2 * (stages + more)
    orders = [dualpipe(s, stages, passes) for s in range(stages)]
    simulated = finish(orders, [times] * stages, stages)
    closed = passes * times.whole + _bubble("dualpipe", stages, times)
    assert simulated == pytest.approx(closed)


@given(st.integers(1, 5), st.integers(0, 6), SECONDS, st.floats(0.3, 1.0))
def test_dualpipe_takes_no_longer_where_weights_are_shorter(
    pairs: int, more: int, back: float, weights: float
) -> None:
    """W no longer than F and B, as attention makes it: the bubble is an upper bound."""
    stages, times = 2 * pairs, Times(back, back, back * weights)
    passes = 2 * (stages + more)
    orders = [dualpipe(s, stages, passes) for s in range(stages)]
    waited = finish(orders, [times] * stages, stages) - passes * times.whole
    assert -1e-9 <= waited <= _bubble("dualpipe", stages, times) + 1e-9


@given(st.integers(2, 8), st.integers(0, 20), TIMES, st.floats(1.0, 2.0))
def test_a_slower_last_stage_sets_the_pace(
    stages: int, more: int, times: Times, slower: float
) -> None:
    passes = stages + more
    slow = Times(slower * times.forward, slower * times.back, slower * times.weights)
    orders = [one_forward_one_backward(s, stages, passes) for s in range(stages)]
    simulated = finish(orders, [times] * (stages - 1) + [slow], stages)
    mean = (times.whole * (stages - 1) + slow.whole) / stages
    alike = (stages - 1) * mean
    bubble = uneven_bubble(alike, slow.whole - mean, 1)
    assert simulated == pytest.approx(passes * slow.whole + bubble)


@given(
    st.sampled_from(["1f1b", "gpipe", "interleaved"]),
    st.integers(2, 6),
    st.integers(0, 4),
    TIMES,
    st.floats(1.0, 2.0),
    st.data(),
)
def test_any_slower_stage_is_within_a_bubble(
    name: str, stages: int, more: int, times: Times, slower: float, data: st.DataObject
) -> None:
    """Never longer than the closed form, nor shorter by more than the bubble of alike stages."""
    # a backward pass that is longer than the forward one
    times = Times(times.forward, times.forward + times.back, times.weights)
    slow = Times(slower * times.forward, slower * times.back, slower * times.weights)
    at = data.draw(st.integers(0, stages - 1))
    each = [slow if index == at else times for index in range(stages)]
    passes, chunks = (2 + more) * stages, 1
    if name == "interleaved":
        chunks = 2
        orders = [interleaved(s, stages, passes, chunks) for s in range(stages)]
    else:
        orders = [ORDERS[name](s, stages, passes) for s in range(stages)]
    part = [Times(t.forward / chunks, t.back / chunks, t.weights / chunks) for t in each]
    simulated = finish(orders, part * chunks, stages * chunks)
    share = (stages - 1 + slower) / stages  # the mean stage over the others
    mean = Times(share * times.forward, share * times.back, share * times.weights)
    bubble = _bubble(name, stages, mean, chunks)
    closed = passes * slow.whole + uneven_bubble(bubble, slow.whole - mean.whole, chunks)
    assert simulated <= closed * (1 + 1e-9)
    assert closed <= simulated + bubble + 1e-9


def _most_in_flight(order: Sequence[Piece], until: str) -> int:
    """Micro-batches between their forward pass and `until` ("B" or "W"), at most."""
    most = held = 0
    for piece in order:
        held += sum(work[0] == "F" for work in piece)
        most = max(most, held)
        held -= sum(until in work[0] for work in piece)
    return most


@pytest.mark.parametrize("stages", [2, 4, 6])
def test_micro_batches_in_flight_as_the_schedules_play(stages: int) -> None:
    passes = 3 * stages
    for index in range(stages):
        for name, order in (
            ("1f1b", one_forward_one_backward(index, stages, passes)),
            ("gpipe", all_forward_first(index, stages, passes)),
            ("zero-bubble", zero_bubble(index, stages, passes)),
        ):
            row = schedule(name)
            whole = row.in_flight(stages, 1, passes, index)
            assert _most_in_flight(order, "B") == whole
            waiting = row.waiting(stages, 1, passes, index)
            assert _most_in_flight(order, "W") == whole + waiting
        for chunks in (2, 3):
            order = interleaved(index, stages, passes, chunks)
            in_flight = schedule("interleaved").in_flight(stages, chunks, passes, index)
            assert _most_in_flight(order, "B") == pytest.approx(chunks * in_flight)
        # a piece that overlaps frees one while it makes the other: the report counts it apart
        order = dualpipe(index, stages, passes)
        in_flight = 2 * schedule("dualpipe").in_flight(stages, 1, passes, index)
        assert _most_in_flight(order, "W") <= in_flight


def test_published_special_cases() -> None:
    """Korthikanti et al. 2022, section 4.2.3; DeepSeek-V3's report, table 2, F = B = W = 1."""
    p, v = 8, 4
    assert schedule("interleaved").in_flight(p, v, 64, 0) == p * (1 + (p - 1) / (p * v))
    alike = Times(1.0, 1.0, 1.0)
    # (p - 1)(F + B'), (p - 1)(F + B' - 2 W), (p/2 - 1)(F&B + B' - 3 W) with B' = 2, F&B = 3
    names = ("1f1b", "gpipe", "zero-bubble", "dualpipe")
    assert [_bubble(name, p, alike) for name in names] == [21.0, 21.0, 7.0, 6.0]


@given(st.sampled_from(sorted(SCHEDULES)), st.lists(st.integers(1, 16), min_size=1), TIMES)
def test_arrays_are_numbers(name: str, sizes: list[int], times: Times) -> None:
    row, p = schedule(name), np.array(sizes, float)
    v, m = p[::-1].copy(), 2 * p
    many = row.bubble(p, v, times.forward, times.back, times.weights)
    each = [_bubble(name, a, times, int(b)) for a, b in zip(sizes, v, strict=True)]
    assert np.broadcast_to(many, p.shape) == pytest.approx(np.array(each))
    held = row.in_flight(p, v, m, 0)
    alone = [row.in_flight(int(a), int(b), int(c), 0) for a, b, c in zip(p, v, m, strict=True)]
    assert np.broadcast_to(held, p.shape) == pytest.approx(np.array(alone))


def test_schedule_that_nobody_knows() -> None:
    with pytest.raises(InputError, match="pipeline schedule"):
        schedule("gpipe2")


@given(st.integers(1, 200), st.integers(1, 64))
def test_layers_at_the_ends_are_those_of_the_stages(layers: int, stages: int) -> None:
    stages = min(stages, layers)
    held = [len(layers_of_stage(layers, index, stages)) for index in range(stages)]
    assert sum(held) == layers
    expected = (held[0], max(held), held[-1])
    assert layers_at(layers, stages) == expected
    many = layers_at(layers, np.array([float(stages)]))
    assert [float(np.ravel(value)[0]) for value in many] == list(expected)


def test_the_page_names_every_schedule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text(encoding="utf-8")
    told = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(told) == sorted(SCHEDULES)
