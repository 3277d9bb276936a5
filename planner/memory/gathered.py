"""Moments of a step where parameters are gathered unit by unit: FSDP, ZeRO-3.

Units: the embedding, each layer, and [final norm, head]; with a tied head the embedding, the norm
and the head are one unit that stays gathered from the head's use to the embedding's. FSDP version 1
has both in its root unit, tied or not, gathered from the first use to the last. A unit's
gradients are whole until its backward has run, then they are reduced to shards; the reduction's
input lives until the next unit's own.

Source of the order of events: PyTorch's fully_shard (release 2.13) as traced steps show it;
docs/accuracy.md has the comparison, case by case.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from planner.memory.profile import ModelRows
from planner.memory.rows import Row, highest, layer_row, plus
from planner.memory.situation import (
    Situation,
    after,
    backward_layers,
    forward_layers,
    kept_by_layers,
    new_gradients,
    over_layers,
    shared_below,
)
from planner.numeric import Number


def gathered_rows(m: ModelRows, s: Situation) -> Iterator[Row]:
    """All candidate moments of one stage."""
    yield from _Gathered(m, s).rows()


class _Gathered:
    """The units' sizes, worked out once, and the moments in the order of a step."""

    def __init__(self, m: ModelRows, s: Situation) -> None:
        self.m, self.s = m, s
        gathered = s.compute
        self.unit_embedding = gathered * s.embedding.gathered
        self.unit_head = gathered * s.head.gathered if s.holds_head else 0
        own = self.unit_embedding if s.holds_embedding else 0
        self.joined = m.tied or s.root_unit  # embedding and head are one unit
        if self.joined:
            self.unit_head = self.unit_head + (self.unit_embedding if m.tied else own)
        self.units: list[Number] = [s.layer_itemsize * h.gathered for h in s.layers]
        # the unit with the embedding: gathered first, reduced last
        self.first = self.unit_head if self.joined else own
        # the head's gradient, which waits for the embedding's where they are one unit [elements]
        self.waiting: Number = s.tied
        if s.root_unit and not m.tied and s.holds_head:
            self.waiting = s.head.whole
        # what stays gathered from the end of the forward pass on
        self.resting = self.unit_head
        if s.keeps_gathered:
            self.resting = self.resting + over_layers(m, self.units) + (0 if self.joined else own)
        self.prefetches = 0 if s.keeps_gathered else 1
        self.begin = s.bytes_of(m.embedding.kept) if s.holds_embedding else 0
        ends_trained = 0 if s.frozen else s.kept_gradient
        self.shards: list[Number] = [s.kept_gradient * h.shard for h in s.trained_layers]
        self.shard_embedding = ends_trained * s.embedding.shard if s.holds_embedding else 0
        self.shard_head = ends_trained * s.head.shard if s.holds_head else 0
        if self.joined:
            self.shard_head = self.shard_head + self.shard_embedding
            self.shard_embedding = 0
        self.everything = over_layers(m, self.shards) + self.shard_head + self.shard_embedding
        self.earlier = s.accumulated * self.everything
        self.kept = self.begin + s.tables + kept_by_layers(m, s) * s.in_flight

    def rows(self) -> Iterator[Row]:
        yield from self.forward()
        if self.s.holds_head:
            yield from self.head()
        yield from self.layers()
        if self.s.holds_embedding and not self.s.frozen:
            yield from self.embedding()
        s = self.s
        parts = plus(s.static, gradients=self.everything)
        yield Row("optimizer", "step", plus(parts, temporaries=s.optimizer_temporaries))

    def held(self, made: Number) -> Number:
        return new_gradients(made, self.earlier, self.s)

    def up_to(self, position: int) -> Number:
        """What stays gathered when the units of the layers up to a position are (zero2)."""
        total = over_layers(self.m, self.units)
        return self.first + total - after(self.m, self.units, position)

    def forward(self) -> Iterator[Row]:
        """A layer computes with its own unit beside a gather's output.

        Before that its unit is copied out of its gather, while the gather before is still held.
        """
        m, s = self.m, self.s
        for number, position in forward_layers(m, s):
            layer, unit = m.layers[number], self.units[number]
            before = self.begin + s.tables + s.mask + kept_by_layers(m, s, position)
            before = before + kept_by_layers(m, s) * (s.in_flight - 1)
            base = plus(s.static, gradients=self.earlier, saved_activations=before)
            root = self.first if s.root_unit else 0
            alone = self.up_to(position) if s.keeps_gathered else unit + root
            copying = alone + unit + (self.unit_at(position - 1) if position else self.first - root)
            stream = s.bytes_of(layer.input)
            parts = plus(base, working_activations=stream, gathered_parameters=copying)
            yield layer_row("forward", position, parts, "gathered")
            tokens, _ = highest(layer.passing if s.recomputes else layer.forward, s.columns, 0.0)
            around = alone + unit * s.prefetched_units
            parts = plus(base, working_activations=tokens, gathered_parameters=around)
            yield layer_row("forward", position, parts)

    def head(self) -> Iterator[Row]:
        """The loss forward and backward, the head's backward, and the reduction of its gradients.

        Where the loss is computed inside the root module, the last gather's output still lives.
        """
        m, s = self.m, self.s
        last = self.unit_at(m.layer_count - 1)
        late: Number = 0
        if s.loss_in_model:
            late = last if self.joined else self.unit_head
        base = plus(s.static, gradients=self.earlier, saved_activations=self.kept + s.kept_mask)
        tokens, _ = highest(m.head.forward, s.columns, 0.0)
        parts = plus(base, logits=tokens, gathered_parameters=self.resting + late)
        yield Row("forward", "head", parts)
        tokens, _ = highest(m.head_loss, s.columns, 0.0)
        yield Row("backward", "loss", plus(base, logits=tokens, gathered_parameters=self.resting))
        itemsize = 0.0 if s.frozen else s.compute
        tokens, made = highest(m.head_rest, s.columns, itemsize)
        around = self.resting + self.prefetches * last
        parts = plus(base, logits=tokens, gradients=made, gathered_parameters=around)
        yield Row("backward", "head", parts)
        if self.joined or s.frozen:
            return
        parts = plus(s.static, saved_activations=self.kept + s.kept_mask)
        parts = plus(parts, working_activations=s.bytes_of(m.head.input))
        whole = s.compute * s.head.whole
        reducing = s.reduce * s.head.gathered
        around = self.resting - self.unit_head if s.keeps_gathered else last
        parts = plus(parts, gradients=self.earlier + whole)
        parts = plus(parts, gathered_parameters=around, reductions=reducing)
        yield Row("backward", "head reduced", parts)

    def layers(self) -> Iterator[Row]:
        """Each layer's backward with its unit, the next gather, and the reduction before it."""
        m, s = self.m, self.s
        waiting: Number = 0
        if s.holds_head and not s.frozen:
            waiting = s.compute * self.waiting
        reduced_head = 0 if self.joined else self.shard_head
        tied = self.first if self.joined else 0
        for number, position in backward_layers(m, s):
            layer, unit, trained = m.layers[number], self.units[number], s.trained_layers[number]
            tokens, made = highest(
                layer.again if s.recomputes else layer.backward, s.columns, s.compute
            )
            done = self.held(reduced_head + after(m, self.shards, position)) + waiting
            before = self.begin + shared_below(m, s, position)
            before = before + kept_by_layers(m, s, position)
            before = before + kept_by_layers(m, s) * (s.in_flight - 1)
            base = plus(s.static, saved_activations=before)
            ahead = self.prefetches * self.gathered_before(position)
            around = (self.up_to(position) if s.keeps_gathered else tied + unit) + ahead
            reducing = self.reducing_since(position)
            stream = s.bytes_of(layer.input)
            if not s.keeps_gathered:  # its unit is copied out of its gather
                own = s.bytes_of(layer.input if s.recomputes else layer.kept) + stream
                parts = plus(base, working_activations=own, gradients=done, reductions=reducing)
                parts = plus(parts, gathered_parameters=tied + 2 * unit)
                yield layer_row("backward", position, parts, "gathered")
            parts = plus(base, working_activations=tokens, gradients=done + made)
            parts = plus(parts, gathered_parameters=around, reductions=reducing)
            yield layer_row("backward", position, parts)
            # copied into the reduction's input before the shard is made
            own_gradients = s.compute * trained.whole
            stays = self.up_to(position - 1) if s.keeps_gathered else tied
            parts = plus(base, working_activations=2 * stream, gradients=done + own_gradients)
            parts = plus(parts, gathered_parameters=stays + ahead)
            parts = plus(parts, reductions=s.reduce * trained.gathered)
            yield layer_row("backward", position, parts, "reduced")

    def embedding(self) -> Iterator[Row]:
        """The embedding's gradient, as large as the vocabulary, and its reduction.

        The head's gradient has waited where both are one unit; tied, their sum is a third tensor.
        Under tensor parallelism each rank makes the whole vocabulary's and then copies its part.
        """
        m, s = self.m, self.s
        tokens, _ = highest(m.embedding.backward, s.columns, 0.0)
        whole = s.compute * s.embedding.whole
        own = self.shard_head if self.joined else self.shard_embedding
        waiting = s.compute * self.waiting
        shared = plus(s.static, gathered_parameters=self.first, reductions=self.reducing_since(-1))
        parts = plus(shared, saved_activations=s.tables, working_activations=tokens)
        parts = plus(parts, temporaries=s.embedding_scratch)
        made = s.compute * s.embedding_made
        gradients = self.held(self.everything - own) + made + waiting
        yield Row("backward", "embedding", plus(parts, gradients=gradients))
        summed = gradients + s.compute * s.tied
        yield Row("backward", "embedding summed", plus(shared, gradients=summed))
        if np.any(made != whole):
            yield Row("backward", "embedding split", plus(shared, gradients=gradients + whole))
        reducing = s.reduce * s.embedding.gathered
        if not m.tied:
            reducing = reducing + s.reduce * (s.head.gathered if self.joined else 0)
            whole = whole + waiting
        parts = plus(s.static, gradients=self.held(self.everything - own) + whole)
        yield Row("backward", "embedding reduced", plus(parts, reductions=reducing))

    def unit_at(self, position: int) -> Number:
        """The unit of the layer at a position."""
        pairs = zip(self.m.layers, self.units, strict=True)
        return next(unit for layer, unit in pairs if position in layer.positions)

    def gathered_before(self, position: int) -> Number:
        """What is gathered ahead during a layer's backward: the layer below, or the embedding."""
        if position:
            return self.unit_at(position - 1)
        return 0 if self.joined or not self.s.holds_embedding else self.unit_embedding

    def reducing_since(self, position: int) -> Number:
        """The reduction's input of the unit whose backward ran before: the one above."""
        m, s = self.m, self.s
        if position == m.layer_count - 1:
            if self.joined or s.frozen or not s.holds_head:
                return 0
            return s.reduce * s.head.gathered
        pairs = zip(m.layers, s.trained_layers, strict=True)
        above = next(h for layer, h in pairs if position + 1 in layer.positions)
        return s.reduce * above.gathered
