"""LoRA's matrices beside a model's linears, as peft names them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from planner.model.operations import Operation, Weight
from planner.model.spec import ModelSpec

ALL_LINEAR = "all-linear"


def linear_names(spec: ModelSpec) -> frozenset[str]:
    """Last names of the layers' linears: what targets may be."""
    return frozenset(
        last_name(op)
        for place in spec.layers
        for op in place.block.operations
        if op.kind == "linear"
    )


def last_name(operation: Operation) -> str:
    return operation.name.rsplit(".", 1)[-1]


def is_adapted(operation: Operation, targets: Collection[str]) -> bool:
    return operation.kind == "linear" and last_name(operation) in targets


def adapter_weights(operation: Operation, rank: int) -> tuple[Weight, Weight]:
    """A (rank, inputs) and B (outputs, rank) of one linear, or of several joined to one."""
    outputs, inputs = operation.weights[0].shape
    if operation.fact("transposed"):
        outputs, inputs = inputs, outputs
    else:
        outputs = sum(w.shape[0] for w in operation.weights if len(w.shape) == 2)
    return (
        Weight(f"{operation.name}.lora_A.default.weight", (rank, inputs)),
        Weight(f"{operation.name}.lora_B.default.weight", (outputs, rank)),
    )


def adapters(spec: ModelSpec, rank: int, targets: Collection[str]) -> Iterator[tuple[str, Weight]]:
    """Every adapter matrix of a model with its full name."""
    for place in spec.layers:
        for operation in place.block.operations:
            if is_adapted(operation, targets):
                for weight in adapter_weights(operation, rank):
                    yield place.prefix + weight.name, weight
