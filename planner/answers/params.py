"""How many parameters, what they cost per token, and whether a checkpoint has the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.errors import InputError, unknown
from planner.model.adapters import ALL_LINEAR, adapters, linear_names
from planner.model.checkpoint import Difference, differences, read_checkpoint
from planner.model.flops import FlopCount, model_flops
from planner.model.parameters import ParameterCount, count_parameters, tensors
from planner.model.sources import load_model
from planner.model.spec import ModelSpec


@dataclass(frozen=True)
class ParamsAnswer:
    """trainable: all, or LoRA's adapters. differences: None where nothing was compared."""

    spec: ModelSpec
    count: ParameterCount
    trainable: int
    sequence_length: int
    flops: FlopCount
    differences: tuple[Difference, ...] | None = None

    @property
    def rule_error(self) -> float:
        """Of the 6N rule (N active parameters), against the FLOPs of the operations."""
        return 6 * self.count.active / self.flops.training - 1


def params(
    model: str,
    *,
    sequence_length: int = 4096,
    lora_rank: int | None = None,
    lora_targets: tuple[str, ...] | None = None,
    against: Path | None = None,
) -> ParamsAnswer:
    """The answer of `planner params`."""
    spec = load_model(model)
    count = count_parameters(spec)
    compared = None
    if against is not None:
        ours = [(name, weight.elements) for name, weight in tensors(spec)]
        compared = differences(ours, read_checkpoint(against).tensors)
    return ParamsAnswer(
        spec,
        count,
        _trainable(spec, count, lora_rank, lora_targets),
        sequence_length,
        model_flops(spec, sequence_length),
        compared,
    )


def _trainable(
    spec: ModelSpec, count: ParameterCount, rank: int | None, targets: tuple[str, ...] | None
) -> int:
    if rank is None:
        if targets is not None:
            raise InputError("lora_targets: only with lora_rank")
        return count.total
    names = linear_names(spec)
    chosen = names if targets in (None, (ALL_LINEAR,)) else frozenset(targets or ())
    for name in chosen:
        if name not in names:
            raise unknown("lora target", name, names)
    return sum(weight.elements for _, weight in adapters(spec, rank, chosen))
