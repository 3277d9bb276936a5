"""The pieces that many families share, written once as forward passes over a BlockBuilder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from planner.model import expert_operations
from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight

Q_K_V_O = ("q_proj", "k_proj", "v_proj", "o_proj")
GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key and value heads, and the width of each (of values: value_dim)."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        return self.kv_heads * (self.value_dim or self.head_dim)


# A norm of queries or keys: block, tensor, name, heads.
HeadNorm = Callable[[BlockBuilder, Tensor, str, int], Tensor]


def rms_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.rms_norm(x, name, heads=heads)


def rms_float32_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.rms_norm(x, name, cast="after_weight", heads=heads)


def rms_of_all(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    """One norm over the width of all heads together."""
    return b.rms_norm(x, name)


def rms_float32_of_all(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.rms_norm(x, name, cast="after_weight")


def grouped_query_attention(
    b: BlockBuilder,
    x: Tensor,
    h: Heads,
    *,
    bias: bool = False,
    output_bias: bool = False,
    rotary: float = 1.0,
    rotary_style: str = "half",
    head_norm: HeadNorm | None = None,
    window: int | None = None,
    names: tuple[str, str, str, str] = Q_K_V_O,
    head_norm_names: tuple[str, str] = ("q_norm", "k_norm"),
    weights: Iterable[Weight] = (),
    **facts: Any,
) -> Tensor:
    """Queries, grouped keys and values by three linears, attention, and the output linear.

    rotary      share of each head that is rotated; 0 without rotary positions
    head_norm   norm of queries and keys before the rotation
    """
    q_name, k_name, v_name, o_name = names
    width = x.width
    q = b.linear(x, q_name, h.q_width, bias=bias)
    k = b.linear(x, k_name, h.kv_width, bias=bias)
    v = b.linear(x, v_name, h.kv_width, bias=bias)
    if head_norm is not None:
        q = head_norm(b, q, head_norm_names[0], h.heads)
        k = head_norm(b, k, head_norm_names[1], h.kv_heads)
    out = rotated_attention(
        b, q, k, v, h, rotary=rotary, style=rotary_style, window=window, weights=weights, **facts
    )
    return b.linear(out, o_name, width, bias=output_bias, split="row")


def fused_query_attention(
    b: BlockBuilder,
    x: Tensor,
    h: Heads,
    *,
    names: tuple[str, str],
    bias: bool = False,
    output_bias: bool = False,
    rotary: float = 1.0,
    rotary_style: str = "half",
    transposed: bool = False,
    **facts: Any,
) -> Tensor:
    """One linear makes queries, keys and values, which are views of its result."""
    qkv_name, o_name = names
    width = x.width
    qkv = b.linear(x, qkv_name, h.q_width + 2 * h.kv_width, bias=bias, transposed=transposed)
    q, k, v = b.split(qkv, h.q_width, h.kv_width, h.kv_width)
    out = rotated_attention(b, q, k, v, h, rotary=rotary, style=rotary_style, **facts)
    return b.linear(out, o_name, width, bias=output_bias, split="row", transposed=transposed)


def rotated_attention(
    b: BlockBuilder,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    h: Heads,
    *,
    rotary: float = 1.0,
    style: str = "half",
    **facts: Any,
) -> Tensor:
    if rotary:
        q = b.rotary(q, heads=h.heads, fraction=rotary, style=style)
        k = b.rotary(k, heads=h.kv_heads, fraction=rotary, style=style)
    return b.attention(q, k, v, heads=h.heads, kv_heads=h.kv_heads, **facts)


def gated_feed_forward(
    b: BlockBuilder,
    x: Tensor,
    *,
    intermediate_size: int,
    activation: str,
    bias: bool = False,
    down_bias: bool | None = None,
    names: tuple[str, str, str] = GATE_UP_DOWN,
) -> Tensor:
    """down(activation(gate(x)) * up(x)); down_bias: where it is not as the others'."""
    gate_name, up_name, down_name = names
    gate = b.linear(x, gate_name, intermediate_size, bias=bias)
    gate = b.activation(gate, activation)
    up = b.linear(x, up_name, intermediate_size, bias=bias)
    last = bias if down_bias is None else down_bias
    return b.linear(b.multiply(gate, up), down_name, x.width, bias=last, split="row")


def activated(b: BlockBuilder, x: Tensor, function: str) -> Tensor:
    """The activation; xIELU has two parameters of its own."""
    if function != "xielu":
        return b.activation(x, function)
    return b.activation(
        x, function, weights=(b.weight("act_fn.alpha_p", 1), b.weight("act_fn.alpha_n", 1))
    )


def feed_forward(
    b: BlockBuilder,
    x: Tensor,
    *,
    intermediate_size: int,
    activation: str,
    bias: bool = True,
    names: tuple[str, str] = ("fc1", "fc2"),
    **facts: Any,
) -> Tensor:
    """fc2(activation(fc1(x))); facts go to both linears (transposed, plain)."""
    first, second = names
    inner = b.linear(x, first, intermediate_size, bias=bias, **facts)
    inner = activated(b, inner, activation)
    return b.linear(inner, second, x.width, bias=bias, split="row", **facts)


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts: how many, how many a token uses, and their width.

    score       what makes scores of the router's logits: softmax, sigmoid, softmax_of_chosen
    normalize   whether the chosen scores are divided by their sum
    """

    experts: int
    top_k: int
    intermediate_size: int
    activation: str
    score: str = "softmax"
    normalize: bool = False


def routed_experts(
    b: BlockBuilder,
    x: Tensor,
    e: Experts,
    *,
    router: str = "gate",
    experts: str = "experts",
    router_bias: bool = False,
    bias: bool = False,
    transposed: bool = False,
    gated: bool = True,
    more_weights: Iterable[Weight] = (),
    **router_facts: Any,
) -> Tensor:
    """The router's choice of experts for each token, and their weighted sum."""
    scores = expert_operations.router(
        b,
        x,
        router,
        experts=e.experts,
        top_k=e.top_k,
        score=e.score,
        normalize=e.normalize,
        bias=router_bias,
        more_weights=more_weights,
        **router_facts,
    )
    return expert_operations.experts(
        b,
        x,
        scores,
        experts,
        experts=e.experts,
        top_k=e.top_k,
        intermediate_size=e.intermediate_size,
        activation=e.activation,
        bias=bias,
        transposed=transposed,
        gated=gated,
    )
