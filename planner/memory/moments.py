"""The moments of one training step at which a GPU's memory can be at its highest.

Every row is a moment: a phase, where in the model it is, and how many bytes each part of the
breakdown has then. Two ways of holding parameters differ in what surrounds a block's own moments:
replicated (DDP, Megatron-Core, ZeRO-1 and 2) and gathered unit by unit (FSDP, ZeRO-3). The block's
moments, its kept tensors and its gradients are the same rows for both.

Source of the order of events: PyTorch's fully_shard and DistributedDataParallel (release 2.13) as
traced steps show them; docs/accuracy.md has the comparison, case by case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.memory.profile import BlockRows, ModelRows, Moments
from planner.memory.shards import Holding
from planner.memory.tape import BASIS, Size
from planner.numeric import Number

CATEGORIES = (
    "weights",
    "gradients",
    "optimizer_states",
    "activations",
    "logits",
    "communication_buffers",
    "temporaries",
    "framework",
)
Parts = dict[str, Number]
_TOKENS = slice(0, BASIS.index("gradient_whole"))
_GRADIENTS = slice(BASIS.index("gradient_whole"), len(BASIS))


@dataclass(frozen=True)
class Row:
    """One moment: bytes by category."""

    phase: str
    where: str
    parts: Parts

    @property
    def total(self) -> Number:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Situation:
    """All that surrounds the blocks, per GPU.

    columns          what each column of tape.BASIS is multiplied by; gradients count elements
    static           bytes that live through the whole step
    embedding, layers, head  weights of each unit on this GPU (layers: by distinct block)
    trained_*                those of them that get gradients: all, or LoRA's adapters
    data_ranks       ranks that share shards
    compute, gradient, reduce   element sizes of activations, gradients and reductions [bytes]
    kept_gradient    element size of a sharded gradient after its reduction [bytes]
    accumulated      1 where gradients of earlier passes are held through this one, else 0
    gathered         parameters are gathered unit by unit
    keeps_gathered   ... and stay gathered from the forward to the backward pass (zero2)
    """

    columns: tuple[Number, ...]
    static: Parts
    embedding: Holding
    layers: tuple[Holding, ...]
    head: Holding
    trained_layers: tuple[Holding, ...]
    data_ranks: Number
    compute: float
    gradient: float
    reduce: float
    kept_gradient: float
    accumulated: Number
    full_recompute: bool
    autocast: bool
    tables: Number
    mask: Number
    in_flight: Number = 1
    gathered: bool = False
    keeps_gathered: bool = False
    loss_in_model: bool = True
    prefetched_units: int = 1
    main_gradients: bool = False
    optimizer_temporaries: Number = 0
    embedding_scratch: Number = 0
    frozen: bool = False


def amount(size: Size, s: Situation) -> Number:
    """Bytes of a size's token columns."""
    total: Number = 0
    for coefficient, column in zip(size[_TOKENS], s.columns[_TOKENS], strict=True):
        if coefficient:
            total = total + coefficient * column
    return total


def highest(moments: Moments, s: Situation, gradient_itemsize: float) -> tuple[Number, Number]:
    """Token bytes and gradient bytes of the moment at which their sum is largest."""
    columns = np.stack(np.broadcast_arrays(*[np.asarray(c, float) for c in s.columns]))
    tokens = np.tensordot(moments.sizes[:, _TOKENS], columns[_TOKENS], axes=1)
    gradients = gradient_itemsize * np.tensordot(
        moments.sizes[:, _GRADIENTS], columns[_GRADIENTS], axes=1
    )
    index = np.argmax(tokens + gradients, axis=0)
    if tokens.ndim == 1:
        return float(tokens[index]), float(gradients[index])
    chosen = index[None]
    return (
        np.take_along_axis(tokens, chosen, 0)[0],
        np.take_along_axis(gradients, chosen, 0)[0],
    )


def plus(base: Parts, **more: Number) -> Parts:
    parts = dict(base)
    for name, value in more.items():
        parts[name] = parts.get(name, 0) + value
    return parts


