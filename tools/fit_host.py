"""Fit Megatron's time on the host: to start a kernel of the tape, of a pass, of a step.

    python tools/fit_host.py      print the constants and the errors (about a minute)

Fitted on steps that wait for the host (planner/validation/data/host_steps.csv), with how much
slower the CPUs of an A100's and of a Grace node are than a DGX H100's. The least mean
|log(predicted / measured)|, each at most MOST_LOSS. The three constants stand in
planner/training/stacks.py, the slowdowns in hardware_profiles/gpus/ (node.host_slowdown).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.training.stacks import STACKS, HostTime
from planner.validation.host_steps import (
    FITTED,
    GPUS,
    HostStep,
    host_errors,
    predicted_seconds,
    shipped_host_steps,
)

MOST_LOSS = 0.5
NAMES = ("per_kernel", "per_pass", "per_step", "a100-sxm4-80gb", "gb200-186gb")
START = (1e-4, 3e-3, 3e-3, 1.0, 1.0)
ROUNDS = 12
FIRST_STEP = 0.3  # in the logarithm of a constant


def main() -> None:
    """Fit, and print."""
    rows = [row for row in shipped_host_steps() if row.machine == FITTED]
    values = least(lambda tried: _loss(rows, tried), START)
    for name, value in zip(NAMES, values, strict=True):
        print(f"{name:16} {value:.3g}")
    for (gpu, machine), errors in host_errors(shipped_host_steps(), _predictor(values)).items():
        print(f"{gpu:16} {machine} {errors.rows:4d} {errors.median:6.1%} {errors.p90:6.1%}")


def least(loss: Callable[[Sequence[float]], float], start: Sequence[float]) -> tuple[float, ...]:
    """Coordinate by coordinate, up or down by a factor that halves where neither helps."""
    values, best = tuple(start), loss(start)
    steps = [FIRST_STEP] * len(values)
    for _ in range(ROUNDS):
        for at in range(len(values)):
            for sign in (1, -1):
                factor = math.exp(sign * steps[at])
                tried = tuple(v * factor if i == at else v for i, v in enumerate(values))
                found = loss(tried)
                if found < best:
                    values, best = tried, found
                    break
            else:
                steps[at] /= 2
    return values


def _loss(rows: Sequence[HostStep], values: Sequence[float]) -> float:
    predicted = _predictor(values)
    return sum(
        min(abs(math.log(predicted(row) / row.step_seconds)), MOST_LOSS) for row in rows
    ) / len(rows)


def _predictor(values: Sequence[float]) -> Callable[[HostStep], float]:
    kernel, each_pass, step, *slowdowns = values
    slower = dict(zip(NAMES[3:], slowdowns, strict=True))
    STACKS["megatron"] = replace(STACKS["megatron"], host=HostTime(kernel, each_pass, step))
    return lambda row: predicted_seconds(row, _cluster(row.gpu, slower.get(row.gpu, 1.0)))


def _cluster(gpu: str, slowdown: float) -> Cluster:
    return cluster_of(replace(find_gpu(gpu), host_slowdown=slowdown), GPUS)


if __name__ == "__main__":
    main()
