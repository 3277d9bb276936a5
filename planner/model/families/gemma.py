"""Gemma: scaled embeddings, norms whose weight is applied in float32; four a layer since 2."""

from __future__ import annotations

from planner.model import blocks, decoder, patterns, wiring
from planner.model.assemble import rms_float32, scaled
from planner.model.config import Config
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits


def build(c: Config) -> ModelSpec:
    return decoder.build(c, ROWS[c.model_type])


def one_way(c: Config) -> bool:
    return not c.flag("use_bidirectional_attention")


NEW_FEED_FORWARD = FeedForward(bias=False, activation="hidden_activation")
ROWS = {
    "gemma": Traits(
        Attention(causal=one_way),
        FeedForward(bias=False),
        norm=rms_float32,
        embedded=scaled,
        # Older configs give it beside hidden_act, which counts.
        ignored=("hidden_activation",),
    ),
    "gemma2": Traits(
        Attention(causal=one_way, softcap="attn_logit_softcapping"),
        NEW_FEED_FORWARD,
        kinds=patterns.by_layer_types,
        norm=rms_float32,
        join=wiring.sandwich,
        embedded=scaled,
        capped="final_logit_softcapping",
    ),
    "gemma3_text": Traits(
        # Gemma 3 reads the cap of the scores and does not use it.
        Attention(causal=one_way, head_norm=blocks.rms_float32_of_heads, rotary_by_kind=True),
        NEW_FEED_FORWARD,
        kinds=patterns.by_layer_types,
        norm=rms_float32,
        join=wiring.sandwich,
        embedded=scaled,
        capped="final_logit_softcapping",
        ignored=("attn_logit_softcapping",),
    ),
    "vaultgemma": Traits(
        Attention(softcap="attn_logit_softcapping"),
        NEW_FEED_FORWARD,
        kinds=patterns.by_layer_types,
        norm=rms_float32,
        norms=("input_layernorm", "pre_feedforward_layernorm"),
        embedded=scaled,
        capped="final_logit_softcapping",
    ),
}
