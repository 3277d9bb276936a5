"""Modules that are counted and priced but whose training memory is not modelled (kind "opaque")."""

from __future__ import annotations

from collections.abc import Iterable

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight

NEVER_RUN = "its cross-attention has weights that a language model alone never runs"


def linear(
    b: BlockBuilder, name: str, inputs: int, outputs: int, bias: bool = False
) -> list[Weight]:
    """The weights of a linear, as stored."""
    weights = [b.weight(f"{name}.weight", outputs, inputs)]
    return [*weights, b.weight(f"{name}.bias", outputs)] if bias else weights


def norm(b: BlockBuilder, name: str, width: int, bias: bool = False) -> list[Weight]:
    weights = [b.weight(f"{name}.weight", width)]
    return [*weights, b.weight(f"{name}.bias", width)] if bias else weights


def module(
    b: BlockBuilder,
    name: str,
    width: int,
    weights: Iterable[Weight],
    *inputs: Tensor,
    group: str | None = None,
) -> Tensor:
    """One opaque step; each matrix is used once per token."""
    kept = tuple(weights)
    flops = 2 * sum(w.elements * w.used[0] // w.used[1] for w in kept if len(w.shape) > 1)
    return b.opaque(name, width, kept, inputs, group=group, flops_per_token=flops)
