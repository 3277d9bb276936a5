"""XLM and FlauBERT, whose parts lie in lists of their own; XLNet, whose attention is relative."""

from __future__ import annotations

from dataclasses import replace

from planner.model import blocks, counted
from planner.model.assemble import layer, layers_of
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Names, framed
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed


def build(c: Config) -> ModelSpec:
    return xlnet(c) if c.model_type == "xlnet" else xlm(c)


def xlm(c: Config) -> ModelSpec:
    width, layers, heads = c.size("emb_dim"), layers_of(c, "n_layers"), c.size("n_heads")
    h = Heads(heads, heads, c.divides("emb_dim", "n_heads"))
    languages = c.size("n_langs") if c.flag("use_lang_emb") else 1
    activation = "gelu" if c.flag("gelu_activation") else "relu"
    causal = c.flag("causal")
    c.require(c.flag("is_encoder", True), "is_encoder", "true: Transformers' code has no decoder")
    c.ignore("unk_index", "mask_index", "start_n_top", "end_n_top", "n_langs")
    c.ignore("pre_norm", "sinusoidal_embeddings")

    def block(i: int) -> Block:
        b = BlockBuilder("layer", width)
        x = blocks.grouped_query_attention(
            b.part(f"attentions.{i}", "attention"),
            b.input,
            h,
            bias=True,
            output_bias=True,
            rotary=0,
            names=("q_lin", "k_lin", "v_lin", "out_lin"),
            causal=causal,
            eager_only=True,
        )
        x = layer(b, b.add(b.input, x), f"layer_norm1.{i}")
        fed = blocks.feed_forward(
            b.part(f"ffns.{i}", "feed_forward"),
            x,
            intermediate_size=4 * width,
            activation=activation,
            names=("lin1", "lin2"),
        )
        layer(b, b.add(x, fed), f"layer_norm2.{i}")
        return b.block()

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        rows = c.size("max_position_embeddings", 512)
        place = b.embedding("position_embeddings", rows, width, split="whole", positions=True)
        x = b.add(x, place)
        if languages > 1:
            x = b.add(x, b.embedding("lang_embeddings", languages, width, split="whole"))
        return layer(b, x, "layer_norm_emb")

    made = [block(i) for i in range(layers)]
    spec = framed(
        c,
        Names(embedding="embeddings", final=None, head="pred_layer.proj"),
        {"layer": made[0]},
        ("layer",) * layers,
        width=width,
        embedded=embedded,
        head_bias=True,
    )
    return replace(spec, layers=tuple(Placed("transformer.", b) for b in made))


def xlnet(c: Config) -> ModelSpec:
    width, heads = c.size("d_model"), c.size("n_head")
    head = c.divides("d_model", "n_head")
    given = c.optional("d_head")
    c.require(given in (None, head), "d_head", f"d_model / n_head = {head}")
    inner, activation = c.size("d_inner", 4 * width), c.word("ff_activation")
    c.ignore("attn_type", "mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "bi_data")
    c.ignore("clamp_len", "same_length", "start_n_top", "end_n_top", "untie_r")

    b = BlockBuilder("layer", width)
    a = b.part("rel_attn", "attention")
    weights = [
        *(a.weight(name, width, heads, head, kind="matrix") for name in "qkvor"),
        *(a.weight(f"r_{name}_bias", heads, head, kind="vector") for name in "rsw"),
        a.weight("seg_embed", 2, heads, head, kind="vector"),
    ]
    x = layer(
        b, b.add(b.input, counted.module(a, "", width, weights, b.input)), "rel_attn.layer_norm"
    )
    fed = blocks.feed_forward(
        b.part("ff", "feed_forward"),
        x,
        intermediate_size=inner,
        activation=activation,
        names=("layer_1", "layer_2"),
    )
    layer(b, b.add(fed, x), "ff.layer_norm")

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        counted.module(b, "mask_emb", width, [b.weight("mask_emb", 1, 1, width, kind="vector")])
        return b.scale(x)

    return framed(
        c,
        Names(embedding="word_embedding", layers="layer", final=None, head="lm_loss"),
        {"layer": b.block()},
        ("layer",) * layers_of(c, "n_layer"),
        width=width,
        embedded=embedded,
        head_bias=True,
        not_trainable_because="relative attention in two streams is not modelled",
    )
