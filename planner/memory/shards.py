"""How many elements of each weight one GPU holds, under tensor, expert and data parallelism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planner.model.operations import Weight
from planner.numeric import Number, ceil_div, maximum, round_up
from planner.training.layout import Layout


def local_shape(weight: Weight, layout: Layout) -> tuple[Number, Number]:
    """Rows and columns of a weight on one rank of its tensor- and expert-parallel group.

    Column and vocabulary splits divide the rows, row splits the columns, experts the first axis.
    """
    rows: Number = weight.shape[0]
    columns: Number = weight.elements // weight.shape[0]
    if weight.split == "vocabulary":
        padded = round_up(rows, layout.vocabulary_multiple * layout.tensor_parallel)
        rows = padded // layout.tensor_parallel
    elif weight.split == "column":
        rows = ceil_div(rows, layout.tensor_parallel)
    elif weight.split == "row":
        columns = ceil_div(columns, layout.tensor_parallel)
    elif weight.split == "expert":
        rows = ceil_div(rows, layout.expert_parallel)
        columns = columns / layout.expert_tensor_parallel
    return rows, columns


def local_elements(weight: Weight, layout: Layout) -> Number:
    rows, columns = local_shape(weight, layout)
    return rows * columns


def shard_elements(weight: Weight, layout: Layout, ranks: Number) -> Number:
    """Elements of one rank's shard: rows are divided, the first rank holds the ceiling (FSDP2)."""
    rows, columns = local_shape(weight, layout)
    return ceil_div(rows, copies(weight, layout, ranks)) * columns


def copies(weight: Weight, layout: Layout, ranks: Number) -> Number:
    """Of `ranks` data-parallel ranks, those that hold the same part of a weight.

    Expert parallelism takes its ranks from data and tensor parallelism: experts have that many
    copies fewer.
    """
    if weight.kind != "expert":
        return ranks
    apart = layout.expert_parallel * layout.expert_tensor_parallel
    return maximum(ranks * layout.tensor_parallel / apart, 1)


@dataclass(frozen=True)
class Holding:
    """Elements of a set of weights on one GPU.

    whole     gathered over data parallelism, without padding
    shard     one data-parallel rank's part
    matrices  those of `whole` that are matrices (what autocast copies)
    largest   elements of the largest single tensor
    gathered  what a gather makes: every rank's shard, padding included
    """

    whole: Number
    shard: Number
    matrices: Number
    largest: Number
    gathered: Number

    def __add__(self, other: Holding) -> Holding:
        return Holding(
            self.whole + other.whole,
            self.shard + other.shard,
            self.matrices + other.matrices,
            maximum(self.largest, other.largest),
            self.gathered + other.gathered,
        )

    def times(self, count: int) -> Holding:
        """So many sets like this one."""
        return Holding(
            count * self.whole,
            count * self.shard,
            count * self.matrices,
            self.largest,
            count * self.gathered,
        )


NOTHING = Holding(0, 0, 0, 0, 0)


def holding(weights: Iterable[Weight], layout: Layout, ranks: Number) -> Holding:
    """Sum over the weights that are counted here (a tied one is counted where it lives)."""
    whole: Number = 0
    shard: Number = 0
    matrices: Number = 0
    largest: Number = 0
    gathered: Number = 0
    for weight in weights:
        if weight.tied_to:
            continue
        local = local_elements(weight, layout)
        whole = whole + local
        part = shard_elements(weight, layout, ranks)
        shard = shard + part
        gathered = gathered + part * copies(weight, layout, ranks)
        if weight.kind in ("matrix", "expert"):
            matrices = matrices + local
        largest = maximum(largest, local)
    return Holding(whole, shard, matrices, largest, gathered)
