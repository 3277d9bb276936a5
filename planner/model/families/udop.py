"""UDOP: T5 over the words and the patches of a page, with biases by where they lie on it."""

from __future__ import annotations

from collections.abc import Mapping

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families import t5
from planner.model.families.vision_layers import pair, patch_projection
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

HEADS = ("language",)
DIRECTIONS = ("1d", "horizontal", "vertical")
# Rows of each table of relative biases: a default argument of Transformers' class.
BIAS_BUCKETS = 32
FIRST_TABLE = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def build(c: Config) -> ModelSpec:
    s, vocab = t5.shape(c), c.size("vocab_size")
    c.ignore(*t5.SETTINGS, "image_size")
    layers = layers_of(c, "num_layers")
    decoder_layers = c.size("num_decoder_layers", layers)
    biases = directions(c)
    b = BlockBuilder("embedding", 0)
    b.part("", "embedding").embedding("shared", vocab, s.width)
    first = page(c, "patch_embed", s.width, "embedding", c.size("max_2d_position_embeddings"))
    h = BlockBuilder("head", s.width)
    out = h.part("", "output_head")
    logits = out.linear(h.input, "lm_head", vocab, split="vocabulary", tied_to="shared.weight")
    out.cross_entropy(logits)
    return composite(
        c,
        hidden_size=s.width,
        embedding=b.block(),
        layers=[
            Placed("", first),
            *t5.stack(c, s, "encoder", layers),
            Placed("encoder.", relative_biases(biases, s.heads)),
            Placed("decoder.", page(c, "embed_patches", s.width, "unused patches")),
            *t5.stack(c, s, "decoder", decoder_layers),
            Placed("decoder.", relative_biases(biases, s.heads)),
        ],
        head=h.block(),
        warnings=(),
        not_trainable_because=t5.NOT_MODELLED,
    )


def directions(c: Config) -> tuple[str, ...]:
    """What each table of biases goes by: distance in the text, across the page or down it."""
    given = c.raw("relative_bias_args")
    if given is None:
        return DIRECTIONS
    wanted = f"a list of mappings with a type of {', '.join(DIRECTIONS)} alone"
    c.require(isinstance(given, list), "relative_bias_args", wanted)
    for entry in given:
        known = isinstance(entry, Mapping) and set(entry) == {"type"}
        c.require(known and entry["type"] in DIRECTIONS, "relative_bias_args", wanted)
    return tuple(entry["type"] for entry in given)


def page(c: Config, name: str, width: int, block: str, positions: int = 0) -> Block:
    """Patches of the page's picture; with `positions`, tables of where a word's box lies."""
    b = BlockBuilder(block, width, sequence="encoder")
    e = b.part("", "embedding")
    patch_projection(e, f"{name}.proj", width, c.size("num_channels"), *pair(c, "patch_size"))
    for axis in "xy" if positions else "":
        table = f"encoder.cell_2d_embedding.{axis}_position_embeddings"
        e.embedding(table, positions, width, split="whole")
    return b.block()


def relative_biases(kinds: tuple[str, ...], heads: int) -> Block:
    """The first table is that of the encoder's first layer, in both stacks."""
    b = BlockBuilder("relative biases", heads, sequence="encoder")
    a = b.part("relative_bias", "attention")
    weights = [
        a.weight(
            f"biases.{i}.relative_attention_bias.weight",
            BIAS_BUCKETS,
            heads,
            kind="embedding",
            tied_to=None if i else FIRST_TABLE,
        )
        for i in range(len(kinds))
    ]
    a.opaque("biases", heads, weights)
    return b.block()
