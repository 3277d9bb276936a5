"""A model: an embedding, an ordered pattern of blocks, and a head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from planner.model.operations import Block, Weight


@dataclass(frozen=True, slots=True)
class Placed:
    """A block at its place in the model: `prefix` goes before the names of its weights.

    weights_of   prefix of the place whose weights this one runs again (shared blocks); its own
                 weights are then not counted
    """

    prefix: str
    block: Block
    weights_of: str | None = None

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Every weight with its full name; none if they belong to another place."""
        if self.weights_of is None:
            for weight in self.block.weights:
                absolute = weight.name.startswith("/")
                yield weight.name[1:] if absolute else self.prefix + weight.name, weight


@dataclass(frozen=True)
class ModelSpec:
    """The network's shape as an ordered pattern of blocks.

    hidden_size  width of the residual stream that joins the blocks
    config       the fields that the user gave, as in config.json
    assumed      what was left out and taken from the family's defaults: field -> value
    warnings     what was not understood, in sentences
    trainable    why the training memory is not modelled, or None if it is
    buffer_bytes  tables on the GPU that are no parameters (positions, causal masks)
    buffer_elements  those of them that have the parameters' dtype
    """

    name: str
    model_type: str
    hidden_size: int
    embedding: Placed
    layers: tuple[Placed, ...]
    head: Placed
    config: Mapping[str, object] = field(default_factory=dict)
    assumed: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    not_trainable_because: str | None = None
    buffer_bytes: int = 0
    buffer_elements: int = 0

    @property
    def distinct_layers(self) -> tuple[Block, ...]:
        """Each layer's block once, in the order of first use."""
        return tuple({id(place.block): place.block for place in self.layers}.values())

    @property
    def places(self) -> tuple[Placed, ...]:
        """All blocks in the order in which the forward pass runs them."""
        return (self.embedding, *self.layers, self.head)

    @property
    def tied(self) -> bool:
        """Whether the head's matrix is the embedding's."""
        return any(w.tied_to for w in self.head.block.weights if w.kind == "matrix")
