"""What a layer is made of: tensors, weights and operations, each stated once.

A block is a short list of operations in the order in which the forward pass runs them. An
operation names the tensors it reads and makes, its weights with their shapes, its FLOPs, and the
facts of its kind (heads, window, ...). Parameters, FLOPs, saved activations, workspace and time
are all derived from that list; nothing else describes a layer.

Words used throughout
    width     elements of a tensor per token
    split     how tensor parallelism divides it:
              "sequence"  the residual stream: along the sequence, if sequence parallelism is on
              "tensor"    always divided by tensor_parallel (between a column and a row split)
              "whole"     every rank holds all of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

GROUPS = (
    "embedding",
    "attention",
    "feed_forward",
    "experts",
    "router",
    "norm",
    "state_space",
    "output_head",
    "other",
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the forward pass: `width` elements per token, known by its number."""

    number: int
    width: int
    split: str = "sequence"


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter tensor as the checkpoint holds it.

    name       within its block ("self_attn.q_proj.weight"); a leading "/" means within the model
    shape      as stored
    kind       "matrix", "vector", "embedding" or "expert" (stacked matrices, first axis = expert)
    split      "column" (outputs), "row" (inputs), "vocabulary", "expert" or "whole"
    used       share of it that one token uses: top_k / experts for routed experts, else 1
    tied_to    full name of the weight whose storage this one shares; it is then counted there
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "matrix"
    split: str = "whole"
    used: tuple[int, int] = (1, 1)
    tied_to: str | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def parameters(self) -> int:
        """Parameters that this tensor adds to the model: none if its storage is another's."""
        return 0 if self.tied_to else self.elements

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses."""
        return self.parameters * self.used[0] // self.used[1]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a block.

    kind             what it is: "linear", "rms_norm", "attention", ... (memory and time dispatch
                     on it through tables)
    name             the module's name within the block
    group            one of GROUPS; every total is also told by group
    inputs, outputs  tensors
    weights          its parameters
    flops_per_token  forward FLOPs per token that do not depend on the context length
    flops_per_pair   forward FLOPs per (query token, attended token) pair; 0 without attention
    facts            what is special to the kind
    """

    kind: str
    name: str
    group: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    weights: tuple[Weight, ...] = ()
    flops_per_token: int = 0
    flops_per_pair: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)

    def fact(self, name: str, default: object = None) -> object:
        return self.facts.get(name, default)

    def number(self, name: str) -> int:
        """A fact that must be there and be a whole number."""
        value = self.facts[name]
        assert isinstance(value, int), (self.kind, name, value)
        return value


@dataclass(frozen=True, slots=True)
class Block:
    """Operations that run as one unit: the embedding, one layer, or the head.

    sequence   which tokens run through it ("text", "image", "encoder")
    """

    name: str
    operations: tuple[Operation, ...]
    sequence: str = "text"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(weight for operation in self.operations for weight in operation.weights)