def step_rows(m: ModelRows, s: Situation) -> Iterator[Row]:
    """All candidate moments of a step."""
    yield from (gathered_rows if s.gathered else replicated_rows)(m, s)


def kept_by_layers(m: ModelRows, s: Situation) -> Number:
    """What all layers keep for one pass: everything, or their inputs under full recompute."""
    total: Number = 0
    for layer in m.layers:
        size = layer.input if s.full_recompute else layer.kept
        total = total + len(layer.positions) * amount(size, s)
    return total


def _kept_before(m: ModelRows, s: Situation, position: int) -> Number:
    total: Number = 0
    for layer in m.layers:
        size = layer.input if s.full_recompute else layer.kept
        total = total + sum(p < position for p in layer.positions) * amount(size, s)
    return total


def _after(m: ModelRows, values: list[Number], position: int) -> Number:
    total: Number = 0
    for layer, value in zip(m.layers, values, strict=True):
        total = total + sum(p > position for p in layer.positions) * value
    return total


def _ends(layer: BlockRows) -> tuple[int, ...]:
    """The positions at which this block's backward can be the peak: its last and first two.

    Between them kept tensors fall and gradients rise by the same amounts layer after layer. The
    outermost differ from their neighbours by the unit that was reduced before or is gathered next.
    """
    return tuple(dict.fromkeys((*layer.positions[-2:], *layer.positions[:2])))


def replicated_rows(m: ModelRows, s: Situation) -> Iterator[Row]:
    """Every GPU holds whole weights; gradients stay as they are made."""
    kept = amount(m.embedding.kept, s) + s.tables + kept_by_layers(m, s) * s.in_flight
    mask = s.mask if s.full_recompute else 0
    grad = 0.0 if s.main_gradients else s.gradient
    sizes: list[Number] = [grad * h.whole for h in s.trained_layers]
    ends = 0 if s.frozen else grad
    head, embedding = ends * s.head.whole, ends * s.embedding.whole
    everything = sum((len(x.positions) * v for x, v in zip(m.layers, sizes, strict=True)), head)
    everything = everything + embedding
    earlier = s.accumulated * everything
    casts = _autocast_copies(m, s)

    tokens, _ = highest(m.head.forward, s, 0.0)
    base = plus(s.static, gradients=earlier, activations=kept + mask, temporaries=casts[0])
    yield Row("forward", "head", plus(base, logits=tokens))
    for layer in m.layers:
        tokens, _ = highest(layer.forward, s, 0.0)
        before = _kept_before(m, s, layer.positions[-1]) + s.tables + s.mask
        yield Row(
            "forward",
            f"layer {layer.positions[-1]}",
            plus(s.static, gradients=earlier, activations=before + tokens, temporaries=casts[0]),
        )
    base = plus(s.static, activations=kept + mask, temporaries=casts[1])
    for moments in (m.head_loss, m.head_rest):
        tokens, made = highest(moments, s, grad)
        yield Row("backward", "head", plus(base, logits=tokens, gradients=_new(made, earlier, s)))
    tied = head if not m.tied else ends * s.embedding.whole
    for index, layer in enumerate(m.layers):
        tokens, made = highest(layer.backward, s, grad)
        for position in _ends(layer):
            done = tied + _after(m, sizes, position)
            before = (
                amount(m.embedding.kept, s)
                + s.tables
                + mask
                + _kept_before(m, s, position)
                + (amount(layer.input, s) if s.full_recompute else 0)
                + kept_by_layers(m, s) * (s.in_flight - 1)
            )
            copies = casts[1] if not s.full_recompute else casts[1] + _copies(s, s.trained_layers[index])
            yield Row(
                "backward",
                f"layer {position}",
                plus(
                    s.static,
                    activations=before + tokens,
                    gradients=_new(done + made, earlier, s),
                    temporaries=copies,
                ),
            )
    if not s.frozen:
        tokens, made = highest(m.embedding.backward, s, grad)
        extra = made if m.tied else 0  # the head's gradient waits for the embedding's
        yield Row(
            "backward",
            "embedding",
            plus(
                s.static,
                activations=tokens + s.tables,
                gradients=_new(everything + extra, earlier, s),
                temporaries=s.embedding_scratch,
            ),
        )
    yield Row(
        "optimizer",
        "step",
        plus(s.static, gradients=everything, temporaries=s.optimizer_temporaries),
    )


