"""Llama and the dense decoders that differ from it by switches: a row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planner.model import blocks, decoder, patterns, wiring
from planner.model.assemble import layer, rms_float32, scaled
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.patterns import SLIDING
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits

UNBIASED = Attention(False, False)
UNBIASED_FEED_FORWARD = FeedForward(bias=False)
# The order of GLM-4's four norms: before and after the attention, before and after the rest.
GLM4_NORMS = (
    "input_layernorm",
    "post_self_attn_layernorm",
    "post_attention_layernorm",
    "post_mlp_layernorm",
)


def build(c: Config) -> ModelSpec:
    row = KIN[c.model_type]
    return decoder.build(c, row if isinstance(row, Traits) else row(c))


def sliding_or_no_window(c: Config, i: int, kind: str) -> bool:
    """EXAONE 4 rotates every layer without windows, else the sliding layers alone."""
    return c.is_null("sliding_window") or kind == SLIDING


def not_every_fourth(c: Config, i: int, kind: str) -> bool:
    """SmolLM3: no_rope_layers says 1 where a layer is rotated."""
    given = c.sizes("no_rope_layers")
    if given is not None:
        c.require(len(given) > i, "no_rope_layers", "one number per layer")
        return given[i] != 0
    return bool((i + 1) % c.size("no_rope_layer_interval"))


def with_theta(c: Config, i: int, kind: str) -> bool:
    """Granite with windows: a layer whose rope theta is null or 0 is not rotated."""
    thetas = c.raw("layer_rope_theta")
    if thetas is None:
        return True
    c.require(isinstance(thetas, list) and len(thetas) > i, "layer_rope_theta", "one per layer")
    return bool(thetas[i])


def weightless(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.rms_norm(x, name, cast="after_weight", weight=False)


def weightless_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.rms_norm(x, name, cast="after_weight", heads=heads, weight=False)


def bare_layer_norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """OLMo: a layer norm in float32 without weight and bias."""
    return b.layer_norm(x, name, bias=False, weight=False, float32=True)


def layer_norm_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.layer_norm(x, name, heads=heads)


def layer_norms_per_head(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    """StableLM: each head has a norm of its own, run one after the other and joined again."""
    head = x.width // heads
    inner = b.part(f"{name}.norms")
    parts = [
        inner.layer_norm(part, str(i), bias=False)
        for i, part in enumerate(b.split(x, *(head,) * heads))
    ]
    return b.concatenate(*parts)


def hyperclovax(c: Config) -> Traits:
    """HyperCLOVA X: Granite, with norms after each part where use_post_norm is on."""
    traits = Traits(scaled=True, embedded=scaled, logits=scaled)
    if not c.flag("use_post_norm"):
        return traits
    names = ("input_layernorm", "post_norm1", "post_attention_layernorm", "post_norm2")
    return Traits(scaled=True, embedded=scaled, logits=scaled, join=wiring.sandwich, norms=names)


# Width of the small network of the delay in each layer of Voxtral Realtime's decoder
# (Transformers' modeling_voxtral_realtime).
DELAY_WIDTH = 32


def delayed(
    b: BlockBuilder, norm: wiring.Norm, mixer: wiring.Part, feed: wiring.Part, **facts: Any
) -> Tensor:
    """Pre-norm, with a factor from how far the text lags behind the sound after the second."""

    def scaled_feed(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("ada_rms_norm", "other")
        weights = (
            inner.weight("linear1.weight", DELAY_WIDTH, x.width),
            inner.weight("linear2.weight", x.width, DELAY_WIDTH),
        )
        # once per sequence: next to no FLOPs per token
        return feed(b, inner.opaque("delay", x.width, weights, (x,)))

    return wiring.pre_norm(b, norm, mixer, scaled_feed, **facts)


def stablelm(c: Config) -> Traits:
    side_by_side = c.flag("use_parallel_residual")
    return Traits(
        Attention(
            "use_qkv_bias",
            False,
            head_norm=layer_norms_per_head,
            head_norm_if="qk_layernorm",
            head_norm_names=("q_layernorm", "k_layernorm"),
            rotary="partial",
            rotary_fields=("rope_pct",),
            square=True,
        ),
        UNBIASED_FEED_FORWARD,
        norm=layer,
        join=wiring.parallel if side_by_side else wiring.pre_norm,
        kinds=patterns.full,
    )


def molmo2(c: Config) -> Traits:
    """Molmo 2: heads normed as Qwen3 or OLMo-2 does, more rows of the embedding than words."""
    c.ignore("rope_scaling_layers")
    norms = {"qwen3": blocks.rms_of_heads, "olmo": blocks.rms_of_all}
    return Traits(
        Attention(output_bias=False, head_norm=norms[c.one_of("qk_norm_type", tuple(norms))]),
        UNBIASED_FEED_FORWARD,
        join=wiring.post_norm if c.flag("norm_after") else wiring.pre_norm,
        norms=wiring.PRE_NORM_NAMES,
        extra_rows=c.count("additional_vocab_size"),
        tied=False,  # the embedding has more rows than the head
    )


OLMO2_ATTENTION = Attention(head_norm=blocks.rms_float32_of_all, rotary_style="float32_tables")
KIN: dict[str, Traits | Callable[[Config], Traits]] = {
    "llama": Traits(),
    "exaone": Traits(),
    "internlm3": Traits(),
    "iquestcoder": Traits(),
    "mistral": Traits(UNBIASED, UNBIASED_FEED_FORWARD),
    "ministral": Traits(UNBIASED, UNBIASED_FEED_FORWARD, kinds=patterns.by_layer_types),
    "ministral3": Traits(Attention(False, False, scaled_query=True), UNBIASED_FEED_FORWARD),
    "qwen2": Traits(
        Attention(True, False), UNBIASED_FEED_FORWARD, kinds=patterns.from_max_window_layers
    ),
    "qwen3": Traits(
        Attention(head_norm=blocks.rms_of_heads),
        UNBIASED_FEED_FORWARD,
        kinds=patterns.from_max_window_layers,
    ),
    "granite": Traits(scaled=True, embedded=scaled, logits=scaled),
    "granite_swa": Traits(
        Attention(rotates=with_theta, sinks=(patterns.FULL, SLIDING), sink_style="scaled"),
        scaled=True,
        embedded=scaled,
        logits=scaled,
        kinds=patterns.by_layer_types,
    ),
    "phi3": Traits(
        Attention(False, False, fused="qkv_proj", rotary="partial"),
        FeedForward("fused", False),
    ),
    "olmo": Traits(
        Attention(clip="clip_qkv", rotary_style="float32_tables"),
        UNBIASED_FEED_FORWARD,
        norm=bare_layer_norm,
    ),
    "olmo2": Traits(
        OLMO2_ATTENTION, UNBIASED_FEED_FORWARD, norm=rms_float32, join=wiring.post_norm
    ),
    "olmo3": Traits(
        OLMO2_ATTENTION,
        UNBIASED_FEED_FORWARD,
        norm=rms_float32,
        join=wiring.post_norm,
        kinds=patterns.by_layer_types,
    ),
    "starcoder2": Traits(
        Attention("use_bias", "use_bias"),
        FeedForward("plain", "use_bias", ("c_fc", "c_proj")),
        norm=layer,
    ),
    "apertus": Traits(
        Attention(head_norm=blocks.rms_of_heads),
        FeedForward("plain", False),
        norms=("attention_layernorm", "feedforward_layernorm"),
    ),
    "apertus1p5_text": Traits(
        Attention(head_norm=blocks.rms_of_heads),
        FeedForward("plain", False),
        norms=("attention_layernorm", "feedforward_layernorm"),
        outputs="output_vocab_size",
    ),
    "moshi": Traits(
        Attention(
            False,
            False,
            names=("q_proj.linear", "k_proj.linear", "v_proj.linear", "o_proj.linear"),
        ),
        FeedForward("fused", False, ("fc1", "fc2"), "ffn_dim", halved=True),
        norm=rms_float32,
        extra_rows=1,
        tied=False,  # the embedding has one row more than the head
        # The language model alone: neither the audio codec nor the depth decoder.
        ignored=(
            "audio_encoder_config",
            "depth_decoder_config",
            "audio_vocab_size",
            "num_codebooks",
        ),
    ),
    "arcee": Traits(feed_forward=FeedForward("plain")),
    "jais2": Traits(feed_forward=FeedForward("plain"), norm=layer),
    "nemotron": Traits(
        Attention(rotary="partial"), FeedForward("plain"), norm=layer, kinds=patterns.full
    ),
    "bitnet": Traits(
        Attention(output_norm="attn_sub_norm", square=True),
        FeedForward(bias=False, inner_norm="ffn_sub_norm"),
    ),
    "cwm": Traits(UNBIASED, kinds=patterns.by_layer_types),
    "ernie4_5": Traits(
        Attention("use_bias", "use_bias", rotary_style="repeated_float32"),
        FeedForward(bias="use_bias"),
    ),
    "exaone4": Traits(
        Attention(False, False, head_norm=blocks.rms_of_heads, rotates=sliding_or_no_window),
        UNBIASED_FEED_FORWARD,
        join=wiring.post_norm,
        kinds=patterns.by_layer_types_with_window,
    ),
    "glm": Traits(Attention(output_bias=False, rotary="partial"), FeedForward("fused", False)),
    "glm4": Traits(
        Attention(output_bias=False, rotary="partial"),
        FeedForward("fused", False),
        join=wiring.sandwich,
        norms=GLM4_NORMS,
    ),
    "helium": Traits(Attention(output_bias=False, square=True), norm=rms_float32),
    "hunyuan_v1_dense": Traits(
        Attention(
            head_norm=blocks.rms_of_heads,
            head_norm_names=("query_layernorm", "key_layernorm"),
            norm_last=True,
        ),
        UNBIASED_FEED_FORWARD,
    ),
    "nanochat": Traits(
        Attention(head_norm=weightless_of_heads, norm_last=True),
        FeedForward("plain", False, ("fc1", "fc2")),
        norm=weightless,
        embedded=lambda b, x: weightless(b, x, "norm"),
        capped="final_logit_softcapping",
    ),
    "persimmon": Traits(
        Attention(
            True,
            True,
            fused="query_key_value",
            names=("", "", "", "dense"),
            head_norm=layer_norm_of_heads,
            head_norm_if="qk_layernorm",
            head_norm_names=("q_layernorm", "k_layernorm"),
            rotary="partial",
        ),
        FeedForward("plain", True, ("dense_h_to_4h", "dense_4h_to_h")),
        norm=layer,
        final_norm="model.final_layernorm",
    ),
    "phi": Traits(
        Attention(
            True,
            True,
            names=("q_proj", "k_proj", "v_proj", "dense"),
            head_norm=layer_norm_of_heads,
            head_norm_if="qk_layernorm",
            head_norm_names=("q_layernorm", "k_layernorm"),
            rotary="partial",
        ),
        FeedForward("plain", True, ("fc1", "fc2")),
        norm=layer,
        join=wiring.parallel,
        final_norm="model.final_layernorm",
        head_bias=True,
    ),
    "seed_oss": Traits(Attention(output_bias="attention_out_bias")),
    "smollm3": Traits(Attention(rotates=not_every_fourth), kinds=patterns.switched_by_layer_types),
    "stablelm": stablelm,
    "hyperclovax": hyperclovax,
    "voxtral_realtime_text": Traits(
        UNBIASED,
        UNBIASED_FEED_FORWARD,
        join=delayed,
        not_trainable_because="what its factors of the delay keep is not modelled",
    ),
    "emu3_text_model": Traits(UNBIASED, UNBIASED_FEED_FORWARD),
    "cosmos3_edge_text": Traits(feed_forward=FeedForward("plain", names=("fc1", "fc2"))),
    "molmo2_text": molmo2,
}
