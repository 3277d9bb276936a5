"""Evaluations and checkpoints as a request asks for them."""

from __future__ import annotations

from planner.answers.checks import at_least_one, wrong
from planner.errors import InputError
from planner.training.recipe import Pauses

MOST_STEPS = 10**9
# Slower than any disk of this century: a number whose unit was left out.
LEAST_STORAGE_BYTES_PER_SECOND = 1e6


def pauses_of(
    evaluation_every_steps: int | None,
    evaluation_steps: int | None,
    checkpoint_every_steps: int | None,
    storage_bandwidth: float | None,
) -> Pauses:
    """What stops the run now and then; half of a pair that is given is refused.

    storage_bandwidth: of all GPUs together [bytes/s]
    """
    given = {
        "evaluation_every_steps": evaluation_every_steps,
        "evaluation_steps": evaluation_steps,
        "checkpoint_every_steps": checkpoint_every_steps,
        "storage_bandwidth": storage_bandwidth,
    }
    for name, other in (
        ("evaluation_every_steps", "evaluation_steps"),
        ("evaluation_steps", "evaluation_every_steps"),
        ("checkpoint_every_steps", "storage_bandwidth"),
        ("storage_bandwidth", "checkpoint_every_steps"),
    ):
        value = given[name]
        if value is None:
            continue
        if given[other] is None:
            raise InputError(f"{name} {value:g}: needs {other}", field=name)
        if name != "storage_bandwidth":
            at_least_one(name, value, MOST_STEPS)
        elif value < LEAST_STORAGE_BYTES_PER_SECOND:
            expected = "expected a rate with its unit, 1 MB/s or more, such as 20 GB/s"
            raise wrong(name, f"{value:g}", expected)
    return Pauses(
        evaluation_every_steps, evaluation_steps, checkpoint_every_steps, storage_bandwidth
    )
