"""Kosmos 2 and 2.5: a decoder with a norm inside its feed-forward part, beside an encoder of
images whose patches learned queries bring to the text's width."""

from __future__ import annotations

from planner.model.assemble import composite, layer, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.wiring import pre_norm

HEADS = ("language",)
# Rows of the table that tells text from image (2.5 alone).
SEGMENTS = 2
NORMS = ("self_attn_layer_norm", "final_layer_norm")


def build(c: Config) -> ModelSpec:
    second = c.model_type == "kosmos-2"
    text = c.sub("text_config")
    text.ignore("activation_function", "scale_embedding", "tie_word_embeddings")
    # Kosmos 2 lists the tie for the whole too; 2.5 leaves it to the text part.
    top = c.flag("tie_word_embeddings")
    tied = text.flag("tie_word_embeddings") or (second and top)
    width, vocab = text.size("embed_dim"), text.size("vocab_size")
    text.divides("embed_dim", "attention_heads")
    built = tower(c.sub("vision_config"), "vision_model.model." if second else "vision_model.")
    b = BlockBuilder("embedding", 0)
    e = b.part("text_model.model", "embedding")
    x = e.embedding("embed_tokens", vocab, width)
    if not second:
        e.add(x, e.embedding("segment_emb", SEGMENTS, width, split="whole"))
    blocks = decoder_layer(text, second)
    layers = [
        Placed(f"text_model.model.layers.{i}.", blocks) for i in range(layers_of(text, "layers"))
    ]
    head = BlockBuilder("head", width)
    h = head.part("text_model", "output_head")
    x = h.layer_norm(h.input, "model.layer_norm")
    table = "text_model.model.embed_tokens.weight" if tied else None
    h.cross_entropy(h.linear(x, "lm_head", vocab, split="vocabulary", tied_to=table))
    between = projection(text, built.width, c.size("latent_query_num"))
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=(*built.places, Placed("", between), *layers),
        head=head.block(),
        warnings=(*built.warnings, *text.finish()),
        not_trainable_because=NOT_MODELLED,
    )


def attention(
    c: Config, b: BlockBuilder, x: Tensor, states: Tensor, causal: bool, inner_norm: bool = False
) -> Tensor:
    heads, width = c.size("attention_heads"), x.width
    k, v = (b.linear(states, f"{name}_proj", width, bias=True) for name in "kv")
    q = b.linear(x, "q_proj", width, bias=True)
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=causal)
    if inner_norm:
        out = b.layer_norm(out, "inner_attn_ln")
    return b.linear(out, "out_proj", width, bias=True, split="row")


def decoder_layer(c: Config, second: bool) -> Block:
    b = BlockBuilder("decoder", c.size("embed_dim"))
    inner, activation = c.size("ffn_dim"), c.word("activation_function")

    def mixer(b: BlockBuilder, x: Tensor) -> Tensor:
        return attention(c, b.part("self_attn", "attention"), x, x, True, second)

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        f = b.part("ffn", "feed_forward")
        y = f.activation(f.linear(x, "fc1", inner, bias=True), activation)
        return f.linear(f.layer_norm(y, "ffn_layernorm"), "fc2", x.width, bias=True, split="row")

    def crossed(b: BlockBuilder, x: Tensor) -> Tensor:
        """After its own tokens, a layer may attend to an encoder's as well."""
        own, a = mixer(b, x), b.part("encoder_attn", "attention")
        states = a.opaque("encoder_hidden_states", x.width, ())
        y = layer(b, b.add(b.input, own), "encoder_attn_layer_norm")
        return b.add(own, attention(c, a, y, states, False))

    cross = c.flag("add_cross_attention")
    pre_norm(b, layer, crossed if cross else mixer, feed, names=NORMS)
    return b.block()


def projection(c: Config, inside: int, queries: int) -> Block:
    """Learned queries attend to the patches and to one another."""
    width = c.size("embed_dim")
    b = BlockBuilder("projector", inside, sequence="image")
    p = b.part("image_to_text_projection", "other")
    x = p.linear(p.input, "dense", width, bias=True)
    latent = p.opaque(
        "latent", width, (p.weight("latent_query", queries, width, kind="embedding"),)
    )
    both = p.concatenate(x, latent, width=width)
    attention(c, p.part("x_attn", "attention"), latent, both, False)
    return b.block()
