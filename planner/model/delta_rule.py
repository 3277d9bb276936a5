"""Linear attention by the gated delta rule (Qwen3-Next, OLMo hybrid, Kimi Linear).

A state of key x value elements per head takes a decay and, for each token, the difference between
the token's value and what its key reads. As in state_space, projections are ordinary linears, and
convolution, scan and gated norm are counted but their training memory is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight
from planner.model.state_space import convolution_flops, depthwise_convolution, recurrence


@dataclass(frozen=True)
class DeltaHeads:
    """Heads of a gated delta rule; several value heads may share a key head."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def keys(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Queries, keys and values, which run through the convolution together."""
        return 2 * self.keys + self.values


def delta_scan(
    b: BlockBuilder,
    h: DeltaHeads,
    inputs: tuple[Tensor, ...],
    weights: tuple[Weight, ...],
) -> Tensor:
    """Convolution and scan; `weights` are those of decay and norm."""
    state = h.values * h.key_dim
    convolution = depthwise_convolution(b, "conv1d", h.channels, h.kernel, bias=False)
    return recurrence(
        b,
        "scan",
        h.values,
        inputs,
        (*weights, *convolution),
        state=state,
        other_flops=2 * state + convolution_flops(h.channels, h.kernel),  # + what the key reads
    )


def gated_delta_net(
    b: BlockBuilder,
    x: Tensor,
    h: DeltaHeads,
    projections: tuple[tuple[str, int], ...],
    *,
    norm: str,
    output: str,
) -> Tensor:
    """`projections`: names and widths of the linears from x, as the family cuts them."""
    made = tuple(b.linear(x, name, width) for name, width in projections)
    weights = (
        b.weight("A_log", h.value_heads, split="column"),
        b.weight("dt_bias", h.value_heads, split="column"),
        b.weight(f"{norm}.weight", h.value_dim),
    )
    return b.linear(delta_scan(b, h, made, weights), output, x.width, split="row")
