"""Decoders whose feed-forward part is a choice of experts: a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model import blocks, decoder, patterns, wiring
from planner.model.assemble import layer, layer_types, rms_float32, scaled
from planner.model.config import Config
from planner.model.families.llama import with_theta
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import (
    Routing,
    every_step,
)
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits

HEAD_NORMED = Attention(head_norm=blocks.rms_of_heads)
UNBIASED = Attention(False, False)
DENSE = FeedForward(bias=False)
GRANITE = Routing(
    count="num_local_experts",
    width="intermediate_size",
    score="softmax_of_chosen",
    normalize=False,
    part="block_sparse_moe",
    router="router",
)
GRANITE_SHARED = Routing(
    count="num_local_experts",
    width="intermediate_size",
    score="softmax_of_chosen",
    normalize=False,
    part="block_sparse_moe",
    router="router",
    shared=("shared_intermediate_size",),
    shared_name="shared_mlp",
    shared_form="fused",
    shared_outside=True,
)
QWEN_SHARED = Routing(
    shared=("shared_expert_intermediate_size",),
    shared_name="shared_expert",
    shared_gate="shared_expert_gate",
    shared_first=True,
)


def build(c: Config) -> ModelSpec:
    row = ROWS[c.model_type]
    return decoder.build(c, row if isinstance(row, Traits) else row(c))


def alternating_first(c: Config, layers: int) -> tuple[str, ...]:
    """Qwen2 MoE: every other of the first max_window_layers layers slides, if it is switched on."""
    on, first = c.flag("use_sliding_window"), c.count("max_window_layers")
    c.ignore("sliding_window")
    return layer_types(
        c,
        layers,
        lambda i: SLIDING if on and i < first and i % 2 == 0 else FULL,
        known=(FULL, SLIDING),
    )


ROWS: dict[str, Traits | Callable[[Config], Traits]] = {
    "mixtral": Traits(
        UNBIASED,
        DENSE,
        Routing(
            count="num_local_experts",
            width="intermediate_size",
            normalize=True,
            float32_scores=True,
        ),
    ),
    "minimax_m2": Traits(
        Attention(False, False, head_norm=blocks.rms_of_all, rotary="partial"),
        DENSE,
        Routing(
            count="num_local_experts",
            width="intermediate_size",
            score="sigmoid",
            normalize=True,
            float32_scores=True,
        ),
        ignored=("rotary_dim",),
    ),
    "qwen2_moe": Traits(
        Attention("qkv_bias", False),
        DENSE,
        replace(QWEN_SHARED, sparse=every_step),
        kinds=alternating_first,
    ),
    "qwen3_omni_moe_talker_text": Traits(
        HEAD_NORMED,
        DENSE,
        QWEN_SHARED,
        ignored=("decoder_sparse_step", "mlp_only_layers", "sliding_window"),
    ),
    "qwen3_moe": Traits(HEAD_NORMED, DENSE, Routing(sparse=every_step), kinds=patterns.switched),
    "gpt_oss": Traits(
        Attention(rotary_style="chunk", sinks=(FULL, SLIDING)),
        DENSE,
        Routing(
            count="num_local_experts",
            width="intermediate_size",
            score="softmax_of_chosen",
            normalize=False,
            router="router",
            router_bias=True,
            bias=True,
            transposed=True,
            activation="gpt_oss_swiglu",
        ),
        kinds=patterns.by_layer_types,
        norm=rms_float32,
        ignored=("swiglu_alpha", "swiglu_limit"),
    ),
    "olmoe": Traits(
        Attention(head_norm=blocks.rms_of_all, clip="clip_qkv"),
        DENSE,
        Routing(width="intermediate_size"),
    ),
    "flex_olmo": Traits(
        Attention(head_norm=blocks.rms_float32_of_all, rotary_style="float32_tables"),
        DENSE,
        Routing(width="intermediate_size"),
        norm=rms_float32,
        join=wiring.post_norm,
    ),
    "phimoe": Traits(
        Attention(),
        DENSE,
        Routing(
            count="num_local_experts",
            width="intermediate_size",
            score="sparsemixer",
            normalize=False,
            router="router",
        ),
        norm=layer,
        head_bias="lm_head_bias",
    ),
    "granitemoe": Traits(
        routing=GRANITE,
        feed_forward=DENSE,
        scaled=True,
        embedded=scaled,
        logits=scaled,
    ),
    "granitemoeshared": Traits(
        routing=GRANITE_SHARED,
        feed_forward=DENSE,
        scaled=True,
        embedded=scaled,
        logits=scaled,
    ),
    "granitemoe_swa": Traits(
        Attention(rotates=with_theta, sinks=(FULL, SLIDING), sink_style="scaled"),
        DENSE,
        GRANITE_SHARED,
        kinds=patterns.by_layer_types,
        scaled=True,
        embedded=scaled,
        logits=scaled,
    ),
    "hunyuan_v1_moe": Traits(
        Attention(
            head_norm=blocks.rms_of_heads,
            head_norm_names=("query_layernorm", "key_layernorm"),
            norm_last=True,
        ),
        DENSE,
        Routing(
            top_k="moe_topk",
            width="intermediate_size",
            normalize=True,
            float32=True,
            router="gate.wg",
            shared=("intermediate_size",),
            shared_name="shared_mlp",
            shared_first=True,
        ),
    ),
    "aria_text": Traits(
        Attention(),
        FeedForward(),
        Routing(
            count="moe_num_experts",
            top_k="moe_topk",
            width="intermediate_size",
            score="softmax_of_chosen",
            normalize=False,
            router="router",
            transposed=True,
            shared=("intermediate_size", "moe_num_shared_experts"),
        ),
    ),
}
