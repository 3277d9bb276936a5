"""BLIP: BERT as a decoder, each layer of which also attends to the patches of an image."""

from __future__ import annotations

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import token_positions
from planner.model.families.bert_heads import transform, vocabulary
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import not_modelled, task
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("language",)
BERT = "text_decoder.bert"
PREDICTIONS = "text_decoder.cls.predictions"


def build(c: Config) -> ModelSpec:
    if task(c) is None:
        raise not_modelled(c)
    c.ignore("projection_dim", "logit_scale_init_value", "image_text_hidden_size")
    c.ignore("label_smoothing")
    text = c.sub("text_config")
    text.ignore("projection_dim", "encoder_hidden_size", "label_smoothing", "is_decoder")
    width, vocab = text.size("hidden_size"), text.size("vocab_size")
    text.divides("hidden_size", "num_attention_heads")
    tied = c.flag("tie_word_embeddings") or text.flag("tie_word_embeddings")
    built = tower(c.sub("vision_config"), "vision_model.")
    b = BlockBuilder("embedding", 0)
    e = b.part(f"{BERT}.embeddings", "embedding")
    x = e.embedding("word_embeddings", vocab, width)
    x = token_positions(e, x, text.size("max_position_embeddings"), width)
    e.layer_norm(x, "LayerNorm")
    states = built.width if text.flag("is_decoder", True) else None
    layer = decoder_layer(text, states)
    h = BlockBuilder("head", width)
    out = h.part(PREDICTIONS, "output_head")
    activation = text.word("hidden_act")
    x = transform(out, h.input, "transform.dense", "transform.LayerNorm", activation)
    table = f"{BERT}.embeddings.word_embeddings.weight" if tied else None
    vocabulary(out, x, vocab, "decoder", tied_to=table, shared_bias="bias")
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=(
            *built.places,
            *(Placed(f"{BERT}.encoder.layer.{i}.", layer) for i in range(layers_of(text))),
        ),
        head=h.block(),
        warnings=(*built.warnings, *text.finish()),
        not_trainable_because=NOT_MODELLED,
    )


def attention(
    c: Config, b: BlockBuilder, x: Tensor, states: Tensor, inside: str, causal: bool
) -> Tensor:
    """BERT's attention and the norm after it; `inside`: the module of its three linears."""
    heads, width = c.size("num_attention_heads"), x.width
    q = b.linear(x, f"{inside}.query", width, bias=True)
    k, v = (b.linear(states, f"{inside}.{name}", width, bias=True) for name in ("key", "value"))
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=causal)
    out = b.linear(out, "output.dense", width, bias=True, split="row")
    return b.layer_norm(b.add(x, out), "output.LayerNorm")


def feed_forward(c: Config, b: BlockBuilder, x: Tensor, suffix: str = "") -> Tensor:
    f, inner = b.part("", "feed_forward"), c.size("intermediate_size")
    y = f.linear(x, f"intermediate{suffix}.dense", inner, bias=True)
    y = f.activation(y, c.word("hidden_act"))
    y = f.linear(y, f"output{suffix}.dense", x.width, bias=True, split="row")
    return b.layer_norm(b.add(x, y), f"output{suffix}.LayerNorm")


def decoder_layer(c: Config, states: int | None) -> Block:
    b = BlockBuilder("decoder", c.size("hidden_size"))
    x = attention(c, b.part("attention", "attention"), b.input, b.input, "self", True)
    if states is not None:
        a = b.part("crossattention", "attention")
        image = a.opaque("encoder_hidden_states", states, ())
        x = attention(c, a, x, image, "self", False)
    feed_forward(c, b, x)
    return b.block()
