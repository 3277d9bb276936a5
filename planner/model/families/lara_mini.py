"""Lara Mini: gated delta rule and attention by turns, experts beside a shared one in each layer."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import (
    heads_of,
    layer_types,
    layers_of,
    llama_shaped,
    rms_float32,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.qwen3_next import delta
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED
from planner.model.wiring import Part, pre_norm

LINEAR, SLIDING, FULL = "linear_attention", "sliding_attention", "full_attention"
PERIOD = (LINEAR, SLIDING, LINEAR, FULL, SLIDING)


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    pattern = layer_types(c, layers, lambda i: PERIOD[i % len(PERIOD)], known=PERIOD)
    return llama_shaped(
        c,
        {kind: lara_layer(c, kind) for kind in dict.fromkeys(pattern)},
        pattern,
        norm=rms_float32,
        not_trainable_because=SCAN_NOT_MODELLED if LINEAR in pattern else None,
    )


def lara_layer(c: Config, kind: str) -> Block:
    b = BlockBuilder(kind, c.size("hidden_size"))
    mixers = delta(c), attention(c, kind)  # both read their fields, used or not
    pre_norm(b, rms_float32, mixers[kind != LINEAR], experts(c))
    return b.block()


def attention(c: Config, kind: str) -> Part:
    """Grouped queries with norms of each head; only sliding layers are rotated."""
    h, bias, window = heads_of(c), c.flag("attention_bias"), c.optional("sliding_window")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("self_attn", "attention"),
            x,
            h,
            bias=bias,
            output_bias=bias,
            rotary=1.0 if kind == SLIDING else 0,
            head_norm=blocks.rms_float32_of_heads,
            window=window if kind == SLIDING else None,
        )

    return part


def experts(c: Config) -> Part:
    """Routed experts, and one shared expert added in full."""
    activation, shared = c.word("hidden_act"), c.size("shared_expert_intermediate_size")
    e = blocks.Experts(
        c.size("num_experts"),
        c.size("num_experts_per_tok"),
        c.size("moe_intermediate_size"),
        activation,
        normalize=c.flag("norm_topk_prob"),
    )
    c.require(e.top_k <= e.experts, "num_experts_per_tok", f"at most num_experts = {e.experts}")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        m = b.part("mlp", "experts")
        out = blocks.routed_experts(m, x, e, float32=True)
        alone = blocks.gated_feed_forward(
            m.part("shared_expert", "feed_forward"),
            x,
            intermediate_size=shared,
            activation=activation,
        )
        return m.add(out, alone)

    return part
