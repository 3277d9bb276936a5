"""A model collapsed to a few rows: what each distinct block keeps and needs, as vectors.

After this, memory is arithmetic on small matrices: rows are moments, columns are sizes.BASIS, and
a layout (or a million) only says what each column is multiplied by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.memory.kernels.losses import chunked_head
from planner.memory.operands import operands
from planner.memory.player import Kernel, Setting, play
from planner.memory.recompute import repeated_operations
from planner.memory.sizes import BASIS, ZERO, Size
from planner.memory.tape import BlockProfile, Moment
from planner.model.operations import Block, Weight
from planner.model.spec import ModelSpec, Placed

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Rows of one block's pass: sizes by column, and the name of each row's step."""

    sizes: Matrix  # (moments, len(BASIS))
    names: tuple[str, ...]

    @staticmethod
    def of(moments: Sequence[Moment]) -> Moments:
        """Only rows that can be the largest for some layout: none of which another has it all."""
        if not moments:
            return Moments(np.zeros((1, len(BASIS))), ("",))
        sizes = np.array([m.size for m in moments])
        order = np.argsort(-sizes.sum(axis=1), kind="stable")
        kept: list[int] = []
        for index in order:
            if not any((sizes[other] >= sizes[index]).all() for other in kept):
                kept.append(int(index))
        return Moments(sizes[kept], tuple(moments[i].name for i in kept))

    @staticmethod
    def added(moments: Sequence[Moment]) -> Moments:
        """The same where each gradient is added to an earlier pass's as soon as it is made."""
        return Moments.of([m if m.added is None else replace(m, size=m.added) for m in moments])


@dataclass(frozen=True)
class BlockRows:
    """One distinct block: its weights, what it keeps, and its moments.

    weights    what it holds and a gather brings (none if they are another block's)
    trained    those that get gradients: all, or the adapters alone
    backward_added, again_added   where each gradient is added to an earlier pass's at once
    positions  indexes of the layers that are this block
    repeated   numbers of its operations that selective recompute runs again
    operands   what its weight gradients need where they are delayed
    """

    block: Block
    weights: tuple[Weight, ...]
    trained: tuple[Weight, ...]
    profile: BlockProfile
    forward: Moments
    passing: Moments
    backward: Moments
    again: Moments
    backward_added: Moments
    again_added: Moments
    positions: tuple[int, ...] = ()
    repeated: frozenset[int] = frozenset()
    operands: Size = ZERO

    @property
    def window(self) -> object:
        """The attention's window: layers with the same one share a mask."""
        attention = [op for op in self.block.operations if op.kind == "attention"]
        return attention[0].fact("window") if attention else None

    @property
    def kept(self) -> Size:
        return self.profile.kept

    @property
    def input(self) -> Size:
        return self.profile.input


@dataclass(frozen=True)
class Masks:
    """Written-out attention masks [bytes per (query, key) pair of each sequence].

    forward   while the layers run forward
    layers    what checkpoints keep: those that layers use
    saved     what autograd keeps whether or not layers are recomputed
    """

    forward: float = 0
    layers: float = 0
    saved: float = 0


@dataclass(frozen=True)
class ModelRows:
    """embedding, the distinct layers, and the head; loss moments apart from the rest of the head.

    tables_per_position  bytes per position of what all layers share (rotary tables)
    passing_tables       those that layers read but autograd does not keep
    tables_by_kind       each kind of layer has tables of its own
    masks                bytes per (query, key) pair of the written-out attention masks
    """

    embedding: BlockRows
    layers: tuple[BlockRows, ...]
    head: BlockRows
    head_loss: Moments
    head_rest: Moments
    head_rest_added: Moments
    layer_count: int
    tied: bool
    tables_per_position: float
    passing_tables: float
    tables_by_kind: bool
    masks: Masks


