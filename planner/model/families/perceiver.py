"""Perceiver: a few latent vectors read the text, think, and are read by the positions of the text.

Only the language model is here; the latents are priced as if there were as many as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import learned
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "what its latents keep for the backward pass is not modelled"
UNUSED = (  # of its other preprocessors, for images, sound and films
    *("image_size", "train_size", "num_frames", "audio_samples_per_frame", "samples_per_patch"),
    *("output_shape", "output_num_channels", "use_query_residual"),
)
# Heads and width of the queries with which the text reads the latents (Transformers'
# PerceiverForMaskedLM).
READER_HEADS, READER_QUERIES = 8, 8 * 32


@dataclass(frozen=True)
class Reading:
    """Sizes of an attention: of who asks (asked), of who answers, of queries and values."""

    asking: int
    answering: int
    queries: int
    values: int
    heads: int
    widening: int
    output: int


def build(c: Config) -> ModelSpec:
    c.ignore(*UNUSED)
    width, latent, vocab = c.size("d_model"), c.size("d_latents"), c.size("vocab_size")
    positions, activation = c.size("max_position_embeddings"), c.word("hidden_act")
    b = BlockBuilder("embedding", 0)
    e = b.part("perceiver", "embedding")
    p = e.part("input_preprocessor")
    x = p.embedding("embeddings", vocab, width)
    x = p.add(x, p.embedding("position_embeddings", positions, width, split="whole"))
    learned(e, x, "embeddings.latents", c.size("num_latents"), latent)
    enters, thinks = sizes(c, width, latent)
    first = reading(enters, activation, cross=True)
    layer = reading(thinks, activation, cross=False)
    prefix = "perceiver.encoder."
    places = [Placed(f"{prefix}cross_attention.", first)]
    for again in range(layers_of(c, "num_blocks")):  # the same layers several times
        for i in range(layers_of(c, "num_self_attends_per_block")):
            name = f"{prefix}self_attends.{i}."
            places.append(Placed(name, layer, weights_of=name if again else None))
    head = BlockBuilder("head", latent)
    d = head.part("perceiver.decoder", "other")
    asked = learned(
        d, d.make(width), "output_position_encodings.position_embeddings", positions, width
    )
    reader = Reading(width, latent, READER_QUERIES, width, READER_HEADS, 1, width)
    inner = d.part("decoding_cross_attention")
    x = read(inner, asked, head.input, reader, activation, cross=True)
    h, table = head.part("", "output_head"), "perceiver.input_preprocessor.embeddings.weight"
    weight = h.weight("embedding_decoder.weight", vocab, width, tied_to=table)
    bias = h.weight("embedding_decoder.bias", vocab)
    flops = 2 * vocab * width
    h.cross_entropy(h.opaque("decode", vocab, (weight, bias), (x,), flops_per_token=flops))
    return composite(
        c,
        hidden_size=latent,
        embedding=b.block(),
        layers=places,
        head=head.block(),
        not_trainable_because=NOT_MODELLED,
    )


def sizes(c: Config, width: int, latent: int) -> tuple[Reading, Reading]:
    """The latents' reading of the text, and of one another."""
    like = c.one_of("cross_attention_shape_for_attention", ("kv", "q"))
    queries, values = c.optional("qk_channels"), c.optional("v_channels")
    made = []
    for kind, answering, default in (
        ("cross", width, width if like == "kv" else latent),
        ("self", latent, latent),
    ):
        field = f"num_{kind}_attention_heads"
        heads, asked = c.size(field), queries or default
        kept = values or asked
        fits = all(size % heads == 0 for size in (latent, asked, kept))
        c.require(fits, field, f"a divisor of d_latents, qk_channels and v_channels: {latent}")
        widening = c.size(f"{kind}_attention_widening_factor")
        output = latent if kind == "cross" else kept
        made.append(Reading(latent, answering, asked, kept, heads, widening, output))
    return made[0], made[1]


def reading(r: Reading, activation: str, *, cross: bool) -> Block:
    b = BlockBuilder("reading" if cross else "layer", r.asking, sequence="encoder")
    answers = b.make(r.answering) if cross else b.input
    read(b, b.input, answers, r, activation, cross=cross)
    return b.block()


def read(
    b: BlockBuilder, x: Tensor, answers: Tensor, r: Reading, activation: str, *, cross: bool
) -> Tensor:
    """Attention and feed-forward part, each after a norm; cross: the answers have their own."""
    a, f = b.part("attention", "attention"), b.part("mlp", "feed_forward")
    y = a.layer_norm(x, "self.layernorm1")
    z = a.layer_norm(answers, "self.layernorm2") if cross else y
    q = a.linear(y, "self.query", r.queries, bias=True)
    k = a.linear(z, "self.key", r.queries, bias=True)
    v = a.linear(z, "self.value", r.values, bias=True)
    out = a.attention(q, k, v, heads=r.heads, kv_heads=r.heads, causal=False)
    x = b.add(x, a.linear(out, "output.dense", r.output, bias=True, split="row"))
    y = f.linear(b.layer_norm(x, "layernorm"), "dense1", r.widening * r.asking, bias=True)
    y = f.linear(f.activation(y, activation), "dense2", r.asking, bias=True, split="row")
    return b.add(x, y)
