"""Convolutions over images, counted: parameters exact, training memory not modelled.

A token is a position of the first feature map; a map that is `shrunk` n times has n squared fewer
positions, so each of its FLOPs is counted at 1 / n squared per token.
"""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor


def convolution(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    shrunk: int = 1,
) -> Tensor:
    weights = [b.weight(f"{name}.weight", outputs, inputs // groups, kernel, kernel)]
    if bias:
        weights.append(b.weight(f"{name}.bias", outputs))
    flops = 2 * weights[0].elements // shrunk**2
    return b.opaque(name, outputs, weights, (x,), flops_per_token=flops)


def normalized(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """A norm with weight and bias per channel: batch norm, group norm, or over channels."""
    weights = (b.weight(f"{name}.weight", x.width), b.weight(f"{name}.bias", x.width))
    return b.opaque(name, x.width, weights, (x,), group="norm")


def per_channel(b: BlockBuilder, x: Tensor, name: str, *shape: int) -> Tensor:
    """A learned factor (or more) per channel."""
    weight = b.weight(name, *(shape or (x.width,)), kind="vector")
    return b.opaque(name, x.width, (weight,), (x,), group="other")
