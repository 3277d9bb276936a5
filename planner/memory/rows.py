"""Moments of a step as rows of bytes by group, and how a block's vectors become bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.memory.profile import Moments
from planner.memory.sizes import BASIS, Size
from planner.numeric import Number, is_array

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
# Groups of tensors that a moment tells apart -> the category of the breakdown they belong to.
# saved_activations: what layers keep for the backward pass, with the step's inputs.
# working_activations: what the part that runs holds, its own kept tensors included.
# reductions: inputs of reductions, and DDP's buckets.
GROUPS = {
    "weights": "weights",
    "optimizer_states": "optimizer_states",
    "gradients": "gradients",
    "saved_activations": "activations",
    "working_activations": "activations",
    "logits": "logits",
    "gathered_parameters": "communication_buffers",
    "reductions": "communication_buffers",
    "temporaries": "temporaries",
}
Parts = dict[str, Number]
Columns = tuple[Number, ...]

_TOKENS = slice(0, BASIS.index("gradient_whole"))
_GRADIENTS = slice(BASIS.index("gradient_whole"), len(BASIS))


@dataclass(frozen=True)
class Row:
    """One moment: the phase, where in the model (of a layer: its number), and bytes by group."""

    phase: str
    where: str
    parts: Parts
    layer: int | None = None
    stage: str = "only"

    @property
    def total(self) -> Number:
        """Smaller arrays are added first, while their sum is small."""
        return sum(sorted(self.parts.values(), key=_size))

    def of(self, category: str) -> Number:
        """Bytes of one category of the breakdown."""
        return sum(size for group, size in self.parts.items() if GROUPS[group] == category)


def _size(value: Number) -> int:
    return value.size if is_array(value) else 0


def plus(base: Parts, **more: Number) -> Parts:
    """The parts with more bytes in some groups."""
    parts = dict(base)
    for name, value in more.items():
        parts[name] = parts.get(name, 0) + value
    return parts


def layer_row(phase: str, layer: int, parts: Parts, doing: str = "") -> Row:
    """A moment of a layer; doing: gathered or reduced, where it is not its own pass."""
    return Row(phase, f"layer {layer} {doing}".rstrip(), parts, layer)


def amount(size: Size, columns: Columns) -> Number:
    """Bytes of a size's token columns."""
    total: Number = 0
    for coefficient, column in zip(size[_TOKENS], columns[_TOKENS], strict=True):
        if coefficient:
            total = total + coefficient * column
    return total


def with_gradients_amount(size: Size, columns: Columns, itemsize: float) -> Number:
    """Bytes of a size's token columns, and of its gradients of so many bytes an element."""
    total = amount(size, columns)
    for coefficient, column in zip(size[_GRADIENTS], columns[_GRADIENTS], strict=True):
        total = total + itemsize * coefficient * column
    return total


def highest(moments: Moments, columns: Columns, itemsize: float) -> tuple[Number, Number]:
    """Token bytes and gradient bytes of the moment at which their sum is largest.

    itemsize: of a weight's gradient [bytes].
    """
    if any(is_array(c) for c in columns):
        stacked = np.stack(np.broadcast_arrays(*[np.asarray(c, float) for c in columns]))
    else:
        stacked = np.array(columns, float)
    # einsum, not BLAS: its threads cost more than so few columns take
    sizes, product = moments.sizes, "mc,c...->m..."
    tokens = np.einsum(product, sizes[:, _TOKENS], stacked[_TOKENS])
    gradients = itemsize * np.einsum(product, sizes[:, _GRADIENTS], stacked[_GRADIENTS])
    index = np.argmax(tokens + gradients, axis=0)
    if tokens.ndim == 1:
        return float(tokens[index]), float(gradients[index])
    chosen = index[None]
    return (
        np.take_along_axis(tokens, chosen, 0)[0],
        np.take_along_axis(gradients, chosen, 0)[0],
    )
