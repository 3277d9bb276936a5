"""The pieces that many families share, written once as forward passes over a BlockBuilder."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor


def grouped_query_attention(
    b: BlockBuilder,
    x: Tensor,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    output_width: int,
    query_bias: bool = False,
    output_bias: bool = False,
    rotary_fraction: float = 1.0,
    query_key_norm: str | None = None,
    window: int | None = None,
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    **facts: object,
) -> Tensor:
    """Queries, grouped keys and values by three linears, attention, and the output linear.

    query_key_norm: None, "llama" (float32, cast, weight) or "gemma" (weight in float32), applied
    to each head before the rotary embedding.
    """
    q_name, k_name, v_name, o_name = names
    q = b.linear(x, q_name, heads * head_dim, bias=query_bias)
    k = b.linear(x, k_name, kv_heads * head_dim, bias=query_bias)
    v = b.linear(x, v_name, kv_heads * head_dim, bias=query_bias)
    if query_key_norm:
        cast = "before_weight" if query_key_norm == "llama" else "after_weight"
        q = b.rms_norm(q, "q_norm", cast=cast, heads=heads)
        k = b.rms_norm(k, "k_norm", cast=cast, heads=kv_heads)
    if rotary_fraction:
        q = b.rotary(q, heads=heads, fraction=rotary_fraction)
        k = b.rotary(k, heads=kv_heads, fraction=rotary_fraction)
    out = b.attention(q, k, v, heads=heads, kv_heads=kv_heads, window=window, **facts)
    return b.linear(out, o_name, output_width, bias=output_bias, split="row")


def gated_feed_forward(
    b: BlockBuilder,
    x: Tensor,
    *,
    intermediate_size: int,
    activation: str,
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Tensor:
    """down(activation(gate(x)) * up(x))."""
    gate_name, up_name, down_name = names
    gate = b.linear(x, gate_name, intermediate_size, bias=bias)
    gate = b.activation(gate, activation)
    up = b.linear(x, up_name, intermediate_size, bias=bias)
    return b.linear(b.multiply(gate, up), down_name, x.width, bias=bias, split="row")


def feed_forward(
    b: BlockBuilder,
    x: Tensor,
    *,
    intermediate_size: int,
    activation: str,
    bias: bool = True,
    names: tuple[str, str] = ("fc1", "fc2"),
    transposed: bool = False,
) -> Tensor:
    """fc2(activation(fc1(x)))."""
    first, second = names
    inner = b.linear(x, first, intermediate_size, bias=bias, transposed=transposed)
    inner = b.activation(inner, activation)
    return b.linear(inner, second, x.width, bias=bias, split="row", transposed=transposed)
