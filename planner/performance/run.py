"""From one step to a whole run: steps, days, GPU-hours, utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from planner.numeric import Number, ceil_div
from planner.units import SECONDS_PER_HOUR


@dataclass(frozen=True)
class RunEstimate:
    """tokens and steps are None where neither was given; then so are the totals."""

    tokens_per_second: Number
    tokens_per_second_per_gpu: Number
    model_tflops_per_gpu: Number
    model_flops_utilization: Number
    hardware_flops_utilization: Number
    steps: Number | None
    training_seconds: Number | None
    gpu_hours: Number | None


def run_of(
    *,
    step_seconds: Number,
    tokens_per_step: Number,
    gpus: Number,
    model_flops_per_token: float,
    hardware_flops_per_token: float,
    peak_flops_per_second: float,
    tokens: float | None,
    steps: float | None,
) -> RunEstimate:
    """MFU is the model's FLOPs, HFU those really done, over the dense peak (Chowdhery et al. 2022).

    tokens or steps of the whole run may be None: then what depends on them is None.
    """
    rate = tokens_per_step / step_seconds
    per_gpu = rate / gpus
    count: Number | None = steps
    if steps is None and tokens is not None:
        count = ceil_div(tokens, tokens_per_step)
    seconds = None if count is None else count * step_seconds
    return RunEstimate(
        tokens_per_second=rate,
        tokens_per_second_per_gpu=per_gpu,
        model_tflops_per_gpu=per_gpu * model_flops_per_token / 1e12,
        model_flops_utilization=per_gpu * model_flops_per_token / peak_flops_per_second,
        hardware_flops_utilization=per_gpu * hardware_flops_per_token / peak_flops_per_second,
        steps=count,
        training_seconds=seconds,
        gpu_hours=None if seconds is None else seconds * gpus / SECONDS_PER_HOUR,
    )