def model_rows(spec: ModelSpec, setting: Setting, kernels: Mapping[str, Kernel]) -> ModelRows:
    """Play every distinct block once."""
    distinct: dict[tuple[int, bool, bool], tuple[Placed, list[int]]] = {}
    for index, place in enumerate(spec.layers):
        # Nothing before the first layer is trained under LoRA: no gradient reaches its input.
        unreached = setting.frozen and index == 0
        key = (id(place.block), unreached, place.weights_of is None)
        distinct.setdefault(key, (place, []))[1].append(index)
    layers = tuple(
        _block(place, spec.hidden_size, setting, kernels, tuple(positions))
        for place, positions in distinct.values()
    )
    embedding = _block(spec.embedding, 0, setting, kernels)
    end = spec.head
    if setting.cross_entropy == "chunked":
        end = replace(end, block=chunked_head(end.block))
    head = _block(end, spec.hidden_size, setting, kernels)
    loss_operation = len(spec.head.block.operations) - 1
    loss = [m for m in head.profile.backward if m.operation >= loss_operation]
    rest = [m for m in head.profile.backward if m.operation < loss_operation]
    return ModelRows(
        embedding=embedding,
        layers=layers,
        head=head,
        head_loss=Moments.of(loss),
        head_rest=Moments.of(rest),
        head_rest_added=Moments.added(rest),
        layer_count=len(spec.layers),
        tied=spec.tied,
        tables_per_position=_tables(spec, setting),
        passing_tables=_tables(spec, setting, passing=True),
        tables_by_kind=any(
            op.fact("own_tables") for place in spec.layers for op in place.block.operations
        ),
        masks=_masks(spec, setting),
    )


def _block(
    place: Placed,
    width: int,
    setting: Setting,
    kernels: Mapping[str, Kernel],
    positions: tuple[int, ...] = (),
) -> BlockRows:
    if setting.frozen and positions[:1] == (0,):
        setting = replace(setting, input_requires_grad=False)
    profile = play(place.block, width, setting, kernels)
    weights = () if place.weights_of is not None else place.block.weights
    trained = weights
    if setting.adapters is not None:
        on = [op for op in place.block.operations if positions and setting.adapters.on(op)]
        trained = tuple(w for op in on for w in setting.adapters.weights(op))
    return BlockRows(
        place.block,
        weights,
        trained,
        profile,
        Moments.of(profile.forward),
        Moments.of(profile.passing),
        Moments.of(profile.backward),
        Moments.of(profile.again),
        Moments.added(profile.backward),
        Moments.added(profile.again),
        positions,
        repeated_operations(place.block, setting.recompute) if positions else frozenset(),
        operands(place.block, setting) if positions else ZERO,
    )


# Bytes of cosine and sine per rotated column: half a head's width each, or the half written twice,
# in the residual stream's dtype; complex pairs are float32.
HALF_TABLES = ("chunk", "every_two")
FLOAT32_TABLES = {"complex": 1, "float32_tables": 2, "repeated_float32": 2}
# Each layer keeps tables of its own: the model's live while layers run, and in checkpoints.
OWN_TABLES = ("repeated_float32",)


def _tables(spec: ModelSpec, setting: Setting, passing: bool = False) -> float:
    """Cosine and sine, one row per position; fact own_tables: a kind of layer has its own.

    passing: those alone that autograd does not keep
    """
    total = 0.0
    for width, style, _ in {
        (
            op.outputs[0].width / op.number("heads") * float(str(op.fact("fraction", 1.0))),
            op.fact("style"),
            op.fact("own_tables"),
        )
        for place in spec.places
        for op in place.block.operations
        if op.kind == "rotary"
    }:
        if (style in OWN_TABLES) != passing:
            continue
        if style in FLOAT32_TABLES:
            total += 4 * width * FLOAT32_TABLES[str(style)]
        else:
            total += setting.numerics.residual * width * (1 if style in HALF_TABLES else 2)
    return total


def _masks(spec: ModelSpec, setting: Setting) -> Masks:
    """Eager attention adds a mask of the compute dtype: one per distinct window of the model.

    facts of the attention: masks (how many the model writes out whatever its layers are), alibi
    "widened" (the mask holds a bias for each head) or "added" (a mask of booleans, kept).
    """
    written = [
        op for place in spec.layers for op in place.block.operations if op.kind == "attention"
    ]
    # Asked for a fused kernel, Transformers writes no mask, whatever code then runs.
    if not written or setting.attention == "flash":
        return Masks()
    if written[0].fact("alibi") == "added":
        return Masks(saved=1)
    each = setting.numerics.residual
    if written[0].fact("alibi") == "widened":
        each *= written[0].number("heads")
    used = len({op.fact("window") for op in written})
    return Masks(max(used, int(str(written[0].fact("masks", 1)))) * each, used * each)
