"""Llama and its close kin: pre-norm decoders with RMSNorm, grouped queries and a gated MLP.

What each differs in is a row of KIN; the rest is the same forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks
from planner.model.assemble import (
    assemble,
    layer,
    layer_types,
    layers_of,
    output_head,
    rms,
    token_embedding,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec


@dataclass(frozen=True)
class Kin:
    """What sets a family apart from Llama.

    query_bias, output_bias, feed_forward_bias   a field's name, or always / never
    query_key_norm                               a norm of each head's queries and keys
    fused                                        q, k, v in one matrix, gate and up in one
    """

    query_bias: str | bool = "attention_bias"
    output_bias: str | bool = "attention_bias"
    feed_forward_bias: str | bool = "mlp_bias"
    query_key_norm: str | None = None
    fused: bool = False
    layer_norm: bool = False
    plain_feed_forward: bool = False
    multipliers: bool = False
    post_norm: bool = False


KIN = {
    "llama": Kin(),
    "mistral": Kin(False, False, False),
    "qwen2": Kin(True, False, False),
    "qwen3": Kin(feed_forward_bias=False, query_key_norm="llama"),
    "granite": Kin(multipliers=True),
    "phi3": Kin(False, False, False, fused=True),
    "olmo2": Kin(feed_forward_bias=False, post_norm=True),
    "starcoder2": Kin("use_bias", "use_bias", "use_bias", layer_norm=True, plain_feed_forward=True),
}


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    heads = c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", heads)
    head_dim = c.optional("head_dim") or c.divides("hidden_size", "num_attention_heads")
    c.require(heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads} query heads")
    layers = layers_of(c)
    tied = c.flag("tie_word_embeddings")
    window = sliding_window(c)
    pattern = layer_types(c, layers, window_rule(c, window))
    shape = Shape(width, heads, kv_heads, head_dim, c.size("intermediate_size"))
    kinds = {
        kind: decoder_layer(c, kin, shape, window if kind == "sliding_attention" else None, kind)
        for kind in set(pattern)
    }
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, after=_scaled if kin.multipliers else None),
        blocks=kinds,
        pattern=pattern,
        head=output_head(
            width,
            vocab,
            tied_to="model.embed_tokens.weight" if tied else None,
            norm=layer if kin.layer_norm else _final_norm(kin),
            after=_scaled if kin.multipliers else None,
        ),
    )


@dataclass(frozen=True)
class Shape:
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int


def sliding_window(c: Config) -> int | None:
    """The window in tokens, where the family has one and it is switched on."""
    window = c.optional("sliding_window")
    if c.knows("use_sliding_window"):
        return window if c.flag("use_sliding_window") else None
    return window


def window_rule(c: Config, window: int | None):  # type: ignore[no-untyped-def]
    """Which layers slide: Qwen from max_window_layers on; else all, if there is a window."""
    first = c.count("max_window_layers", 0) if c.model_type.startswith("qwen") else 0
    return lambda i: "sliding_attention" if window and i >= first else "full_attention"


def switch(c: Config, field: str | bool) -> bool:
    return field if isinstance(field, bool) else c.flag(field)


def _final_norm(kin: Kin):  # type: ignore[no-untyped-def]
    if kin.post_norm:
        return lambda b, x, name: b.rms_norm(x, name, cast="after_weight")
    return rms


def _scaled(b: BlockBuilder, x: Tensor) -> Tensor:
    return b.scale(x)


def decoder_layer(c: Config, kin: Kin, s: Shape, window: int | None, kind: str) -> Block:
    b = BlockBuilder(kind, s.width)
    norm = layer if kin.layer_norm else rms
    x = b.input if kin.post_norm else norm(b, b.input, "input_layernorm")
    x = attention(b.part("self_attn", "attention"), c, kin, s, window, x)
    if kin.post_norm:
        x = b.rms_norm(x, "post_attention_layernorm", cast="after_weight")
    x = residual = b.add(b.input, b.scale(x) if kin.multipliers else x)
    if not kin.post_norm:
        x = norm(b, residual, "post_attention_layernorm")
    x = feed_forward(b.part("mlp", "feed_forward"), c, kin, s, x)
    if kin.post_norm:
        x = b.rms_norm(x, "post_feedforward_layernorm", cast="after_weight")
    b.add(residual, b.scale(x) if kin.multipliers else x)
    return b.block()


def attention(
    b: BlockBuilder, c: Config, kin: Kin, s: Shape, window: int | None, x: Tensor
) -> Tensor:
    if not kin.fused and not kin.post_norm:
        return blocks.grouped_query_attention(
            b,
            x,
            blocks.Heads(s.heads, s.kv_heads, s.head_dim),
            bias=switch(c, kin.query_bias),
            output_bias=switch(c, kin.output_bias),
            head_norm=blocks.rms_of_heads if kin.query_key_norm else None,
            window=window,
        )
    q_width, kv_width = s.heads * s.head_dim, s.kv_heads * s.head_dim
    if kin.fused:
        qkv = b.linear(x, "qkv_proj", q_width + 2 * kv_width)
        q, k, v = b.split(qkv, q_width, kv_width, kv_width)
    else:  # OLMo-2: one norm over all heads of q and of k
        bias = switch(c, kin.query_bias)
        q = b.rms_norm(b.linear(x, "q_proj", q_width, bias=bias), "q_norm", cast="after_weight")
        k = b.rms_norm(b.linear(x, "k_proj", kv_width, bias=bias), "k_norm", cast="after_weight")
        v = b.linear(x, "v_proj", kv_width, bias=bias)
    q = b.rotary(q, heads=s.heads)
    k = b.rotary(k, heads=s.kv_heads)
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.kv_heads, window=window)
    return b.linear(out, "o_proj", s.width, bias=switch(c, kin.output_bias), split="row")


def feed_forward(b: BlockBuilder, c: Config, kin: Kin, s: Shape, x: Tensor) -> Tensor:
    activation, inner = c.word("hidden_act"), s.intermediate_size
    bias = switch(c, kin.feed_forward_bias)
    if kin.plain_feed_forward:
        return blocks.feed_forward(
            b,
            x,
            intermediate_size=inner,
            activation=activation,
            bias=bias,
            names=("c_fc", "c_proj"),
        )
    if kin.fused:
        gate, up = b.split(b.linear(x, "gate_up_proj", 2 * inner), inner, inner)
        return b.linear(
            b.multiply(up, b.activation(gate, activation)), "down_proj", s.width, split="row"
        )
    return blocks.gated_feed_forward(
        b, x, intermediate_size=inner, activation=activation, bias=bias
    )
