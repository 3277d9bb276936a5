"""ERNIE 4.5 VL's text model: experts for words and others for patches in the same layer."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import heads_of, layers_of, llama_shaped, rms
from planner.model.blocks import Experts
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.routing import by_mlp_layer_types
from planner.model.spec import ModelSpec
from planner.model.wiring import Part, pre_norm

TWO_KINDS = "words and patches go through different experts"


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    c.ignore("moe_norm_min", "moe_k", "moe_num_experts", "moe_num_shared_experts")
    c.ignore("moe_intermediate_size", "intermediate_size")
    names = ["moe" if sparse else "dense" for sparse in by_mlp_layer_types(1)(c, layers)]
    made = {name: decoder_layer(c, name) for name in dict.fromkeys(names)}
    return llama_shaped(c, made, names, not_trainable_because=TWO_KINDS)


def decoder_layer(c: Config, name: str) -> Block:
    h, bias = heads_of(c), c.flag("use_bias")
    b = BlockBuilder(name, c.size("hidden_size"))

    def mixer(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "attention")
        return blocks.grouped_query_attention(a, x, h, bias=bias, output_bias=bias)

    pre_norm(b, rms, mixer, (lambda b, x: experts(c, b, x)) if name == "moe" else dense(c, bias))
    return b.block()


def dense(c: Config, bias: bool) -> Part:
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    return lambda b, x: blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"),
        x,
        intermediate_size=inner,
        activation=activation,
        bias=bias,
    )


def experts(c: Config, outer: BlockBuilder, x: Tensor) -> Tensor:
    """A token goes through as many of its kind's experts; the shared one is as the words' are."""
    b, activation = outer.part("mlp", "experts"), c.word("hidden_act")
    widths = c.resolved("moe_intermediate_size")
    pair = isinstance(widths, list) and len(widths) == 2
    c.require(pair, "moe_intermediate_size", "two sizes: for words and for patches")
    count, chosen = c.size("moe_num_experts"), c.size("moe_k")
    out = x
    for name, inner in zip(("text_moe", "vision_moe"), widths, strict=True):
        m = b.part(name)
        bias = m.weight("gate.moe_statics.e_score_correction_bias", 1, count, kind="vector")
        e = Experts(count, chosen, inner, activation)
        out = b.add(out, blocks.routed_experts(m, x, e, more_weights=(bias,), float32=True))
    shared = c.count("moe_num_shared_experts")
    if shared:
        alone = blocks.gated_feed_forward(
            b.part("shared_experts", "feed_forward"),
            x,
            intermediate_size=widths[0] * shared,
            activation=activation,
            bias=c.flag("use_bias"),
        )
        out = b.add(out, alone)
    return out
