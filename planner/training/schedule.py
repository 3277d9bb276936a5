"""Pipeline schedules as data: what each keeps in memory and how long its stages wait.

Symbols: p stages, v chunks of layers a stage holds (interleaving), m micro-batches of a step; F
forward, B gradient of the input, W gradient of the weights of one micro-batch on one stage [s].
Numbers or arrays; a schedule itself is one for a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.errors import unknown
from planner.numeric import Number, ceil_div, maximum, minimum, where

# (p, v, m, index of the stage) -> micro-batches
Kept = Callable[[Number, Number, Number, int], Number]
# (p, v, F, B, W) -> seconds that a stage waits in a step
Bubble = Callable[[Number, Number, Number, Number, Number], Number]


@dataclass(frozen=True)
class Schedule:
    """in_flight   micro-batches whose activations a stage keeps at its worst, of all its layers
    waiting     micro-batches of which it then keeps only what their weight gradients need
    bubble      time that one of alike stages waits in a step; exact for enough micro-batches
    copies      of the parameters: 2 where micro-batches enter from both ends, so that a GPU holds
                a stage and the one that mirrors it
    chunks      whether a stage may hold several chunks of layers
    overlaps    words of execution.OVERLAPS: traffic that runs behind another micro-batch's compute
    least_passes  micro-batches of a step that it needs, per stage of the pipeline
    """

    name: str
    in_flight: Kept
    bubble: Bubble
    source: str
    waiting: Kept = lambda p, v, m, index: 0
    copies: int = 1
    chunks: bool = False
    overlaps: tuple[str, ...] = ()
    least_passes: int = 0


def _all(p: Number, v: Number, m: Number, index: int) -> Number:
    return m


def _until_backward(p: Number, v: Number, m: Number, index: int) -> Number:
    """min(m, p - i); with v chunks a stage runs 2 (p - i - 1) + (v - 1) p chunks ahead and holds
    one more, each of 1/v of its layers: p (1 + (p - 1) / (p v)) on the first."""
    ahead = (2 * (p - index - 1) + (v - 1) * p + 1) / v
    return minimum(m, where(v == 1, p - index, ahead))


def _later_weights(p: Number, v: Number, m: Number, index: int) -> Number:
    """All stages hold p micro-batches; the later ones some that only wait for W."""
    return minimum(m, p) - minimum(m, p - index)


def _both_directions(p: Number, v: Number, m: Number, index: int) -> Number:
    """p + 1, each of one of the two stages that a GPU holds."""
    return minimum(m, p + 1) / 2


_ONE_F_ONE_B = Schedule(
    "1f1b",
    _until_backward,
    lambda p, v, forward, back, weights: (p - 1) * (forward + back + weights) / v,
    "Narayanan et al. 2021, section 2.2; Korthikanti et al. 2022, section 4.2.3",
)
SCHEDULES = {
    row.name: row
    for row in (
        _ONE_F_ONE_B,
        replace(_ONE_F_ONE_B, name="interleaved", chunks=True),
        Schedule(
            "gpipe",
            _all,
            lambda p, v, forward, back, weights: (p - 1) * (forward + back + weights),
            "Huang et al. 2019, section 2.3",
        ),
        Schedule(
            "zero-bubble",
            _until_backward,
            lambda p, v, forward, back, weights: (p - 1) * maximum(forward + back - weights, 0),
            "ZB-H1: Qi et al. 2023 (arXiv 2401.10241), section 2.1 and table 2",
            waiting=_later_weights,
        ),
        Schedule(
            "dualpipe",
            _both_directions,
            # F&B + B' - 3W with the whole backward B' = B + W, and an overlapped pair as long as
            # both of its parts: F&B = F + B'
            lambda p, v, forward, back, weights: (
                maximum(p / 2 - 1, 0) * maximum(forward + 2 * back - weights, 0)
            ),
            "DeepSeek-AI 2024 (arXiv 2412.19437), table 2; deepseek-ai/DualPipe",
            copies=2,
            # section 3.2.1: all-to-all and pipeline traffic behind the pair's other direction
            overlaps=("ep", "pp"),
            least_passes=2,
        ),
    )
}


def schedule(name: str) -> Schedule:
    """The row of a schedule.

    >>> schedule("1f1b").bubble(4, 3, 1, 1, 1), schedule("zero-bubble").bubble(4, 1, 1, 1, 1)
    (3.0, 3)
    """
    if name not in SCHEDULES:
        raise unknown("pipeline schedule", name, SCHEDULES, field="pipeline_schedule")
    return SCHEDULES[name]


def uneven_bubble(bubble: Number, slower: Number, chunks: Number) -> Number:
    """What the slowest stage waits in a step, where `bubble` is what alike stages would [s].

    slower: its time over the mean of the stages, for one micro-batch. Once it is fed it never
    waits, and while it is not, the others take what is left of one micro-batch: of 1F1B
    (sum - slowest) / v = ((p - 1) mean - (slowest - mean)) / v. Exact where the last stage is the
    slowest, as with a head; at most too long by the bubble where it is an earlier one, whose own
    warm-up hides part of it.
    """
    return maximum(bubble - slower / chunks, 0)


def layers_of_stage(layer_count: int, index: int, stages: int) -> range:
    """Layers of a stage; what does not divide goes to the earliest stages, the last gets least.

    Where it divides with embedding and loss counted as a layer each, they are (Megatron-Core's
    account_for_embedding_in_pipeline_split and _loss_; Llama 3.1 405B, Qwen3-235B).

    >>> [len(layers_of_stage(11, i, 4)) for i in range(4)]
    [3, 3, 3, 2]
    >>> [len(layers_of_stage(126, i, 8)) for i in range(8)]
    [15, 16, 16, 16, 16, 16, 16, 15]
    """
    if layer_count % stages and not (layer_count + 2) % stages:
        each = (layer_count + 2) // stages
        start = max(index * each - 1, 0)
        return range(start, min((index + 1) * each - 1, layer_count))
    each = int(ceil_div(layer_count, stages))
    if layer_count - each * (stages - 1) >= 1:
        start = index * each
        return range(start, min(start + each, layer_count))
    base, more = divmod(layer_count, stages)
    start = index * base + min(index, more)
    return range(start, start + base + (index < more))


def in_flight_without_a_layer(whole: Number, p: Number, m: Number, layers: Number) -> Number:
    """Micro-batches that an interleaved first stage keeps where its first chunk lacks a layer.

    whole: what it would keep with that layer; layers: those that it has. Of its p v + p - 1 chunks
    in flight 2 p - 1 are the first chunk's, which runs ahead once more before any backward; so the
    embedding that takes a layer's place there saves most.

    >>> in_flight_without_a_layer((16 * 4 + 15) / 4, 16, 384, 7) * 7  # 79 chunks of 2 layers, - 31
    127.0
    """
    return (whole * (layers + 1) - minimum(m, 2 * p - 1)) / layers


def layers_at(layer_count: int, stages: Number) -> tuple[Number, Number, Number]:
    """How many layers the first, the fullest and the last stage have; stages may be an array.

    >>> layers_at(126, 8), layers_at(61, 16)
    ((15, 16, 15), (4, 4, 1))
    """
    most = ceil_div(layer_count, stages)
    ends_count = (layer_count % stages != 0) & ((layer_count + 2) % stages == 0)
    rest = layer_count - most * (stages - 1)
    last = where(ends_count, most - 1, where(rest >= 1, rest, layer_count // stages))
    return where(ends_count, most - 1, most), most, last
