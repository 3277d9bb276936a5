"""Time of a pipeline schedule: the slowest stage's passes, and what the others wait for.

Symbols: p stages, m micro-batches, v chunks of layers a stage holds (interleaving); F forward, B
gradient of the input, W gradient of the weights of one micro-batch on one stage [s].
"""

from __future__ import annotations

from typing import Literal, get_args

from planner.errors import unknown
from planner.numeric import Number, maximum

Schedule = Literal["1f1b", "zero_bubble", "dualpipe"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def bubble_seconds(
    schedule: str,
    stages: Number,
    *,
    forward: Number,
    input_gradient: Number,
    weight_gradient: Number,
    chunks: Number = 1,
) -> Number:
    """Idle time of one stage in a step, all stages alike, at least `stages` micro-batches [s].

        1f1b         (p-1)(F+B+W) / v
        zero_bubble  (p-1)(F+B-W), not below 0
        dualpipe     (p/2-1)(F&B + B - 3W), F&B = F+B+W, not below 0

    Source: Narayanan et al. 2021, section 2.2 (1F1B and interleaved); Qi et al. 2023, table 1
    (ZB-H1, the memory of 1F1B); DeepSeek-AI 2024, DeepSeek-V3 technical report, table 2.
    Valid for: micro-batches >= stages (dualpipe: 2 x stages); with fewer it is a lower bound.

    >>> bubble_seconds("1f1b", 4, forward=1, input_gradient=1, weight_gradient=1, chunks=3)
    3.0
    >>> bubble_seconds("zero_bubble", 4, forward=1, input_gradient=1, weight_gradient=1)
    3
    """
    whole = forward + input_gradient + weight_gradient
    if schedule == "1f1b":
        return (stages - 1) * whole / chunks
    if schedule == "zero_bubble":
        return (stages - 1) * maximum(forward + input_gradient - weight_gradient, 0)
    if schedule == "dualpipe":
        # its micro-batches enter from both ends, so it takes an even number of stages
        overlapped = maximum(whole + input_gradient - 3 * weight_gradient, 0)
        return maximum(stages / 2 - 1, 0) * overlapped
    raise unknown("pipeline schedule", schedule, SCHEDULES)


def step_seconds(
    slowest: Number, all_stages: Number, passes: Number, *, chunks: Number = 1
) -> Number:
    """1F1B with stages that are not alike: time of forward and backward passes of a step [s].

    slowest, all_stages: forward and backward of one micro-batch on the slowest stage, and summed
    over the stages. The slowest one never waits once it is fed:

        t = m slowest + (all stages - slowest) / v

    Without interleaving exact for passes >= stages; checked against a simulation of the schedule.

    >>> step_seconds(3, 12, 8), step_seconds(4, 13, 8, chunks=2)
    (33.0, 36.5)
    """
    return passes * slowest + (all_stages - slowest) / chunks


def layers_per_stage(layers: Number, stages: Number) -> Number:
    """Layers of the fullest stage, where people place what does not divide [layers].

    Megatron-Core counts embedding and head as a layer each where that divides evenly
    (account_for_embedding_in_pipeline_split, account_for_loss_in_pipeline_split); else the last
    stages hold one less.
    """
    return -(-layers // stages)
