"""Muse: gated attention with normed heads between sandwiching norms; Spark has experts and gates.

Glimmer's feed-forward part is dense. Spark's tokens are narrowed before they go to experts, and a
learned gate per channel mixes each branch with the residual stream.
"""

from __future__ import annotations

from planner.model import blocks, decoder, expert_operations, wiring
from planner.model.assemble import heads_of, layer_types, layers_of, llama_shaped, rms_float32
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.llama import weightless, weightless_of_heads, with_theta
from planner.model.operations import Block, Tensor
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import by_mlp_layer_types
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Gate, Traits, Variant

GATED = "residual streams are mixed by learned gates"


def build(c: Config) -> ModelSpec:
    c.ignore("qk_scale_factor", "output_multiplier", "post_norm_eps", "residual_gate_temperature")
    return glimmer(c) if c.model_type == "muse_glimmer_text" else spark(c)


def every_fourth_from_the_end(c: Config, layers: int) -> tuple[str, ...]:
    """The last layer has full attention, and each fourth before it."""
    return layer_types(
        c, layers, lambda i: SLIDING if (layers - 1 - i) % 4 else FULL, known=(FULL, SLIDING)
    )


def rotates(c: Config, i: int, kind: str) -> bool:
    """layer_rope_theta, or else all layers but the last and each fourth before it."""
    if c.raw("layer_rope_theta") is not None:
        return with_theta(c, i, kind)
    return (c.size("num_hidden_layers") - 1 - i) % 4 != 0


def normed(b: BlockBuilder, x: Tensor) -> Tensor:
    return weightless(b, x, "embed_norm")


ATTENTION = Attention(
    head_norm=weightless_of_heads, norm_last=True, rotates=rotates, gate=Gate("gate_proj")
)


def glimmer(c: Config) -> ModelSpec:
    return decoder.build(
        c,
        Traits(
            ATTENTION,
            FeedForward(bias=False, activation="hidden_activation"),
            kinds=every_fourth_from_the_end,
            norm=rms_float32,
            join=wiring.sandwich,
            embedded=normed,
            capped="final_logit_softcapping",
        ),
    )


# ---- Spark --------------------------------------------------------------------------------------


def spark(c: Config) -> ModelSpec:
    layers = layers_of(c)
    kinds, sparse = every_fourth_from_the_end(c, layers), by_mlp_layer_types(0)(c, layers)
    variants = [
        Variant(kind, rotates(c, i, kind), sparse[i], heads_of(c)) for i, kind in enumerate(kinds)
    ]
    c.ignore("intermediate_size", "moe_hidden_size", "moe_intermediate_size", "num_local_experts")
    c.ignore("num_experts_per_tok", "final_logit_softcapping")
    return llama_shaped(
        c,
        {v.name: spark_layer(c, v) for v in dict.fromkeys(variants)},
        [v.name for v in variants],
        norm=rms_float32,
        embedded=normed,
        logits=lambda b, x: b.softcap(x),
        not_trainable_because=GATED,
    )


def spark_layer(c: Config, v: Variant) -> Block:
    b = BlockBuilder(v.name, c.size("hidden_size"))

    def mixed(x: Tensor, y: Tensor, name: str) -> Tensor:
        gate = (b.weight(f"{name}.gate", x.width),)
        return b.opaque(name, x.width, gate, (x, y), group="other")

    mixer = decoder.attention_part(c, ATTENTION, v)
    y = weightless(
        b, mixer(b, rms_float32(b, b.input, "input_layernorm")), "post_attention_layernorm"
    )
    x = mixed(b.input, y, "post_attention_residual_gate")
    y = rms_float32(b, x, "pre_feedforward_layernorm")
    y = experts(c, b.part("mlp", "experts"), y) if v.sparse else dense(c, b, y)
    y = rms_float32(b, y, "post_feedforward_layernorm")
    mixed(x, y, "post_feedforward_residual_gate")
    return b.block()


def dense(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    return blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"),
        x,
        intermediate_size=c.size("intermediate_size"),
        activation=c.word("hidden_act"),
    )


def experts(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """The router sees the whole token, the experts a narrowed one."""
    count, chosen = c.size("num_local_experts"), c.size("num_experts_per_tok")
    scores = expert_operations.router(
        b, x, "gate", experts=count, top_k=chosen, score="sigmoid", normalize=True, scaled=True
    )
    narrow = b.linear(x, "pre_expert_proj", c.size("moe_hidden_size"), split="whole")
    out = expert_operations.experts(
        b,
        rms_float32(b, narrow, "pre_expert_norm"),
        scores,
        "experts",
        experts=count,
        top_k=chosen,
        intermediate_size=c.size("moe_intermediate_size"),
        activation=c.word("hidden_act"),
    )
    out = rms_float32(b, out, "experts.post_expert_norm")
    return b.linear(out, "post_expert_proj", x.width, split="whole")
