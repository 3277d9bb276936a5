"""Weights, gradients, master copies and optimizer states of one GPU, in bytes."""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.shards import local_elements, shard_elements
from planner.model.operations import Weight
from planner.numeric import Number, ceil_div
from planner.training.layout import Layout
from planner.training.optimizers import Optimizer, rule_for, state_bytes_per_element


def optimizer_bytes(
    weights: Iterable[Weight],
    layout: Layout,
    row: Optimizer,
    updated_itemsize: float,
    *,
    ranks: Number,
    by_rows: bool,
) -> Number:
    """States of the weights that this GPU updates [bytes].

    ranks    data-parallel ranks that share the states (1: each has all)
    by_rows  each tensor divided along its rows (FSDP2), else the flat whole (Rajbhandari et al.
             2020, section 5.1)
    """
    total: Number = 0
    for weight in weights:
        if weight.tied_to:
            continue
        rule = rule_for(row, weight)
        per_element = sum(state_bytes_per_element(s, weight, updated_itemsize) for s in rule.states)
        if by_rows:
            elements = shard_elements(weight, layout, ranks)
        else:
            elements = ceil_div(local_elements(weight, layout), ranks)
        total = total + per_element * elements
    return total
