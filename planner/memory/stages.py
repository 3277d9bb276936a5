"""Pipeline stages: which layers each holds, and how many micro-batches it keeps at once.

Three stages can hold the peak: the first (most micro-batches in flight, the embedding), the second
(one fewer, no embedding) and the last (the head and its logits).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.memory.profile import BlockRows, ModelRows
from planner.numeric import Number, ceil_div, minimum
from planner.training.layout import Layout


@dataclass(frozen=True)
class Stage:
    """One pipeline stage: its part of the model, and micro-batches in flight."""

    name: str
    model: ModelRows
    in_flight: Number
    holds_embedding: bool = True
    holds_head: bool = True


def in_flight(layout: Layout, index: int) -> Number:
    """Micro-batches whose activations stage `index` keeps at its worst, 1F1B.

    Without interleaving min(m, p - i). With v chunks a stage runs 2 (p - i - 1) + (v - 1) p chunks
    ahead and holds one more, each of 1/v of its layers; for the first stage that is
    p (1 + (p - 1) / (p v)) (Narayanan et al. 2021, section 2.2; Korthikanti et al. 2022, 4.2.3).
    """
    p, v = layout.pipeline_parallel, layout.virtual_pipeline
    passes = layout.gradient_accumulation_steps
    if p == 1:
        return 1
    if v == 1:
        return minimum(passes, p - index)
    return minimum(passes, (2 * (p - index - 1) + (v - 1) * p + 1) / v)


def stages_of(model: ModelRows, layout: Layout) -> tuple[Stage, ...]:
    """The stages at which the peak can be; one stage without pipeline parallelism."""
    p = int(layout.pipeline_parallel)
    if p == 1:
        return (Stage("only", model, 1),)
    indexes = {0: "first", 1: "inner", p - 1: "last"} if p > 2 else {0: "first", 1: "last"}
    return tuple(
        Stage(
            name,
            _part(model, index, p),
            in_flight(layout, index),
            holds_embedding=index == 0,
            holds_head=index == p - 1,
        )
        for index, name in indexes.items()
    )


def layers_of_stage(layer_count: int, index: int, stages: int) -> range:
    """Layers of a stage; what does not divide goes to the earliest stages, the last gets least.

    Where it divides with embedding and loss counted as a layer each, they are (Megatron-Core's
    account_for_embedding_in_pipeline_split and _loss_; Llama 3.1 405B, Qwen3-235B).

    >>> [len(layers_of_stage(11, i, 4)) for i in range(4)]
    [3, 3, 3, 2]
    >>> [len(layers_of_stage(126, i, 8)) for i in range(8)]
    [15, 16, 16, 16, 16, 16, 16, 15]
    """
    if layer_count % stages and not (layer_count + 2) % stages:
        each = (layer_count + 2) // stages
        start = max(index * each - 1, 0)
        return range(start, min((index + 1) * each - 1, layer_count))
    each = int(ceil_div(layer_count, stages))
    if layer_count - each * (stages - 1) >= 1:
        start = index * each
        return range(start, min(start + each, layer_count))
    base, more = divmod(layer_count, stages)
    start = index * base + min(index, more)
    return range(start, start + base + (index < more))


def _part(model: ModelRows, index: int, stages: int) -> ModelRows:
    held = layers_of_stage(model.layer_count, index, stages)
    layers: list[BlockRows] = []
    for layer in model.layers:
        positions = tuple(i - held.start for i in layer.positions if i in held)
        if positions:
            layers.append(replace(layer, positions=positions))
    return replace(model, layers=tuple(layers), layer_count=len(held))
