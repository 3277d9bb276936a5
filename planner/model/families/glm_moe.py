"""Experts chosen by sigmoid scores, as DeepSeek-V3 has them, under plain attention: a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planner.model import blocks, decoder, patterns, wiring
from planner.model.assemble import heads_of, layer_types, rms_float32, scaled
from planner.model.blocks import Heads
from planner.model.config import Config
from planner.model.families.llama import GLM4_NORMS, sliding_or_no_window
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import (
    Routing,
    after_first,
    by_mlp_layer_types,
    ernie_interval,
    every_step,
)
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Gate, Traits

HEAD_NORMED = Attention(head_norm=blocks.rms_of_heads)
UNBIASED = Attention(False, False)
DENSE = FeedForward(bias=False)
# A router as DeepSeek-V3 has it: sigmoid scores in float32, scaled by a constant.
DEEPSEEK = Routing(
    count="n_routed_experts",
    score="sigmoid",
    float32=True,
    scaled=True,
    sparse=after_first(),
    shared=("moe_intermediate_size", "n_shared_experts"),
)


def build(c: Config) -> ModelSpec:
    row = ROWS[c.model_type]
    return decoder.build(c, row if isinstance(row, Traits) else row(c))


def slides(c: Config, i: int, kind: str) -> bool:
    return kind == SLIDING


def every_nth_full(c: Config, layers: int) -> tuple[str, ...]:
    """AFMoE: each global_attn_every_n_layers-th layer is full."""
    period = c.size("global_attn_every_n_layers")
    return layer_types(
        c, layers, lambda i: SLIDING if (i + 1) % period else FULL, known=(FULL, SLIDING)
    )


def first_and_every_sixth_full(c: Config, layers: int) -> tuple[str, ...]:
    """MiMo-V2-Flash."""
    return layer_types(
        c, layers, lambda i: SLIDING if i and (i + 1) % 6 else FULL, known=(FULL, SLIDING)
    )


def every_sixth_and_last_full(c: Config, layers: int) -> tuple[str, ...]:
    """Beam."""
    return layer_types(
        c,
        layers,
        lambda i: SLIDING if (i + 1) % 6 and i != layers - 1 else FULL,
        known=(FULL, SLIDING),
    )


def with_rope(c: Config, i: int, kind: str) -> bool:
    """Beam: a kind whose rope_parameters are null is not rotated."""
    rope = c.resolved("rope_parameters")
    return not isinstance(rope, Mapping) or kind not in rope or rope[kind] is not None


def flint_kinds(c: Config, layers: int) -> tuple[str, ...]:
    """Flint: the first two layers, each fourth and the last have full attention."""
    return layer_types(
        c,
        layers,
        lambda i: FULL if i < 2 or i % 4 == 1 or i == layers - 1 else SLIDING,
        known=(FULL, SLIDING),
    )


def floored_heads(c: Config, i: int, kind: str) -> Heads:
    """GLM-4.5 takes the whole part of hidden_size / heads where head_dim is left out."""
    heads, width = c.size("num_attention_heads"), c.size("hidden_size")
    kv_heads = c.size("num_key_value_heads", heads)
    c.require(heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads} query heads")
    return Heads(heads, kv_heads, c.optional("head_dim") or width // heads)


def heads_per_layer(c: Config, i: int, kind: str) -> Heads:
    """Laguna: each layer may have another number of query heads."""
    per_layer = c.sizes("num_attention_heads_per_layer")
    plain = heads_of(c)
    if per_layer is None:
        return plain
    c.require(
        len(per_layer) == c.size("num_hidden_layers"),
        "num_attention_heads_per_layer",
        "one number per layer",
    )
    return Heads(per_layer[i], plain.kv_heads, plain.head_dim)


def twice_the_keys(c: Config, i: int, kind: str) -> Heads:
    """MiMo-V2-Flash: sliding layers have twice the keys; values are narrower than keys."""
    plain = heads_of(c)
    keys = plain.kv_heads * (2 if kind == SLIDING else 1)
    return Heads(plain.heads, keys, plain.head_dim, c.size("v_head_dim"))


def laguna(c: Config) -> Traits:
    gating = c.one_of("gating", (True, "per-head", "per-channel", "per-element"), True)
    each = "head" if gating in (True, "per-head") else "channel"
    c.require(
        not c.flag("moe_apply_router_weight_on_input"),
        "moe_apply_router_weight_on_input",
        "false: Transformers has no code for true",
    )
    return Traits(
        Attention(
            heads=heads_per_layer,
            head_norm=blocks.rms_of_heads,
            rotary="partial",
            gate=Gate("g_proj", "softplus", each),
        ),
        DENSE,
        Routing(
            sparse=by_mlp_layer_types(),
            score="sigmoid",
            normalize=True,
            scaled=True,
            correction_bias="gate.e_score_correction_bias",
            shared=("shared_expert_intermediate_size",),
            shared_first=True,
        ),
        kinds=patterns.by_layer_types,
        ignored=("moe_routed_scaling_factor", "moe_router_logit_softcapping"),
    )


def afmoe(c: Config) -> Traits:
    return Traits(
        Attention(head_norm=blocks.rms_float32_of_heads, rotates=slides, gate=Gate("gate_proj")),
        DENSE,
        Routing(
            sparse=after_first("num_dense_layers"),
            score="sigmoid",
            normalize=True,
            float32_scores=True,
            scaled=True,
            router="router.gate",
            correction_bias="expert_bias",
            shared=("moe_intermediate_size", "num_shared_experts"),
            shared_first=True,
        ),
        kinds=every_nth_full,
        norm=rms_float32,
        join=wiring.sandwich,
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
        ),
        embedded=scaled if c.flag("mup_enabled") else None,
        ignored=("route_scale",),
    )


def glm4_moe(c: Config) -> Traits:
    return Traits(
        Attention(
            output_bias=False,
            heads=floored_heads,
            head_norm=blocks.rms_of_heads,
            head_norm_if="use_qk_norm",
            rotary="partial",
        ),
        DENSE,
        DEEPSEEK,
        ignored=("num_mtp_layers", "num_nextn_predict_layers"),
    )


ROWS: dict[str, Traits | Callable[[Config], Traits]] = {
    "hy_v3": Traits(
        HEAD_NORMED,
        FeedForward(),
        Routing(
            sparse=by_mlp_layer_types(),
            score="sigmoid",
            normalize=True,
            float32=True,
            scaled=True,
            shared=("moe_intermediate_size", "num_shared_experts"),
        ),
        ignored=("enable_moe_fp32_combine",),
    ),
    "ernie4_5_moe": Traits(
        Attention("use_bias", "use_bias", rotary_style="half_float32"),
        FeedForward(bias="use_bias"),
        Routing(
            sparse=ernie_interval,
            normalize=True,
            float32=True,
            correction_bias="gate.moe_statics.e_score_correction_bias",
            correction_rows=True,
            shared=("moe_intermediate_size", "moe_num_shared_experts"),
            shared_first=True,
        ),
        head_bias="use_bias",
        ignored=("moe_norm_min",),
    ),
    "dots1": Traits(HEAD_NORMED, DENSE, DEEPSEEK, kinds=patterns.from_max_window_layers),
    "glm4_moe": glm4_moe,
    "sarvam_moe": glm4_moe,
    "solar_open": Traits(
        Attention(output_bias=False, rotary="partial"),
        DENSE,
        Routing(
            count="n_routed_experts",
            score="sigmoid",
            float32=True,
            scaled=True,
            shared=("moe_intermediate_size", "n_shared_experts"),
        ),
        ignored=("first_k_dense_replace",),
    ),
    "exaone_moe": Traits(
        Attention(False, False, head_norm=blocks.rms_of_heads, rotates=sliding_or_no_window),
        DENSE,
        Routing(
            sparse=by_mlp_layer_types("first_k_dense_replace"),
            score="sigmoid",
            float32=True,
            scaled=True,
            shared=("moe_intermediate_size", "num_shared_experts"),
        ),
        kinds=patterns.by_layer_types_with_window,
    ),
    "afmoe": afmoe,
    "kolibri1": Traits(
        Attention(False, False, head_norm=blocks.rms_of_heads, rotates=sliding_or_no_window),
        DENSE,
        Routing(
            score="sigmoid",
            float32="weight_cast",
            shared=("shared_expert_intermediate_size",),
        ),
        kinds=patterns.by_layer_types,
        join=wiring.sandwich,
        norms=GLM4_NORMS,
    ),
    "laguna": laguna,
    "mellum": Traits(
        HEAD_NORMED,
        DENSE,
        Routing(sparse=by_mlp_layer_types(0)),
        kinds=patterns.by_layer_types,
        ignored=("num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types"),
    ),
    "mimo_v2_flash": Traits(
        Attention(
            output_bias=False,
            heads=twice_the_keys,
            rotary="partial",
            sinks=(SLIDING,),
            scaled_value="attention_value_scale",
        ),
        DENSE,
        Routing(
            count="n_routed_experts",
            sparse=by_mlp_layer_types(),
            score="sigmoid",
            float32=True,
            scaled=True,
        ),
        kinds=first_and_every_sixth_full,
        ignored=("sliding_window_size",),
    ),
    "beam": Traits(
        Attention(
            head_norm=blocks.rms_float32_of_heads,
            rotates=with_rope,
            gate=Gate("gate_proj", head_bias="gate_bias"),
        ),
        DENSE,
        Routing(sparse=by_mlp_layer_types(3), score="sigmoid", float32=True, scaled=True),
        kinds=every_sixth_and_last_full,
        norm=rms_float32,
        join=wiring.sandwich,
        scaled=True,
        capped="final_logit_softcapping",
        not_trainable_because="its feed-forward parts are computed in float32",
    ),
    "flint": Traits(
        Attention(
            head_norm=blocks.rms_float32_of_heads,
            rotates=slides,
            sinks=(FULL, SLIDING),
            sink_style="wide",
        ),
        DENSE,
        Routing(
            sparse=every_step,
            score="sigmoid",
            float32=True,
            shared=("shared_expert_intermediate_size",),
            shared_name="shared_expert",
        ),
        kinds=flint_kinds,
        norm=rms_float32,
    ),
}
