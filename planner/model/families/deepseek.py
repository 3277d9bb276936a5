"""DeepSeek-V2 and V3: multi-head latent attention, first dense layers, then experts."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import layers_of, llama_shaped, rms
from planner.model.blocks import Experts, LatentHeads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    dense = c.count("first_k_dense_replace")
    # The published configs say how the prediction heads are, Transformers builds none of them.
    c.ignore("num_mtp_layers", "num_key_value_heads", "head_dim", "moe_layer_freq")
    pattern = tuple("dense" if i < dense else "moe" for i in range(layers))
    return llama_shaped(c, {kind: decoder_layer(c, kind) for kind in set(pattern)}, pattern)


def latent_heads(c: Config) -> LatentHeads:
    return LatentHeads(
        c.size("num_attention_heads"),
        c.size("qk_nope_head_dim"),
        c.size("qk_rope_head_dim"),
        c.size("v_head_dim"),
        c.size("kv_lora_rank"),
        nullable(c, "q_lora_rank"),
    )


def nullable(c: Config, field: str) -> int | None:
    """A size that an explicit null switches off, whatever the family's default."""
    return None if field in c.given and c.given[field] is None else c.optional(field)


def decoder_layer(c: Config, kind: str) -> Block:
    h, bias, activation = latent_heads(c), c.flag("attention_bias"), c.word("hidden_act")
    if c.model_type == "deepseek_v2":
        style = "complex"
    else:
        style = "interleave" if c.flag("rope_interleave", True) else "half"
    mlp_bias = c.flag("mlp_bias") if c.model_type == "deepseek_v2" else False

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attn", "attention")
        return blocks.latent_attention(part, x, h, bias=bias, rotary_style=style)

    def dense(b: BlockBuilder, x: Tensor, width: int) -> Tensor:
        return blocks.gated_feed_forward(
            b, x, intermediate_size=width, activation=activation, bias=mlp_bias
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        if kind == "dense":
            return dense(b.part("mlp", "feed_forward"), x, c.size("intermediate_size"))
        moe = b.part("mlp", "experts")
        e = experts_of(c, activation)
        routed = blocks.routed_experts(moe, x, e, float32=True, scaled=True)
        shared = moe.part("shared_experts")
        width = e.intermediate_size * c.size("n_shared_experts")
        return moe.add(routed, dense(shared, x, width))

    b = BlockBuilder(kind, c.size("hidden_size"))
    wiring.pre_norm(b, rms, attention, feed_forward)
    return b.block()


def experts_of(c: Config, activation: str) -> Experts:
    experts = c.size("n_routed_experts")
    return Experts(
        experts,
        # DeepSeek-V2's own default leaves it open: then every expert counts as used.
        c.size("num_experts_per_tok", experts),
        c.size("moe_intermediate_size"),
        activation,
        score="softmax" if c.model_type == "deepseek_v2" else "sigmoid",
        normalize=c.model_type != "deepseek_v2" and c.flag("norm_topk_prob"),
    )
