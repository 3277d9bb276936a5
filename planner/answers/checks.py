"""What a request may not say: values out of range, and what contradicts the model or the layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from planner.errors import InputError
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.recipe import Recipe
from planner.training.schedule import SCHEDULES, Schedule
from planner.training.stacks import STACKS, Stack

# Each size of a layout, and the flag of a stack that says whether it can do it.
_NEEDS = {"tensor_parallel": "tensor_parallel", "pipeline_parallel": "pipeline"}


def wrong(field: str, value: object, why: str) -> InputError:
    return InputError(f"{field} {value}: {why}", field=field)


def at_least_one(field: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(field, value, "expected a whole number of at least 1")
    if value > most:
        raise wrong(field, value, f"expected at most {most}")


@contextmanager
def about(field: str) -> Iterator[None]:
    """Errors of a table look-up are about this field."""
    try:
        yield
    except InputError as error:
        raise InputError(error.message, error.hint, field=field) from None


def check_stack(layout_sizes: dict[str, int], kind: Stack) -> None:
    """Sizes above 1 that the stack cannot do."""
    for field, flag in _NEEDS.items():
        if layout_sizes[field] > 1 and not getattr(kind, flag):
            able = [name for name, row in STACKS.items() if getattr(row, flag)]
            raise wrong(
                field,
                layout_sizes[field],
                f"stack {kind.name} cannot; {', '.join(able)} can",
            )


def check_schedule(row: Schedule, stages: int, chunks: int, passes: int) -> None:
    """Sizes that a pipeline schedule that was asked for cannot do."""
    field = "pipeline_schedule"
    if stages == 1:
        raise wrong(field, row.name, "needs pipeline_parallel above 1")
    if row.chunks and chunks == 1:
        raise wrong(field, row.name, "needs virtual_pipeline above 1, chunks of layers a stage")
    if chunks > 1 and not row.chunks:
        able = ", ".join(name for name, other in SCHEDULES.items() if other.chunks)
        why = f"has one chunk a stage, virtual_pipeline is {chunks}: expected {able}"
        raise wrong(field, row.name, why)
    if row.copies > 1 and (stages % 2 or passes % 2):
        raise wrong(
            field,
            row.name,
            "micro-batches enter from both ends: expected an even pipeline_parallel and "
            f"gradient_accumulation, got {stages} and {passes}",
        )
    least = row.least_passes * stages
    if passes < least:
        why = f"expected a gradient_accumulation of at least {least}, got {passes}"
        raise wrong(field, row.name, why)


def check_shape(model: ModelSpec, layout: Layout, recipe: Recipe) -> None:
    """Sizes that the model or the sequence cannot be divided into."""
    for heads in sorted(_facts(model, "attention", "heads")):
        if heads % layout.tensor_parallel:
            raise wrong(
                "tensor_parallel",
                layout.tensor_parallel,
                f"the {heads} query heads of {model.name} are not divisible by it",
            )
    _check_experts(model, layout)
    _check_pipeline(model, layout)
    _check_layers(model, layout)
    if recipe.sequence_length % layout.context_parallel:
        raise wrong(
            "context_parallel",
            layout.context_parallel,
            f"does not divide sequence_length {recipe.sequence_length}",
        )


def check_has_experts(model: ModelSpec, field: str, value: object) -> None:
    """What only a model with experts can be asked."""
    if not _facts(model, None, "experts"):
        raise wrong(field, value, f"{model.name} has no experts")


def _check_experts(model: ModelSpec, layout: Layout) -> None:
    size = layout.expert_parallel
    if size == 1:
        return
    check_has_experts(model, "expert_parallel", size)
    for count in sorted(_facts(model, None, "experts")):
        if count % size:
            raise wrong(
                "expert_parallel",
                size,
                f"the {count} experts of {model.name} are not divisible by it",
            )
    ranks = layout.data_parallel * layout.context_parallel * layout.tensor_parallel
    if ranks % size:
        raise wrong(
            "expert_parallel",
            size,
            f"does not divide data x context x tensor parallel = {ranks}",
        )


def _check_pipeline(model: ModelSpec, layout: Layout) -> None:
    stages, chunks, layers = layout.pipeline_parallel, layout.virtual_pipeline, len(model.layers)
    if stages > layers:
        raise wrong(
            "pipeline_parallel", stages, f"more stages than the {layers} layers of {model.name}"
        )
    if chunks > 1 and stages == 1:
        raise wrong("virtual_pipeline", chunks, "needs pipeline_parallel above 1")
    # embedding and loss may stand as a layer each (Llama 3.1 405B: 16 stages of 8 chunks)
    if stages * chunks > layers + 2:
        raise wrong(
            "virtual_pipeline",
            chunks,
            f"x {stages} stages is more than the {layers} layers of {model.name}",
        )


def _check_layers(model: ModelSpec, layout: Layout) -> None:
    """Layers of each stage that are computed again or offloaded: no more than the stage has."""
    most = -(-len(model.layers) // layout.pipeline_parallel)
    for field, word, count in (
        ("recompute", "full", layout.recompute_layers),
        ("offload", "activations", layout.offload_layers),
    ):
        if count is not None and count > most:
            raise wrong(field, f"{word}:{count}", f"a stage of {model.name} has {most} layers")


def _facts(model: ModelSpec, kind: str | None, name: str) -> set[int]:
    """Values of a fact over the operations of the layers."""
    blocks = {id(place.block): place.block for place in model.layers}
    values = {
        op.fact(name)
        for block in blocks.values()
        for op in block.operations
        if kind is None or op.kind == kind
    }
    return {value for value in values if isinstance(value, int)}
