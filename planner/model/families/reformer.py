"""Reformer: attention within chunks or hashed buckets, layers that run backwards (reversible)."""

from __future__ import annotations

from planner.model import blocks, counted
from planner.model.assemble import assemble, layer, output_head, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Step
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec

KINDS = ("local", "lsh")


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    pattern = c.words("attn_layers") or ()
    known = bool(pattern) and set(pattern) <= set(KINDS)
    c.require(known, "attn_layers", 'one "local" or "lsh" per layer')
    c.ignore("num_hidden_layers")  # as many as attn_layers has
    c.ignore("tie_word_embeddings")  # the head reads two streams, so nothing can be shared
    c.ignore("num_buckets", "hash_seed", "chunk_size_lm_head", "axial_norm_std")

    def unused(b: BlockBuilder, x: Tensor) -> Tensor:
        return counted.module(b, "lm_head", x.width, [b.weight("lm_head.bias", vocab)], x)

    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(
            vocab,
            width,
            prefix="reformer.embeddings",
            name="word_embeddings",
            after=positions(c, width),
        ),
        blocks={kind: reformer_layer(c, kind) for kind in dict.fromkeys(pattern)},
        pattern=pattern,
        head=output_head(
            2 * width,
            vocab,
            tied_to=None,
            norm=layer,
            norm_name="reformer.encoder.layer_norm",
            name="lm_head.decoder",
            bias=True,
            before=unused,
        ),
        layer_prefix="reformer.encoder.layers.{}.",
        not_trainable_because="its backward pass computes every layer's input from its output",
    )


def positions(c: Config, width: int) -> Step:
    """A table of positions, or one small table per axis of a grid of positions, side by side."""
    rows, axial = c.size("max_position_embeddings"), c.flag("axial_pos_embds")
    shape = c.sizes("axial_pos_shape") or ()
    parts = c.sizes("axial_pos_embds_dim") or ()
    if axial:
        c.require(len(parts) == len(shape), "axial_pos_shape", "as long as axial_pos_embds_dim")
        c.require(sum(parts) == width, "axial_pos_embds_dim", f"hidden_size = {width} in sum")

    def place(b: BlockBuilder, x: Tensor) -> Tensor:
        if not axial:
            name = "position_embeddings.embedding"
            return b.add(x, b.embedding(name, rows, width, split="whole", positions=True))
        weights = []
        for i, (length, part) in enumerate(zip(shape, parts, strict=True)):
            own = [1] * len(shape)
            own[i] = length
            name = f"position_embeddings.weights.{i}"
            weights.append(b.weight(name, *own, part, kind="embedding"))
        return b.add(x, b.opaque("position_embeddings", width, weights))

    return place


def reformer_layer(c: Config, kind: str) -> Block:
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    head, inner = c.size("attention_head_size"), c.size("feed_forward_size")
    activation = c.word("hidden_act")
    chunk = c.size(f"{kind}_attn_chunk_length")
    chunks = 1 + c.count(f"{kind}_num_chunks_before") + c.count(f"{kind}_num_chunks_after")
    rounds = c.size("num_hashes") if kind == "lsh" else 1
    c.ignore(*(f"{k}_{name}" for k in KINDS for name in CHUNK_FIELDS), "num_hashes")
    b = BlockBuilder(kind, width)
    x = layer(b, b.input, "attention.layer_norm")
    part = b.part("attention.self_attention", "attention")
    if kind == "lsh":  # hashed into buckets, queries are keys too
        q = k = part.linear(x, "query_key", heads * head)
    else:
        q, k = part.linear(x, "query", heads * head), part.linear(x, "key", heads * head)
    v = part.linear(x, "value", heads * head)
    seen = chunk * chunks * rounds
    out = part.attention(q, k, v, heads=heads, kv_heads=heads, window=seen, eager_only=True)
    dense = b.part("attention.output", "attention")
    x = b.add(b.input, dense.linear(out, "dense", width, split="row"))
    fed = blocks.feed_forward(
        b.part("feed_forward", "feed_forward"),
        layer(b, x, "feed_forward.layer_norm"),
        intermediate_size=inner,
        activation=activation,
        names=("dense.dense", "output.dense"),
    )
    b.add(x, fed)
    return b.block()


CHUNK_FIELDS = ("attn_chunk_length", "num_chunks_before", "num_chunks_after")
