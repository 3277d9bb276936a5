"""Convolutions over images and along time, counted: parameters exact, training memory not modelled.

A token is a position of the first feature map; a map that is `shrunk` n times has n squared fewer
positions, so each of its FLOPs is counted at 1 / n squared per token.
"""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor

# `shrunk` of what runs on one position per image: next to no FLOPs per position.
ONCE_PER_IMAGE = 10**6


def convolution(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, ...] = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    shrunk: int = 1,
) -> Tensor:
    """kernel: one side for both axes, or each axis's (one alone: along time)."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    weights = [b.weight(f"{name}.weight", outputs, inputs // groups, *sides)]
    if bias:
        weights.append(b.weight(f"{name}.bias", outputs))
    flops = 2 * weights[0].elements // shrunk**2
    return b.opaque(name, outputs, weights, (x,), flops_per_token=flops)


def normalized(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """A norm with weight and bias per channel: batch norm, group norm, or over channels."""
    weights = (b.weight(f"{name}.weight", x.width), b.weight(f"{name}.bias", x.width))
    return b.opaque(name, x.width, weights, (x,), group="norm")


def fitted(b: BlockBuilder, x: Tensor, width: int) -> Tensor:
    """x as what comes next takes it, in a config that builds and cannot run."""
    return x if x.width == width else b.opaque("fitted", width, (), (x,))


def with_norm(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    groups: int = 1,
    shrunk: int = 1,
    names: tuple[str, str] = ("convolution", "normalization"),
) -> Tensor:
    """A convolution without bias and its norm, inside a module of their own."""
    inner = b.part(name)
    x = convolution(inner, x, names[0], inputs, outputs, kernel, groups=groups, shrunk=shrunk)
    return normalized(inner, x, names[1])


def squeeze_excitation(
    b: BlockBuilder, x: Tensor, name: str, width: int, narrow: int, parts: tuple[str, str]
) -> Tensor:
    """Two small convolutions over the mean of all positions, whose result scales each channel."""
    inner = b.part(name)
    x = convolution(inner, x, parts[0], width, narrow, bias=True, shrunk=ONCE_PER_IMAGE)
    return convolution(inner, x, parts[1], narrow, width, bias=True, shrunk=ONCE_PER_IMAGE)


def divisible(value: float, divisor: int = 8, least: int | None = None) -> int:
    """`value` rounded to a multiple of `divisor`: at least `least`, never under 90 % of `value`.

    Source: how MobileNet's authors round widths; Transformers' make_divisible.
    """
    floor = divisor if least is None else least
    rounded = max(floor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def per_channel(b: BlockBuilder, x: Tensor, name: str, *shape: int) -> Tensor:
    """A learned factor (or more) per channel."""
    weight = b.weight(name, *(shape or (x.width,)), kind="vector")
    return b.opaque(name, x.width, (weight,), (x,), group="other")
