"""Liquid's LFM2, LFM2-MoE and LFM3: gated short convolutions with a few layers of attention."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import heads_of, layer_types, layers_of, llama_shaped, rms, window_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED, convolution_flops, depthwise_convolution
from planner.model.wiring import Part, pre_norm

KINDS = ("conv", "full_attention", "sliding_attention")
NAMES = ("operator_norm", "ffn_norm")
W1_W3_W2 = ("w1", "w3", "w2")


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    pattern = attention_pattern(c, layers)
    dense = c.count("num_dense_layers") if c.model_type == "lfm2_moe" else layers
    names = tuple(kind + ("" if i < dense else " + experts") for i, kind in enumerate(pattern))
    kinds = {
        name: decoder_layer(c, kind, name)
        for name, kind in dict.fromkeys(zip(names, pattern, strict=True))
    }
    if c.model_type == "lfm2_moe":
        c.ignore("intermediate_size", "moe_intermediate_size", "num_experts")
        c.ignore("num_experts_per_tok", "use_expert_bias", "routed_scaling_factor")
    c.ignore("conv_bias", "conv_L_cache", "sliding_window")
    if c.raw("tie_embedding") is not None:  # an older name, which wins
        c.given["tie_word_embeddings"] = c.flag("tie_embedding")
    return llama_shaped(
        c,
        kinds,
        names,
        final_norm="model.embedding_norm",
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def attention_pattern(c: Config, layers: int) -> tuple[str, ...]:
    if c.model_type == "lfm3":
        return layer_types(
            c,
            layers,
            lambda i: KINDS[1] if i % 4 == 2 else KINDS[2] if i % 4 == 0 < i else "conv",
            known=KINDS,
        )
    c.require(c.model_type == "lfm2" or c.has("layer_types"), "layer_types", "a list of layers")
    attention = c.sizes("full_attn_idxs") if c.model_type == "lfm2" else None
    everywhere = attention is None
    return layer_types(
        c,
        layers,
        lambda i: "full_attention" if everywhere or i in (attention or ()) else "conv",
        known=KINDS[:2],
    )


def decoder_layer(c: Config, kind: str, name: str) -> Block:
    b = BlockBuilder(name, c.size("hidden_size"))
    mixer = short_convolution(c) if kind == "conv" else attention(c, kind)
    feed = experts(c) if name.endswith("experts") else dense_feed_forward(c)
    if c.model_type == "lfm3" and c.flag("use_sandwich_norm"):
        mixer = _then_norm(mixer, "post_operator_norm")
        feed = _then_norm(feed, "post_ffn_norm")
    pre_norm(b, rms, mixer, feed, names=NAMES)
    return b.block()


def _then_norm(part: Part, name: str) -> Part:
    return lambda b, x: b.rms_norm(part(b, x), name)


def short_convolution(c: Config) -> Part:
    """Gate, convolve over a few tokens, gate again."""
    kernel, bias = c.size("conv_L_cache"), c.flag("conv_bias")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        m = b.part("conv", "state_space")
        width = x.width
        before, after, value = m.split(
            m.linear(x, "in_proj", 3 * width, bias=bias), width, width, width
        )
        out = m.opaque(
            "conv",
            width,
            depthwise_convolution(m, "conv", width, kernel, bias),
            (m.multiply(before, value),),
            flops_per_token=convolution_flops(width, kernel),
        )
        return m.linear(m.multiply(after, out), "out_proj", width, bias=bias, split="row")

    return part


def attention(c: Config, kind: str) -> Part:
    h, window = heads_of(c), window_of(c, kind)
    third = c.model_type == "lfm3"
    bias = c.flag("attention_bias")
    gate = third and c.flag("use_attention_gate")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "attention")
        if gate:  # one gate per head on the output
            a.activation(a.linear(x, "g_proj", h.heads), "sigmoid")
        return blocks.grouped_query_attention(
            a,
            x,
            h,
            bias=bias,
            output_bias=bias,
            head_norm=blocks.rms_of_heads,
            head_norm_names=("q_norm", "k_norm") if third else ("q_layernorm", "k_layernorm"),
            names=("q_proj", "k_proj", "v_proj", "o_proj" if third else "out_proj"),
            window=window,
        )

    return part


def dense_feed_forward(c: Config) -> Part:
    inner = c.size("intermediate_size")
    if c.model_type == "lfm2":
        inner = adjusted(c, c.size("block_ff_dim", inner))
    return lambda b, x: blocks.gated_feed_forward(
        b.part("feed_forward", "feed_forward"),
        x,
        intermediate_size=inner,
        activation="silu",
        names=W1_W3_W2,
    )


def adjusted(c: Config, inner: int) -> int:
    """Two thirds of the field, times a factor, rounded up, if block_auto_adjust_ff_dim."""
    multiple, factor = c.size("block_multiple_of"), c.number("block_ffn_dim_multiplier", 1.0)
    if not c.flag("block_auto_adjust_ff_dim"):
        return inner
    return -(-int(factor * int(2 * inner / 3)) // multiple) * multiple


def experts(c: Config) -> Part:
    e = blocks.Experts(
        c.size("num_experts"),
        c.size("num_experts_per_tok"),
        c.size("moe_intermediate_size"),
        "silu",
        score="sigmoid",
        normalize=True,
    )
    return lambda b, x: blocks.routed_experts(b.part("feed_forward", "experts"), x, e)
