"""Exact parameter counts, in whole numbers, from the weights that a model's blocks state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from planner.model.operations import GROUPS, Block, Weight
from planner.model.spec import ModelSpec, Placed


@dataclass(frozen=True)
class LayerCount:
    """A run of equal blocks: how many, which kind, parameters of one."""

    count: int
    block: str
    parameters: int


@dataclass(frozen=True)
class ParameterCount:
    """total: tied weights once. active: what one token uses. by_group adds up to total."""

    total: int
    active: int
    by_group: dict[str, int]
    layers: tuple[LayerCount, ...]

    @property
    def embedding(self) -> int:
        return self.by_group["embedding"]


def block_parameters(block: Block) -> int:
    return sum(weight.parameters for weight in block.weights)


def count_parameters(spec: ModelSpec) -> ParameterCount:
    """Count a model: each distinct block once, times how often it stands in the pattern."""
    own = [place for place in spec.places if place.weights_of is None]
    times = Counter(id(place.block) for place in own)
    distinct = {id(place.block): place.block for place in own}
    total = active = 0
    by_group = dict.fromkeys(GROUPS, 0)
    for key, block in distinct.items():
        for operation in block.operations:
            count = sum(weight.parameters for weight in operation.weights)
            total += times[key] * count
            active += times[key] * sum(weight.active_parameters for weight in operation.weights)
            by_group[operation.group] += times[key] * count
    return ParameterCount(total, active, by_group, tuple(_runs(spec.places)))


def _runs(places: Sequence[Placed]) -> Iterator[LayerCount]:
    for (_, shared), run in groupby(places, key=lambda p: (id(p.block), p.weights_of is not None)):
        members = list(run)
        block = members[0].block
        yield LayerCount(len(members), block.name, 0 if shared else block_parameters(block))


def tensors(spec: ModelSpec) -> Iterator[tuple[str, Weight]]:
    """Every parameter tensor with its full name, in the order of the forward pass; tied once."""
    for place in spec.places:
        for name, weight in place.weights():
            if weight.tied_to is None:
                yield name, weight
