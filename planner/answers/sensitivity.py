"""What each field of a model does: its size, its memory, its work, and on a GPU its time."""

from __future__ import annotations

from collections.abc import Sequence

from planner.advice.sensitivity import Sensitivity, StepTime, sensitivity
from planner.advice.sizes import OPTIMIZER, PRECISION, STACK, Sizes, sizes_of
from planner.answers.checks import at_least_one
from planner.answers.request import DEFAULT_SEQUENCE_LENGTH, LARGEST_BATCH, LARGEST_SEQUENCE
from planner.answers.targets import named_gpu
from planner.errors import InputError
from planner.estimate import estimate
from planner.hardware.cluster import cluster_of
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.recipe import Recipe


def sensitivity_of(
    model: str,
    *,
    sequence_length: int = DEFAULT_SEQUENCE_LENGTH,
    micro_batch_size: int = 1,
    gpu: str | None = None,
) -> Sensitivity:
    """The answer of `planner sensitivity`."""
    _check(sequence_length, micro_batch_size)
    return sensitivity(
        load_model(model),
        sequence_length,
        micro_batch_size=micro_batch_size,
        step_seconds=None if gpu is None else _step_time(gpu),
    )


def sizes_of_models(
    models: Sequence[str], sequence_length: int = DEFAULT_SEQUENCE_LENGTH, micro_batch_size: int = 1
) -> list[tuple[ModelSpec, Sizes]]:
    """What each model is: parameters, states, activations, FLOPs and cache."""
    _check(sequence_length, micro_batch_size)
    specs = [load_model(model) for model in models]
    return [(spec, sizes_of(spec, sequence_length, micro_batch_size)) for spec in specs]


def _check(sequence_length: int, micro_batch_size: int) -> None:
    at_least_one("sequence_length", sequence_length, LARGEST_SEQUENCE)
    at_least_one("micro_batch_size", micro_batch_size, LARGEST_BATCH)


def _step_time(gpu: str) -> StepTime:
    """A step of one pass on one such GPU, whether or not it fits there."""
    profile, node = named_gpu(gpu)
    cluster = cluster_of(profile, 1, node=node)

    def seconds(spec: ModelSpec, sequence_length: int, micro_batch_size: int) -> float | None:
        recipe = Recipe(sequence_length, PRECISION, OPTIMIZER)
        layout = Layout(micro_batch_size=micro_batch_size, stack=STACK)
        try:
            return float(estimate(spec, recipe, layout, cluster).step.step_seconds)
        except InputError:  # an architecture whose training is not modelled
            return None

    return seconds
