"""Weights, gradients, master copies and optimizer states of one GPU, in bytes."""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.shards import copies, holding, local_elements, shard_elements
from planner.memory.stages import Stage
from planner.model.operations import Weight
from planner.numeric import Number, ceil_div
from planner.training.layout import Layout
from planner.training.optimizers import Optimizer, rule_for, state_bytes_per_element
from planner.training.precision import Precision
from planner.training.recipe import Recipe


def optimizer_bytes(
    weights: Iterable[Weight],
    layout: Layout,
    row: Optimizer,
    updated_itemsize: float,
    *,
    ranks: Number,
    by_rows: bool,
    master: float = 0.0,
) -> Number:
    """States of the weights that this GPU updates, with their master copies [bytes].

    ranks    data-parallel ranks that share the states (1: each has all)
    master   bytes per element of the copy that is updated, beside what the model computes with
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
            elements = ceil_div(local_elements(weight, layout), copies(weight, layout, ranks))
        total = total + (per_element + master) * elements
    return total


def adapter_itemsize(recipe: Recipe) -> int:
    """LoRA's own weights are float32, but for bf16-pure [bytes]."""
    return 2 if recipe.precision == "bf16-pure" else 4


# NF4 with double quantisation: half a byte, an 8-bit scale per 64 weights, and a float32 scale of
# scales per 256 of those (Dettmers et al. 2023, section 3); plain: a float32 scale per 64. int8: a
# byte, and a float32 per row, which is small beside it (LLM.int8, bitsandbytes).
FROZEN_BYTES_PER_WEIGHT = {
    "nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256),
    "nf4-plain": 1 / 2 + 4 / 64,
    "int8": 1.0,
}


def stored_itemsize(recipe: Recipe, policy: Precision) -> float:
    """Of the layers' matrices as they are stored: trained, frozen, or frozen and packed [bytes]."""
    frozen = packed_itemsize(recipe) or policy.compute
    return policy.parameter if recipe.finetune is None else frozen


def packed_itemsize(recipe: Recipe) -> float | None:
    """Of the layers' frozen matrices under QLoRA; None where they are as computed with [bytes]."""
    if recipe.finetune is None or recipe.finetune.method != "qlora":
        return None
    return FROZEN_BYTES_PER_WEIGHT[recipe.finetune.quantize or "nf4"]


def weight_bytes(
    stage: Stage,
    recipe: Recipe,
    layout: Layout,
    policy: Precision,
    ranks: Number,
    holds_embedding: bool,
    divided: bool = False,
) -> Number:
    """Stored weights of one GPU, without adapters [bytes]; divided: among `ranks`, and gathered.

    Frozen ones are kept in the compute dtype; under QLoRA the layers' matrices are quantised.
    """
    model = stage.model
    itemsize = policy.parameter if recipe.finetune is None else policy.compute
    quantised = packed_itemsize(recipe)
    total: Number = 0
    if holds_embedding:
        total = total + itemsize * holding(model.embedding.weights, layout, ranks).shard
    if stage.holds_head:
        total = total + itemsize * holding(model.head.weights, layout, ranks).shard
    for layer in model.layers:
        count = len(layer.positions)
        matrices = [w for w in layer.weights if w.kind in ("matrix", "expert")]
        others = [w for w in layer.weights if w.kind not in ("matrix", "expert")]
        stored = quantised if quantised is not None else itemsize
        # the copies of the weights in the format of the matrix products (fp8 and narrower)
        narrow = policy.quantised_weight * holding(matrices, layout, 1).whole
        if policy.quantised_alone:
            stored = 0.0
            if divided:  # a shard is one copy; the other is made of what is gathered
                narrow = policy.quantised_weight / 2 * holding(matrices, layout, ranks).shard
        total = total + count * (
            stored * holding(matrices, layout, ranks).shard
            + itemsize * holding(others, layout, ranks).shard
            + narrow
        )
    return total
