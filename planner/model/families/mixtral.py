"""Decoders whose feed-forward part is a choice of experts: Mixtral, Qwen's MoE, gpt-oss."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import (
    heads_of,
    layer_types,
    layers_of,
    llama_shaped,
    rms,
    rms_float32,
    window_of,
)
from planner.model.blocks import Experts
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    return {
        "mixtral": mixtral,
        "qwen2_moe": qwen_moe,
        "qwen3_moe": qwen_moe,
        "gpt_oss": gpt_oss,
    }[c.model_type](c)


def mixtral(c: Config) -> ModelSpec:
    h, window = heads_of(c), c.optional("sliding_window")
    e = Experts(
        c.size("num_local_experts"),
        c.size("num_experts_per_tok"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        normalize=True,
    )

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attn", "attention")
        return blocks.grouped_query_attention(part, x, h, window=window)

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.routed_experts(b.part("mlp", "experts"), x, e)

    b = BlockBuilder("moe", c.size("hidden_size"))
    wiring.pre_norm(b, rms, attention, feed_forward)
    return llama_shaped(c, {"moe": b.block()}, ("moe",) * layers_of(c))


def qwen_moe(c: Config) -> ModelSpec:
    """Every decoder_sparse_step-th layer routes; Qwen2 adds a gated shared expert."""
    layers = layers_of(c)
    dense = set(c.sizes("mlp_only_layers") or ())
    step = c.size("decoder_sparse_step")
    experts = c.count("num_experts")
    c.ignore("intermediate_size", "max_window_layers")  # where no layer is dense, or slides
    if c.model_type == "qwen2_moe":
        sliding = c.flag("use_sliding_window")
        first = c.count("max_window_layers")
        # Every other layer of the first max_window_layers, as Qwen2MoeConfig has it.
        kinds = layer_types(
            c,
            layers,
            lambda i: (
                "sliding_attention" if sliding and i < first and i % 2 == 0 else "full_attention"
            ),
        )
    else:
        kinds = (
            "sliding_attention" if c.flag("use_sliding_window") else "full_attention",
        ) * layers
    pattern = tuple(
        f"{kind} moe" if i not in dense and experts and (i + 1) % step == 0 else kind
        for i, kind in enumerate(kinds)
    )
    return llama_shaped(c, {kind: qwen_layer(c, kind) for kind in set(pattern)}, pattern)


def qwen_layer(c: Config, kind: str) -> Block:
    h, activation = heads_of(c), c.word("hidden_act")
    second = c.model_type == "qwen2_moe"
    bias = c.flag("qkv_bias") if second else c.flag("attention_bias")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("self_attn", "attention"),
            x,
            h,
            bias=bias,
            output_bias=bias and not second,
            head_norm=None if second else blocks.rms_of_heads,
            window=window_of(c, kind.split()[0]),
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        if not kind.endswith("moe"):
            return blocks.gated_feed_forward(
                b.part("mlp", "feed_forward"),
                x,
                intermediate_size=c.size("intermediate_size"),
                activation=activation,
            )
        moe = b.part("mlp", "experts")
        e = Experts(
            c.size("num_experts"),
            c.size("num_experts_per_tok"),
            c.size("moe_intermediate_size"),
            activation,
            normalize=c.flag("norm_topk_prob"),
        )
        if not second:
            return blocks.routed_experts(moe, x, e)
        shared = blocks.gated_feed_forward(
            moe.part("shared_expert"),
            x,
            intermediate_size=c.size("shared_expert_intermediate_size"),
            activation=activation,
        )
        routed = blocks.routed_experts(moe, x, e)
        gate = moe.activation(moe.linear(x, "shared_expert_gate", 1, split="whole"), "sigmoid")
        return moe.add(routed, moe.multiply(gate, shared))

    b = BlockBuilder(kind, c.size("hidden_size"))
    wiring.pre_norm(b, rms, attention, feed_forward)
    return b.block()


def gpt_oss(c: Config) -> ModelSpec:
    """Attention with a learned sink per head; experts stored as (inputs, outputs) with biases."""
    h, bias = heads_of(c), c.flag("attention_bias")
    c.ignore("hidden_act", "swiglu_alpha", "swiglu_limit")
    e = Experts(
        c.size("num_local_experts"),
        c.size("num_experts_per_tok"),
        c.size("intermediate_size"),
        "gpt_oss_swiglu",
        score="softmax_of_chosen",
    )

    def decoder_layer(kind: str) -> Block:
        def attention(b: BlockBuilder, x: Tensor) -> Tensor:
            part = b.part("self_attn", "attention")
            return blocks.grouped_query_attention(
                part,
                x,
                h,
                bias=bias,
                output_bias=bias,
                rotary_style="chunk",
                window=window_of(c, kind),
                weights=(part.weight("sinks", h.heads, split="column"),),
                sinks=True,
            )

        def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
            part = b.part("mlp", "experts")
            return blocks.routed_experts(
                part, x, e, router="router", router_bias=True, bias=True, transposed=True
            )

        b = BlockBuilder(kind, c.size("hidden_size"))
        wiring.pre_norm(b, rms_float32, attention, feed_forward)
        return b.block()

    pattern = layer_types(c, layers_of(c))
    kinds = {kind: decoder_layer(kind) for kind in set(pattern)}
    return llama_shaped(c, kinds, pattern, norm=rms_float32)
