"""FLOPs of a model, from its operations: 2 per multiply-add of matrix products and attention.

Two conventions are told apart: attention counted over the pairs that causal masking leaves
(what a flash kernel does), or over the full square (PaLM's appendix B and most published MFU).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from planner.model.operations import Block, Operation
from planner.model.spec import ModelSpec


@dataclass(frozen=True)
class FlopCount:
    """Forward FLOPs per token: products with weights, and attention."""

    products: float
    attention: float

    @property
    def forward(self) -> float:
        return self.products + self.attention

    @property
    def training(self) -> float:
        """Forward and backward: every product has two in the backward pass."""
        return 3 * self.forward


def attended(
    sequence_length: float, window: float | None, causal: bool, *, full_square: bool = False
) -> float:
    """Mean number of positions that a token attends to [tokens].

    Causal: s / 2, as the field counts it. With a window w < s: w - w (w - 1) / (2 s).

    >>> attended(8192, None, True)
    4096.0
    """
    s = float(sequence_length)
    if full_square or not causal:
        return s if window is None or full_square else min(s, 2.0 * window)
    if window is None or window >= s:
        return s / 2
    return window - window * (window - 1) / (2 * s)


def operation_flops(op: Operation, sequence_length: float, *, full_square: bool = False) -> float:
    """Forward FLOPs per token of one operation."""
    if not op.flops_per_pair:
        return float(op.flops_per_token)
    window = op.fact("window")
    assert window is None or isinstance(window, int | float)
    positions = attended(
        sequence_length, window, bool(op.fact("causal", True)), full_square=full_square
    )
    return op.flops_per_token + op.flops_per_pair * positions


def block_flops(block: Block, sequence_length: float, *, full_square: bool = False) -> FlopCount:
    products = sum(op.flops_per_token for op in block.operations)
    every = sum(
        operation_flops(op, sequence_length, full_square=full_square) for op in block.operations
    )
    return FlopCount(products, every - products)


def model_flops(spec: ModelSpec, sequence_length: float, *, full_square: bool = False) -> FlopCount:
    """Forward FLOPs per token of the whole model; each distinct block once, times its number."""
    times = Counter(id(place.block) for place in spec.places)
    blocks = {id(place.block): place.block for place in spec.places}
    products = attention = 0.0
    for key, block in blocks.items():
        count = block_flops(block, sequence_length, full_square=full_square)
        products += times[key] * count.products
        attention += times[key] * count.attention
    return FlopCount(products, attention)
