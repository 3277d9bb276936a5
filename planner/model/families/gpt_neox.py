"""GPT-NeoX and GPT-J: partly rotated heads, attention and feed-forward side by side."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import (
    assemble,
    layer,
    layers_of,
    output_head,
    rotary_fraction,
    token_embedding,
)
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    return gpt_neox(c) if c.model_type == "gpt_neox" else gptj(c)


def gpt_neox(c: Config) -> ModelSpec:
    width, vocab, heads = c.size("hidden_size"), c.size("vocab_size"), c.size("num_attention_heads")
    h = Heads(heads, heads, c.divides("hidden_size", "num_attention_heads"))
    bias, rotary = c.flag("attention_bias"), rotary_fraction(c, "rotary_pct")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.fused_query_attention(
            b.part("attention", "attention"),
            x,
            h,
            names=("query_key_value", "dense"),
            bias=bias,
            output_bias=bias,
            rotary=rotary,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("dense_h_to_4h", "dense_4h_to_h"),
        )

    b = BlockBuilder("decoder", width)
    if c.flag("use_parallel_residual"):
        attended = attention(b, layer(b, b.input, "input_layernorm"))
        fed = feed_forward(b, layer(b, b.input, "post_attention_layernorm"))
        b.add(b.add(fed, attended), b.input)
    else:
        wiring.pre_norm(b, layer, attention, feed_forward)
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="gpt_neox", name="embed_in"),
        blocks={"decoder": b.block()},
        pattern=("decoder",) * layers_of(c),
        head=output_head(
            width,
            vocab,
            tied_to="gpt_neox.embed_in.weight" if c.flag("tie_word_embeddings") else None,
            norm=layer,
            norm_name="gpt_neox.final_layer_norm",
        ),
        layer_prefix="gpt_neox.layers.{}.",
    )


def gptj(c: Config) -> ModelSpec:
    width, vocab, heads = c.size("n_embd"), c.size("vocab_size"), c.size("n_head")
    h = Heads(heads, heads, c.divides("n_embd", "n_head"))
    switched_off = "rotary_dim" in c.given and c.given["rotary_dim"] is None
    rotated = h.head_dim if switched_off else c.size("rotary_dim")
    c.require(rotated <= h.head_dim, "rotary_dim", f"at most the head's width, {h.head_dim}")
    inner, activation = c.size("n_inner", 4 * width), c.word("activation_function")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("attn", "attention"),
            x,
            h,
            rotary=rotated / h.head_dim,
            rotary_style="every_two",
            names=("q_proj", "k_proj", "v_proj", "out_proj"),
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("fc_in", "fc_out"),
        )

    b = BlockBuilder("decoder", width)
    x = layer(b, b.input, "ln_1")
    b.add(b.add(attention(b, x), feed_forward(b, x)), b.input)
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="transformer", name="wte"),
        blocks={"decoder": b.block()},
        pattern=("decoder",) * layers_of(c, "n_layer"),
        head=output_head(
            width,
            vocab,
            tied_to="transformer.wte.weight" if c.flag("tie_word_embeddings") else None,
            norm=layer,
            norm_name="transformer.ln_f",
            bias=True,
        ),
        layer_prefix="transformer.h.{}.",
    )