def _new(made: Number, earlier: Number, s: Situation) -> Number:
    """Gradients held: the new ones, or the earlier passes' with the new added in place."""
    return earlier + (1 - s.accumulated) * made


def _copies(s: Situation, holding: Holding) -> Number:
    return s.compute * holding.matrices if s.autocast else 0


def _autocast_copies(m: ModelRows, s: Situation) -> tuple[Number, Number]:
    """Autocast's low-precision copies of the matrices: in the forward pass, and after it."""
    head = s.embedding if m.tied else s.head
    vocabulary = s.compute * head.whole if s.autocast and not s.frozen else 0
    total = vocabulary
    for layer, holding in zip(m.layers, s.trained_layers, strict=True):
        total = total + len(layer.positions) * _copies(s, holding)
    return total, (vocabulary if s.full_recompute else total)


def gathered_rows(m: ModelRows, s: Situation) -> Iterator[Row]:
    """Parameters are gathered for each unit, its gradients reduced when its backward has run.

    Units: the embedding, each layer, and [final norm, head]; with a tied head the embedding, the
    norm and the head are one unit that stays gathered from the head's use to the embedding's.
    """
    c, ranks = s.compute, s.data_ranks
    unit_e = c * s.embedding.gathered(ranks)
    unit_h = c * s.head.gathered(ranks)
    units = [c * h.gathered(ranks) for h in s.layers]
    last = _unit_of(m, units, m.layer_count - 1)
    if m.tied:
        unit_h = unit_h + unit_e
    resting = unit_h  # what stays gathered between forward and backward
    if s.keeps_gathered:
        resting = resting + sum(
            (len(x.positions) * u for x, u in zip(m.layers, units, strict=True)),
            0 if m.tied else unit_e,
        )
    kept_layers = kept_by_layers(m, s) * s.in_flight
    below = amount(m.embedding.kept, s) + s.tables
    kept = below + kept_layers
    mask = s.mask if s.full_recompute else 0
    grad = c
    ends = 0 if s.frozen else 1
    shard_sizes: list[Number] = [s.kept_gradient * h.shard for h in s.trained_layers]
    shard_h = ends * s.kept_gradient * (s.head.shard + (s.embedding.shard if m.tied else 0))
    shard_e = 0 if m.tied else ends * s.kept_gradient * s.embedding.shard
    everything = sum(
        (len(x.positions) * v for x, v in zip(m.layers, shard_sizes, strict=True)),
        shard_h + shard_e,
    )
    earlier = s.accumulated * everything
    prefetch = 0 if s.keeps_gathered else 1

    # forward: a layer's own gather and the next one's
    for layer, unit in zip(m.layers, units, strict=True):
        tokens, _ = highest(layer.forward, s, 0.0)
        position = layer.positions[-1]
        around = resting if s.keeps_gathered else unit * (1 + s.prefetched_units)
        yield Row(
            "forward",
            f"layer {position}",
            plus(
                s.static,
                gradients=earlier,
                activations=_kept_before(m, s, position) + below + s.mask + tokens,
                communication_buffers=around,
            ),
        )
    tokens, _ = highest(m.head.forward, s, 0.0)
    late = (last if m.tied else unit_h) if s.loss_in_model and not s.keeps_gathered else 0
    base = plus(s.static, gradients=earlier, activations=kept + mask)
    yield Row("forward", "head", plus(base, logits=tokens, communication_buffers=resting + late))
    tokens, _ = highest(m.head_loss, s, 0.0)
    yield Row("backward", "loss", plus(base, logits=tokens, communication_buffers=resting))
    tokens, made = highest(m.head_rest, s, grad)
    yield Row(
        "backward",
        "head",
        plus(
            base,
            logits=tokens,
            gradients=made,
            communication_buffers=resting + prefetch * last,
        ),
    )
    # the head's gradients reduced: its reduce input beside its gradients
    if not m.tied and not s.frozen:
        yield Row(
            "backward",
            "head reduced",
            plus(
                plus(s.static, activations=kept + mask),
                activations=amount(m.head.input, s),
                gradients=_new(shard_h, earlier, s) + grad * s.head.whole,
                communication_buffers=(resting if s.keeps_gathered else last)
                + s.reduce * s.head.gathered(ranks),
            ),
        )
    tied_gradient = ends * grad * s.embedding.whole if m.tied else 0
    done_before = 0 if m.tied else shard_h
    stays = resting if (s.keeps_gathered or m.tied) else 0
    for layer, unit, trained in zip(m.layers, units, s.trained_layers, strict=True):
        tokens, made = highest(layer.backward, s, grad)
        for position in _ends(layer):
            done = _new(done_before + _after(m, shard_sizes, position), earlier, s) + tied_gradient
            before = (
                below
                + mask
                + _kept_before(m, s, position)
                + kept_by_layers(m, s) * (s.in_flight - 1)
            )
            own = amount(layer.input, s) if s.full_recompute else 0
            following = _reduced_before(m, s, position)
            ahead = prefetch * (unit if position else (0 if m.tied else unit_e))
            around = stays + (0 if s.keeps_gathered else unit) + ahead
            yield Row(
                "backward",
                f"layer {position}",
                plus(
                    s.static,
                    activations=before + own + tokens,
                    gradients=done + made,
                    communication_buffers=around + following,
                ),
            )
            yield Row(
                "backward",
                f"layer {position} reduced",
                plus(
                    s.static,
                    activations=before + 2 * amount(layer.input, s),
                    gradients=done + grad * trained.whole + s.kept_gradient * trained.shard,
                    communication_buffers=stays + ahead + s.reduce * trained.gathered(ranks),
                ),
            )
    if not s.frozen:
        yield from _embedding_rows(m, s, everything, unit_e, resting)
    yield Row(
        "optimizer",
        "step",
        plus(
            s.static,
            gradients=everything,
            temporaries=s.optimizer_temporaries,
        ),
    )


