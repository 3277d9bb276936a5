"""Pipeline stages: which layers a GPU holds, and how many micro-batches it keeps at once.

Three stages can hold the peak: the first (most micro-batches in flight, the embedding), the second
(one fewer, no embedding) and the last (the head and its logits). Where a GPU holds a stage and the
one that mirrors it, the first has both ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.memory.profile import BlockRows, ModelRows
from planner.numeric import Number, where
from planner.training.layout import Layout
from planner.training.schedule import (
    in_flight_without_a_layer,
    layers_at,
    layers_of_stage,
    schedule,
)


@dataclass(frozen=True)
class Stage:
    """One pipeline stage: its part of the model, micro-batches in flight, and those of which only
    the weight gradients' operands are kept."""

    name: str
    model: ModelRows
    in_flight: Number
    holds_embedding: bool = True
    holds_head: bool = True
    waiting: Number = 0


def stages_of(model: ModelRows, layout: Layout) -> tuple[Stage, ...]:
    """The stages at which the peak can be; one stage without pipeline parallelism."""
    p, v = int(layout.pipeline_parallel), layout.virtual_pipeline
    if p == 1:
        return (Stage("only", model, 1),)
    row, passes = schedule(layout.pipeline_schedule), layout.gradient_accumulation_steps
    if row.copies > 1:
        indexes = {0: "first", 1: "inner"} if p > 2 else {0: "first"}
    else:
        indexes = {0: "first", 1: "inner", p - 1: "last"} if p > 2 else {0: "first", 1: "last"}
    found = []
    for index, name in indexes.items():
        held = (index, p - 1 - index)[: row.copies]
        in_flight = row.in_flight(p, v, passes, index)
        first, most, _ = layers_at(model.layer_count, p)
        if index == 0 and first < most:
            fewer = in_flight_without_a_layer(in_flight, p, passes, first)
            in_flight = where(v > 1, fewer, in_flight)
        found.append(
            Stage(
                name,
                _part(model, held, p),
                in_flight,
                holds_embedding=0 in held,
                holds_head=p - 1 in held,
                waiting=row.waiting(p, v, passes, index),
            )
        )
    return tuple(found)


def _part(model: ModelRows, stages_held: tuple[int, ...], stages: int) -> ModelRows:
    """The layers of these stages, numbered from 0 on."""
    held = [i for index in stages_held for i in layers_of_stage(model.layer_count, index, stages)]
    place = {position: number for number, position in enumerate(sorted(held))}
    layers: list[BlockRows] = []
    for layer in model.layers:
        positions = tuple(place[i] for i in layer.positions if i in place)
        if positions:
            layers.append(replace(layer, positions=positions))
    return replace(model, layers=tuple(layers), layer_count=len(held))
