"""Moments of a step where every data-parallel rank holds whole weights: DDP, Megatron-Core, ZeRO-1
and 2. Gradients stay as they are made, or go into a buffer that is always there.

Source of the order of events: PyTorch's DistributedDataParallel (release 2.13) as traced steps show
it; docs/accuracy.md has the comparison, case by case.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.memory.profile import ModelRows
from planner.memory.rows import Row, highest, layer_row, plus
from planner.memory.shards import Holding
from planner.memory.situation import (
    Situation,
    after,
    backward_layers,
    forward_layers,
    kept_by_layers,
    new_gradients,
    over_layers,
    shared_below,
    with_gradients,
)
from planner.numeric import Number


def replicated_rows(m: ModelRows, s: Situation) -> Iterator[Row]:
    """All candidate moments of one stage."""
    begin = s.bytes_of(m.embedding.kept) if s.holds_embedding else 0
    kept = begin + s.tables + kept_by_layers(m, s) * s.in_flight
    grad = 0.0 if s.main_gradients else s.gradient
    sizes: list[Number] = [grad * h.whole / s.gradient_ranks for h in s.trained_layers]
    trains_ends = 0 if s.frozen else grad
    head = trains_ends * s.head.whole if s.holds_head else 0
    embedding = trains_ends * s.embedding.whole if s.holds_embedding or m.tied else 0
    everything = over_layers(m, sizes) + head + embedding
    earlier = s.accumulated * everything
    casts = [_copies(s, h) for h in s.trained_layers]
    all_casts = over_layers(m, casts)

    for number, position in forward_layers(m, s):
        layer = m.layers[number]
        tokens, _ = highest(layer.passing if s.recomputes else layer.forward, s.columns, 0.0)
        before = begin + s.tables + s.mask + kept_by_layers(m, s, position)
        before = before + kept_by_layers(m, s) * (s.in_flight - 1)
        parts = plus(
            s.static, gradients=earlier, saved_activations=before, working_activations=tokens
        )
        yield layer_row(
            "forward", position, plus(parts, temporaries=_cached(m, s, casts, position))
        )
    if s.holds_head:
        tokens, _ = highest(m.head.forward, s.columns, 0.0)
        parts = plus(
            s.static, gradients=earlier, saved_activations=kept + s.kept_mask, logits=tokens
        )
        yield Row("forward", "head", plus(parts, temporaries=all_casts))
        # what products keep of autocast's copies until their own backward
        waiting_casts = 0 if s.recomputes else all_casts
        passes = (("loss", m.head_loss, m.head_loss), ("head", m.head_rest, m.head_rest_added))
        for where, first, later in passes:
            tokens, made = with_gradients(first, later, s, grad)
            parts = plus(s.static, saved_activations=kept + s.kept_mask, temporaries=waiting_casts)
            parts = plus(parts, gradients=earlier + made)
            yield Row("backward", where, plus(parts, logits=tokens))
    # a tied head's gradient waits for the embedding's, to which it is added
    waiting = trains_ends * s.tied if s.holds_head else 0
    for number, position in backward_layers(m, s):
        layer, cast = m.layers[number], casts[number]
        if s.recomputes:
            tokens, made = with_gradients(layer.again, layer.again_added, s, grad)
        else:
            tokens, made = with_gradients(layer.backward, layer.backward_added, s, grad)
        before = begin + shared_below(m, s, position) + kept_by_layers(m, s, position)
        before = before + kept_by_layers(m, s) * (s.in_flight - 1)
        # what the layers below still keep; recomputed, adapters' own, cast again
        again = cast if s.frozen else 0
        copies = again if s.recomputes else _cached(m, s, casts, position)
        done = new_gradients(head + after(m, sizes, position), earlier, s) + waiting
        parts = plus(s.static, saved_activations=before, working_activations=tokens)
        parts = plus(parts, gradients=done + made)
        yield layer_row("backward", position, plus(parts, temporaries=copies))
    if s.holds_embedding and not s.frozen:
        tokens, _ = highest(m.embedding.backward, s.columns, grad)
        parts = plus(s.static, working_activations=tokens, temporaries=s.embedding_scratch)
        own = trains_ends * s.embedding.whole
        gradients = new_gradients(everything - own, earlier, s) + own + waiting
        yield Row("backward", "embedding", plus(parts, gradients=gradients))
        # The head's gradient is a view, to which nothing is added in place: their sum is a third
        # tensor. Under autocast it is a cast copy of its own.
        third = 0 if s.autocast else waiting
        yield Row("backward", "embedding summed", plus(s.static, gradients=gradients + third))
    yield Row(
        "optimizer",
        "step",
        plus(s.static, gradients=everything, temporaries=s.optimizer_temporaries),
    )


def _copies(s: Situation, holding: Holding) -> Number:
    return s.compute * holding.matrices if s.autocast else 0


def _cached(m: ModelRows, s: Situation, casts: list[Number], position: int) -> Number:
    """Autocast's copies of the layers up to a position; of full weights the layer's own are among
    what it works with (memory/tape.py)."""
    last = position if s.frozen else position - 1
    return over_layers(m, casts) - after(m, casts, last)
