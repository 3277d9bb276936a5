"""ESM-2 and ESM-1b: encoders of proteins, with norms before each part and a head of contacts."""

from __future__ import annotations

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import token_positions
from planner.model.families.bert_heads import PARTS, transform
from planner.model.heads import kind_of_head, labels
from planner.model.operations import Block
from planner.model.spec import ModelSpec

HEADS = ("language", "sequences", "tokens", "bare")
NOT_MODELLED = "what its layers keep for the backward pass is not modelled"


def build(c: Config) -> ModelSpec:
    c.ignore("token_dropout", "vocab_list", "esmfold_config", "is_decoder")
    c.require(not c.flag("is_folding_model"), "is_folding_model", "false: folding is not modelled")
    c.require(not c.flag("add_cross_attention"), "add_cross_attention", "false")
    width, kind = c.size("hidden_size"), kind_of_head(c)
    c.divides("hidden_size", "num_attention_heads")
    prefix = "" if kind == "bare" else "esm."
    rotary = c.one_of("position_embedding_type", ("absolute", "rotary")) == "rotary"
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(c, width, prefix, rotary),
        blocks={"encoder": layer(c, width, rotary)},
        pattern=("encoder",) * layers_of(c),
        head=head(c, width, prefix, kind),
        layer_prefix=f"{prefix}encoder.layer.{{}}.",
        not_trainable_because=NOT_MODELLED,
    )


def embeddings(c: Config, width: int, prefix: str, rotary: bool) -> Block:
    b = BlockBuilder("embedding", 0)
    e = b.part(f"{prefix}embeddings", "embedding")
    x = e.embedding("word_embeddings", c.size("vocab_size"), width)
    rows = c.size("max_position_embeddings")
    if not rotary:
        x = token_positions(e, x, rows, width)
    if c.flag("emb_layer_norm_before"):
        e.layer_norm(x, "layer_norm")
    return b.block()


def layer(c: Config, width: int, rotary: bool) -> Block:
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    b = BlockBuilder("encoder", width)
    a, f = b.part("attention", "attention"), b.part("", "feed_forward")
    x = a.layer_norm(b.input, "LayerNorm")
    names = ("query", "key", "value")
    q, k, v = (a.linear(x, f"self.{name}", width, bias=True) for name in names)
    if rotary:
        q, k = a.rotary(q, heads=heads), a.rotary(k, heads=heads)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    x = b.add(b.input, a.linear(out, "output.dense", width, bias=True, split="row"))
    y = f.linear(b.layer_norm(x, "LayerNorm"), "intermediate.dense", inner, bias=True)
    y = f.linear(f.activation(y, "gelu"), "output.dense", width, bias=True, split="row")
    b.add(x, y)
    return b.block()


def head(c: Config, width: int, prefix: str, kind: str) -> Block:
    """The head of contacts reads every head of every layer; it is there in each class."""
    b = BlockBuilder("head", width)
    x = b.layer_norm(b.input, f"{prefix}encoder.emb_layer_norm_after")
    h, tied = b.part("", "output_head"), c.flag("tie_word_embeddings")
    maps = layers_of(c) * c.size("num_attention_heads")
    h.linear(h.make(maps), f"{prefix}contact_head.regression", 1, bias=True, split="whole")
    if kind == "language":
        vocab = c.size("vocab_size")
        x = transform(h, x, *PARTS["lm_head"], "gelu")
        table = "esm.embeddings.word_embeddings.weight" if tied else None
        x = h.linear(x, "lm_head.decoder", vocab, split="vocabulary", tied_to=table)
        h.cross_entropy(h.add_bias(x, "lm_head.bias"))
    elif kind == "sequences":
        x = h.activation(h.linear(x, "classifier.dense", width, bias=True, split="whole"), "tanh")
        h.linear(x, "classifier.out_proj", labels(c), bias=True, split="whole")
    elif kind == "tokens":
        h.linear(x, "classifier", labels(c), bias=True, split="whole")
    else:
        h.activation(h.linear(x, "pooler.dense", width, bias=True, split="whole"), "tanh")
    return b.block()
