"""Gemma: scaled embeddings, norms whose weight is applied in float32; four a layer since 2."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import (
    heads_of,
    layer_types,
    layers_of,
    llama_shaped,
    rms_float32,
    scaled,
    soft_capped,
    window_of,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    if c.model_type == "gemma":
        c.ignore("hidden_activation")  # older configs give it beside hidden_act, which counts
        pattern: tuple[str, ...] = ("full_attention",) * layers
    else:
        pattern = layer_types(c, layers)
    return llama_shaped(
        c,
        {kind: decoder_layer(c, kind) for kind in set(pattern)},
        pattern,
        norm=rms_float32,
        embedded=scaled,
        logits=soft_capped if c.has("final_logit_softcapping") else None,
    )


def decoder_layer(c: Config, kind: str) -> Block:
    h, bias = heads_of(c), c.flag("attention_bias")
    inner = c.size("intermediate_size")
    activation = c.word("hidden_act" if c.model_type == "gemma" else "hidden_activation")
    causal = not c.flag("use_bidirectional_attention")
    head_norm = blocks.rms_float32_of_heads if c.model_type == "gemma3_text" else None
    # Gemma 3 reads the cap of the scores and does not use it.
    softcap = c.has("attn_logit_softcapping") and c.model_type != "gemma3_text"

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("self_attn", "attention"),
            x,
            h,
            bias=bias,
            output_bias=bias,
            head_norm=head_norm,
            window=window_of(c, kind),
            causal=causal,
            softcap=softcap,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("mlp", "feed_forward")
        return blocks.gated_feed_forward(part, x, intermediate_size=inner, activation=activation)

    b = BlockBuilder(kind, c.size("hidden_size"))
    join = wiring.pre_norm if c.model_type == "gemma" else wiring.sandwich
    join(b, rms_float32, attention, feed_forward)
    return b.block()