def _embedding_rows(
    m: ModelRows, s: Situation, everything: Number, unit: Number, resting: Number
) -> Iterator[Row]:
    """The embedding's gradient, as large as the vocabulary, and its reduction.

    Tied: the head's gradient has waited; a view, so that their sum is a third tensor.
    """
    tokens, _ = highest(m.embedding.backward, s, 0.0)
    whole = s.compute * s.embedding.whole
    own_shards = s.embedding.shard + (s.head.shard if m.tied else 0)
    others = everything - s.kept_gradient * own_shards
    first = next(h for x, h in zip(m.layers, s.trained_layers, strict=True) if 0 in x.positions)
    stays = resting if (m.tied or s.keeps_gathered) else unit
    yield Row(
        "backward",
        "embedding",
        plus(
            s.static,
            activations=tokens + s.tables,
            gradients=_new(others, s.accumulated * everything, s) + whole * (3 if m.tied else 1),
            communication_buffers=stays + s.reduce * first.gathered(s.data_ranks),
            temporaries=s.embedding_scratch,
        ),
    )
    yield Row(
        "backward",
        "embedding reduced",
        plus(
            s.static,
            gradients=_new(everything, s.accumulated * everything, s) + whole,
            communication_buffers=s.reduce * s.embedding.gathered(s.data_ranks),
        ),
    )


def _unit_of(m: ModelRows, values: list[Number], position: int) -> Number:
    for layer, value in zip(m.layers, values, strict=True):
        if position in layer.positions:
            return value
    raise AssertionError(position)


def _reduced_before(m: ModelRows, s: Situation, position: int) -> Number:
    """The reduce input of the unit whose backward ran before this layer's: still held."""
    if position == m.layer_count - 1:
        return 0 if m.tied or s.frozen else s.reduce * s.head.gathered(s.data_ranks)
    for layer, trained in zip(m.layers, s.trained_layers, strict=True):
        if position + 1 in layer.positions:
            return s.reduce * trained.gathered(s.data_ranks)
    raise AssertionError(position)
