"""The Q-Former: a few learned queries that read the output of an encoder of images or sound."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import token_positions
from planner.model.operations import Tensor

# It also reads the instruction, which has an embedding and a feed-forward part of its own.
INSTRUCTED = ("instructblip_qformer", "instructblipvideo_qformer")


def qformer(b: BlockBuilder, q: Config, queries: Tensor, encoded: Tensor) -> Tensor:
    """BERT's layers over the queries, some of which also attend to what is encoded.

    Its fields are those of blip_2_qformer. Source: arXiv 2301.12597, section 3.1; Transformers'
    modeling_blip_2.
    """
    q.ignore("vocab_size", "max_position_embeddings")
    instructed = q.model_type in INSTRUCTED
    width, heads = q.size("hidden_size"), q.size("num_attention_heads")
    q.divides("hidden_size", "num_attention_heads")
    every = q.size("cross_attention_frequency")
    text = instructed or q.flag("use_qformer_text_input")
    encoded = b.opaque("encoded", q.size("encoder_hidden_size"), (), (encoded,))
    inner, activation = q.size("intermediate_size"), q.word("hidden_act")
    if instructed:
        e = b.part("embeddings", "embedding")
        words = e.embedding("word_embeddings", q.size("vocab_size"), width)
        x = token_positions(e, words, q.size("max_position_embeddings"), width)
        x = e.layer_norm(e.add(x, queries), "layernorm")
    else:
        x = b.layer_norm(queries, "layernorm")
    for i in range(layers_of(q)):
        layer = b.part(f"encoder.layer.{i}")
        x = _attention(layer.part("attention", "attention"), x, x, heads)
        if i % every == 0:
            x = _attention(layer.part("crossattention", "attention"), x, encoded, heads)
        for part in ("", "_query") if text else ("_query",):  # the text has its own matrices
            f = layer.part("", "feed_forward")
            y = f.activation(f.linear(x, f"intermediate{part}.dense", inner, bias=True), activation)
            y = f.linear(y, f"output{part}.dense", width, bias=True, split="row")
            y = f.layer_norm(f.add(x, y), f"output{part}.LayerNorm")
        x = y
    return x


def _attention(b: BlockBuilder, x: Tensor, read: Tensor, heads: int) -> Tensor:
    width = x.width
    q = b.linear(x, "attention.query", width, bias=True)
    k, v = (b.linear(read, f"attention.{name}", width, bias=True) for name in ("key", "value"))
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    y = b.linear(out, "output.dense", width, bias=True, split="row")
    return b.layer_norm(b.add(x, y), "output.LayerNorm")
