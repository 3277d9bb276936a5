"""From one step to a whole run: steps, pauses, days, GPU-hours, utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from planner.numeric import Number, ceil_div
from planner.training.recipe import Pauses
from planner.units import SECONDS_PER_HOUR


@dataclass(frozen=True)
class RunEstimate:
    """tokens and steps are None where neither was given; then so are the totals.

    training_seconds is the whole run with its evaluations and checkpoints, whose own seconds are
    None where nobody asks for them. The utilisations refer to peak_tflops_per_gpu; full_square: as
    the field of that name without it, attention counted over all pairs of tokens.
    """

    tokens_per_second: Number
    tokens_per_second_per_gpu: Number
    model_tflops_per_gpu: Number
    model_flops_utilization: Number
    hardware_flops_utilization: Number
    model_tflops_per_gpu_full_square: Number
    model_flops_utilization_full_square: Number
    peak_tflops_per_gpu: float
    steps: Number | None
    training_seconds: Number | None
    gpu_hours: Number | None
    evaluation_seconds: Number | None = None
    checkpoint_seconds: Number | None = None


def run_of(
    *,
    step_seconds: Number,
    evaluation_step_seconds: Number,
    tokens_per_step: Number,
    gpus: Number,
    model_flops_per_token: float,
    full_square_flops_per_token: float,
    hardware_flops_per_token: Number,
    peak_flops_per_second: float,
    tokens: float | None,
    steps: float | None,
    pauses: Pauses,
    checkpoint_bytes: Number,
) -> RunEstimate:
    """MFU is the model's FLOPs, HFU those really done, over the dense peak (Chowdhery et al. 2022).

    tokens or steps of the whole run may be None: then what depends on them is None.
    """
    rate = tokens_per_step / step_seconds
    per_gpu = rate / gpus
    count: Number | None = steps
    if steps is None and tokens is not None:
        count = ceil_div(tokens, tokens_per_step)
    evaluation = evaluation_seconds(pauses, count, evaluation_step_seconds)
    checkpoint = checkpoint_seconds(pauses, count, checkpoint_bytes)
    seconds = None
    if count is not None:
        seconds = count * step_seconds + (evaluation or 0) + (checkpoint or 0)
    return RunEstimate(
        tokens_per_second=rate,
        tokens_per_second_per_gpu=per_gpu,
        model_tflops_per_gpu=per_gpu * model_flops_per_token / 1e12,
        model_flops_utilization=per_gpu * model_flops_per_token / peak_flops_per_second,
        hardware_flops_utilization=per_gpu * hardware_flops_per_token / peak_flops_per_second,
        model_tflops_per_gpu_full_square=per_gpu * full_square_flops_per_token / 1e12,
        model_flops_utilization_full_square=(
            per_gpu * full_square_flops_per_token / peak_flops_per_second
        ),
        peak_tflops_per_gpu=peak_flops_per_second / 1e12,
        steps=count,
        training_seconds=seconds,
        gpu_hours=None if seconds is None else seconds * gpus / SECONDS_PER_HOUR,
        evaluation_seconds=evaluation,
        checkpoint_seconds=checkpoint,
    )


def evaluation_seconds(
    pauses: Pauses, steps: Number | None, evaluation_step_seconds: Number
) -> Number | None:
    """All evaluations of a run of so many steps [s]; None where there are none.

    >>> evaluation_seconds(Pauses(evaluation_every_steps=100, evaluation_steps=10), 950, 2.0)
    180.0
    """
    every, batches = pauses.evaluation_every_steps, pauses.evaluation_steps
    if steps is None or every is None or batches is None:
        return None
    return steps // every * batches * evaluation_step_seconds


def checkpoint_seconds(
    pauses: Pauses, steps: Number | None, checkpoint_bytes: Number
) -> Number | None:
    """All checkpoints of a run of so many steps, written while training waits [s].

    >>> pauses = Pauses(checkpoint_every_steps=500, storage_bytes_per_second=1e9)
    >>> checkpoint_seconds(pauses, 2000, 112e9)
    448.0
    """
    every, rate = pauses.checkpoint_every_steps, pauses.storage_bytes_per_second
    if steps is None or every is None or rate is None:
        return None
    return steps // every * checkpoint_bytes / rate
