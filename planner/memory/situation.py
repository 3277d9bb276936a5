"""What surrounds one stage's blocks on a GPU: columns, static bytes, units, element sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.memory.profile import ModelRows, Moments
from planner.memory.rows import Columns, Parts, amount, highest
from planner.memory.shards import Holding
from planner.memory.sizes import Size
from planner.numeric import Number, is_array, maximum, minimum, where


@dataclass(frozen=True)
class Situation:
    """Per GPU. Holdings are elements; sizes of elements are bytes.

    columns          what each column of sizes.BASIS is multiplied by; gradients count elements
    static           bytes that live through the whole step
    embedding, layers, head  weights of each unit (layers: by distinct block)
    trained_layers   those of them that get gradients: all, or LoRA's adapters
    tied             of the matrix that embedding and head share
    embedding_made   of the embedding's gradient as its backward makes it
    data_ranks       ranks that share shards
    layer_itemsize   of a layer's gathered weights: as computed with, or packed in 4 bits (QLoRA)
    compute, gradient, reduce   element sizes of activations, gradients and reductions
    kept_gradient    element size of a sharded gradient after its reduction
    accumulated      1 where gradients of earlier passes are held through this one, else 0
    recomputed_layers   of a stage's layers, those whose backward computes them again whole
    tables           what all layers share for the whole pass (rotary tables)
    mask, kept_mask  written-out attention masks: while layers run forward, and after that
    in_flight        micro-batches kept at once
    gradient_ranks   ranks that divide the gradients of a unit once its backward has run
    host             static bytes that are kept in the host's memory instead
    offloaded_layers  of a stage's layers, those whose kept tensors wait in the host's memory
    gathered         parameters are gathered unit by unit
    every_layer      tell the moments of every layer, not of those alone that can be the peak
    keeps_gathered   ... and stay gathered from the forward to the backward pass (zero2)
    """

    columns: Columns
    static: Parts
    embedding: Holding
    layers: tuple[Holding, ...]
    head: Holding
    trained_layers: tuple[Holding, ...]
    tied: Number
    embedding_made: Number
    data_ranks: Number
    layer_itemsize: float
    compute: float
    gradient: float
    reduce: float
    kept_gradient: float
    accumulated: Number
    recomputed_layers: Number
    autocast: bool
    tables: Number
    mask: Number
    kept_mask: Number = 0
    in_flight: Number = 1
    holds_embedding: bool = True
    holds_head: bool = True
    gathered: bool = False
    keeps_gathered: bool = False
    loss_in_model: bool = True
    prefetched_units: int = 1
    root_unit: bool = False
    main_gradients: bool = False
    gradient_ranks: Number = 1
    optimizer_temporaries: Number = 0
    embedding_scratch: Number = 0
    frozen: bool = False
    offloaded_layers: Number = 0
    host: Number = 0
    every_layer: bool = False

    @property
    def recomputes(self) -> bool:
        """Whether the layers at both ends of the stage are recomputed whole."""
        return bool(self.recomputed_layers)

    def bytes_of(self, size: Size) -> Number:
        return amount(size, self.columns)


# Layers whose kept tensors are on the GPU while the others' wait in host memory: the one that runs
# and the one that is on its way (torch's and Megatron-Core's activation offloading, double buffer).
LAYERS_ON_GPU_WHEN_OFFLOADED = 2


def kept_by_layers(m: ModelRows, s: Situation, below: int | None = None) -> Number:
    """What layers (those below a position, or all) keep for one pass."""
    positions = m.layer_count if below is None else below
    recomputed = minimum(s.recomputed_layers, positions)
    total: Number = 0
    count = 0
    for layer in m.layers:
        held = sum(p < positions for p in layer.positions)
        count += held
        whole, alone = s.bytes_of(layer.kept), s.bytes_of(layer.input)
        share = recomputed / positions if positions else 0
        total = total + held * (share * alone + (1 - share) * whole)
    if count:
        total = total * (1 - layers_away(count, s.offloaded_layers) / count)
    return total


def layers_away(layers: Number, offloaded: Number) -> Number:
    """Of a model's first layers, of which the first ones are offloaded, those that are not on the
    GPU: the last two of these layers always are.

    >>> layers_away(40, 40), layers_away(40, 8), layers_away(1, 1)
    (38, 8, 0)
    """
    return maximum(minimum(offloaded, layers - LAYERS_ON_GPU_WHEN_OFFLOADED), 0)


def offloaded_activations(m: ModelRows, s: Situation) -> Number:
    """Bytes of activations that wait in the host's memory, of all micro-batches in flight."""
    on_gpu = kept_by_layers(m, s)
    return (kept_by_layers(m, replace(s, offloaded_layers=0)) - on_gpu) * s.in_flight


def shared_below(m: ModelRows, s: Situation, position: int) -> Number:
    """Rotary tables and masks that layers up to a position still hold.

    There is a mask, and in some families a pair of tables, for each distinct window.
    """
    windows = {layer.window for layer in m.layers}
    held = {layer.window for layer in m.layers if layer.positions[0] <= position}
    share = len(held) / len(windows)
    return s.kept_mask * share + s.tables * (share if m.tables_by_kind else 1)


def after(m: ModelRows, values: list[Number], position: int) -> Number:
    """The sum of a value over the layers behind a position."""
    total: Number = 0
    for layer, value in zip(m.layers, values, strict=True):
        total = total + sum(p > position for p in layer.positions) * value
    return total


def over_layers(m: ModelRows, values: list[Number]) -> Number:
    """The sum of a value over all layers."""
    return after(m, values, -1)


def forward_layers(m: ModelRows, s: Situation) -> list[tuple[int, int]]:
    """(number of the distinct block, position) in the order of the forward pass.

    What is kept only grows: of equal blocks the last can be the peak.
    """
    places = (
        (position, number)
        for number, layer in enumerate(m.layers)
        for position in (layer.positions if s.every_layer else layer.positions[-1:])
    )
    return [(number, position) for position, number in sorted(places)]


def backward_layers(m: ModelRows, s: Situation) -> list[tuple[int, int]]:
    """(number of the distinct block, position) in the order of the backward pass.

    Of equal blocks the last and first two can be the peak: between them kept tensors fall and
    gradients rise by the same amounts layer after layer. The outermost differ from their neighbours
    by the unit that was reduced before or is gathered next.
    """
    places = (
        (position, number)
        for number, layer in enumerate(m.layers)
        for position in (
            layer.positions
            if s.every_layer
            else dict.fromkeys((*layer.positions[:2], *layer.positions[-2:]))
        )
    )
    return [(number, position) for position, number in sorted(places, reverse=True)]


def new_gradients(made: Number, earlier: Number, s: Situation) -> Number:
    """Gradients held: the new ones, or the earlier passes' with the new added in place."""
    return earlier + (1 - s.accumulated) * made


def with_gradients(
    first: Moments, later: Moments, s: Situation, itemsize: float
) -> tuple[Number, Number]:
    """Token and gradient bytes at the highest moment of a backward pass [bytes].

    first, later: its moments in the first pass of a step, and where an earlier pass's gradients are
    added to
    """
    if not is_array(s.accumulated):
        return highest(later if s.accumulated else first, s.columns, itemsize)
    pairs = zip(
        highest(first, s.columns, itemsize), highest(later, s.columns, itemsize), strict=True
    )
    tokens, made = (where(s.accumulated > 0, after, before) for before, after in pairs)
    return tokens, made
