"""Pix2Struct: T5's decoder, gated and with square projections, over patches of any layout."""

from __future__ import annotations

from planner.model.assemble import composite, layers_of, rms, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.t5 import NOT_MODELLED
from planner.model.families.towers import tower
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

HEADS = ("language",)


def build(c: Config) -> ModelSpec:
    c.ignore("is_vqa")
    text = c.sub("text_config")
    text.ignore("is_decoder", "add_cross_attention", "d_kv", "relative_attention_max_distance")
    text.ignore("tie_word_embeddings")  # the whole model's counts
    width, vocab, layers = (
        text.size("hidden_size"),
        text.size("vocab_size"),
        layers_of(text, "num_layers"),
    )
    text.divides("hidden_size", "num_heads")
    built = tower(c.sub("vision_config"), "encoder.")
    made = {first: decoder_layer(text, first) for first in (True, False)}
    head = BlockBuilder("head", width)
    x = rms(head, head.input, "decoder.final_layer_norm")
    h = head.part("decoder", "output_head")
    table = "decoder.embed_tokens.weight" if c.flag("tie_word_embeddings") else None
    h.cross_entropy(h.linear(x, "lm_head", vocab, split="vocabulary", tied_to=table))
    return composite(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="decoder"),
        layers=(
            *built.places,
            *(Placed(f"decoder.layer.{i}.", made[i == 0]) for i in range(layers)),
        ),
        head=head.block(),
        warnings=(*built.warnings, *text.finish()),
        not_trainable_because=NOT_MODELLED,
    )


def decoder_layer(c: Config, first: bool) -> Block:
    """The first layer has the table of relative positions."""
    width, inner = c.size("hidden_size"), c.size("d_ff")
    b = BlockBuilder("decoder with positions" if first else "decoder", width)
    x = b.input
    for name in ("self_attention", "encoder_decoder_attention"):
        p = b.part(name)
        y = rms(p, x, "layer_norm")
        crossed = name != "self_attention"
        x = p.add(x, attention(c, p.part("attention", "attention"), y, crossed, first))
    f = b.part("mlp", "feed_forward")
    y = rms(f, x, "layer_norm")
    d = f.part("DenseReluDense")
    gate = d.activation(d.linear(y, "wi_0", inner), c.word("dense_act_fn"))
    y = d.linear(d.multiply(gate, d.linear(y, "wi_1", inner)), "wo", width, split="row")
    b.add(x, y)
    return b.block()


def attention(c: Config, b: BlockBuilder, x: Tensor, crossed: bool, first: bool) -> Tensor:
    heads, width = c.size("num_heads"), x.width
    states = b.opaque("encoder_hidden_states", width, ()) if crossed else x
    q = b.linear(x, "query", width)
    k, v = (b.linear(states, name, width) for name in ("key", "value"))
    weights: list[Weight] = []
    if first and not crossed:
        shape = (c.size("relative_attention_num_buckets"), heads)
        weights.append(b.weight("relative_attention_bias.weight", *shape, kind="embedding"))
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=not crossed, weights=weights)
    return b.linear(out, "output", width, split="row")
