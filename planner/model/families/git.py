"""GIT: BERT's layers as a decoder over the tokens of a CLIP tower and of the text."""

from __future__ import annotations

from dataclasses import replace

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert import Kin, encoder_layer
from planner.model.families.bert_embeddings import token_positions
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

GIT = Kin("git", segments=False, causal=True)


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.divides("hidden_size", "num_attention_heads")
    built = tower(c.sub("vision_config"), "git.image_encoder.vision_model.")
    frames = c.optional("num_image_with_embedding")
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    table = "git.embeddings.word_embeddings.weight" if c.flag("tie_word_embeddings") else None
    h.cross_entropy(
        h.linear(b.input, "output", vocab, bias=True, split="vocabulary", tied_to=table)
    )
    spec = assemble(
        c,
        hidden_size=width,
        embedding=embeddings(c, vocab, width),
        blocks={"decoder": encoder_layer(c, GIT, width)},
        pattern=("decoder",) * layers_of(c),
        head=b.block(),
        layer_prefix="git.encoder.layer.{}.",
        not_trainable_because=NOT_MODELLED,
    )
    beside = (*built.places, Placed("", projection(built.width, width, frames)))
    return replace(
        spec,
        layers=(*beside, *spec.layers),
        warnings=(*built.warnings, *spec.warnings),
    )


def embeddings(c: Config, vocab: int, width: int) -> Block:
    b = BlockBuilder("embedding", 0)
    e = b.part("git.embeddings", "embedding")
    x = e.embedding("word_embeddings", vocab, width)
    e.layer_norm(token_positions(e, x, c.size("max_position_embeddings"), width), "LayerNorm")
    return b.block()


def projection(inside: int, width: int, frames: int | None) -> Block:
    """Linear and norm; videos have a learned token per frame."""
    b = BlockBuilder("projector", inside, sequence="image")
    p = b.part("git", "other")
    x = p.input
    if frames is not None:
        names = (f"img_temporal_embedding.{i}" for i in range(frames))
        weights = tuple(p.weight(name, 1, 1, inside, kind="embedding") for name in names)
        x = p.opaque("img_temporal_embedding", inside, weights, (x,))
    x = p.linear(x, "visual_projection.visual_projection.0", width, bias=True, split="whole")
    p.layer_norm(x, "visual_projection.visual_projection.1")
    return b.block()
