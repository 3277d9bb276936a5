"""Mixers with a recurrent state in place of attention: Mamba, Mamba-2 and gated delta rules.

The projections are ordinary linears. Convolution, scan and gated norm are counted as one opaque
operation: parameters exact, FLOPs those of the recurrence itself (the state takes a decay and an
outer product, then is read: three multiply-adds per element), training memory not modelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight

SCAN_NOT_MODELLED = "the tensors that a recurrent scan keeps for its backward pass are not modelled"

# decay x state, input x key into the state, state x query: 2 FLOPs each per element of the state
FLOPS_PER_STATE_ELEMENT = 6


def depthwise_convolution(
    b: BlockBuilder, name: str, channels: int, kernel: int, bias: bool
) -> tuple[Weight, ...]:
    """Weights of a causal convolution along the sequence, one filter per channel."""
    weight = b.weight(f"{name}.weight", channels, 1, kernel, split="column")
    if not bias:
        return (weight,)
    return weight, b.weight(f"{name}.bias", channels, split="column")


def convolution_flops(channels: int, kernel: int) -> int:
    return 2 * channels * kernel


def recurrence(
    b: BlockBuilder,
    name: str,
    width: int,
    inputs: Iterable[Tensor],
    weights: Iterable[Weight],
    *,
    state: int,
    other_flops: int = 0,
) -> Tensor:
    """A scan over a state of `state` elements per token that puts out `width` elements."""
    return b.opaque(
        name,
        width,
        tuple(weights),
        tuple(inputs),
        flops_per_token=FLOPS_PER_STATE_ELEMENT * state + other_flops,
    )


@dataclass(frozen=True)
class Mamba:
    """Sizes of a Mamba mixer: the state is inner x state elements.

    time_step_rank   width of the low-rank step size
    norms            RMS norms of step size, B and C (Jamba)
    """

    inner: int
    state: int
    time_step_rank: int
    kernel: int
    convolution_bias: bool
    bias: bool
    activation: str
    norms: bool = False


def mamba_mixer(b: BlockBuilder, x: Tensor, m: Mamba) -> Tensor:
    """Selective scan: (x, gate) = in_proj; step, B, C = x_proj(conv(x)); scan; out_proj."""
    both = b.linear(x, "in_proj", 2 * m.inner, bias=m.bias)
    convolved = b.opaque(
        "conv1d",
        m.inner,
        depthwise_convolution(b, "conv1d", m.inner, m.kernel, m.convolution_bias),
        (both,),
        flops_per_token=convolution_flops(m.inner, m.kernel),
    )
    selected = b.linear(convolved, "x_proj", m.time_step_rank + 2 * m.state, split="row")
    step, keys, queries = b.split(selected, m.time_step_rank, m.state, m.state)
    if m.norms:
        step = b.rms_norm(step, "dt_layernorm")
        keys = b.rms_norm(keys, "b_layernorm")
        queries = b.rms_norm(queries, "c_layernorm")
    step = b.linear(step, "dt_proj", m.inner, bias=True)
    scan = (
        b.weight("A_log", m.inner, m.state, kind="vector", split="column"),
        b.weight("D", m.inner, split="column"),
    )
    out = recurrence(
        b, "scan", m.inner, (convolved, step, keys, queries), scan, state=m.inner * m.state
    )
    return b.linear(out, "out_proj", x.width, bias=m.bias, split="row")


@dataclass(frozen=True)
class Mamba2:
    """Sizes of a Mamba-2 mixer: heads x (inner / heads) x state elements of state.

    groups       heads that share B and C
    gated_norm   a norm between scan and output
    """

    inner: int
    heads: int
    groups: int
    state: int
    kernel: int
    convolution_bias: bool
    bias: bool
    output_bias: bool
    gated_norm: bool = True


def mamba2_mixer(b: BlockBuilder, x: Tensor, m: Mamba2) -> Tensor:
    """Gate, x, B, C and step size from one projection; convolution; scan; norm; out_proj."""
    channels = m.inner + 2 * m.groups * m.state
    projected = b.linear(x, "in_proj", m.inner + channels + m.heads, bias=m.bias)
    weights = [
        b.weight("dt_bias", m.heads, split="column"),
        b.weight("A_log", m.heads, split="column"),
        b.weight("D", m.heads, split="column"),
        *depthwise_convolution(b, "conv1d", channels, m.kernel, m.convolution_bias),
    ]
    if m.gated_norm:
        weights.append(b.weight("norm.weight", m.inner, split="column"))
    out = recurrence(
        b,
        "scan",
        m.inner,
        (projected,),
        weights,
        state=m.inner * m.state,
        other_flops=convolution_flops(channels, m.kernel),
    )
    return b.linear(out, "out_proj", x.width, bias=m.output_bias, split="row")
