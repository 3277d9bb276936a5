"""Small relatives of BERT with names of their own: DistilBERT, MPNet and ALBERT."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import table
from planner.model.families.bert_heads import transform, vocabulary
from planner.model.heads import kind_of_head, labels, not_modelled
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

HEADS = ("language", "bare", "sequences", "tokens")


@dataclass(frozen=True)
class Names:
    """Where a family keeps the parts of a layer."""

    queries: tuple[str, str, str]
    output: str
    attention_norm: str
    up: str
    down: str
    norm: str


DISTILBERT = Names(
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
MPNET = Names(
    ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    "attention.attn.o",
    "attention.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
ALBERT = Names(
    ("attention.query", "attention.key", "attention.value"),
    "attention.dense",
    "attention.LayerNorm",
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)


def build(c: Config) -> ModelSpec:
    return {"distilbert": distilbert, "mpnet": mpnet, "albert": albert}[c.model_type](c)


def post_norm_layer(n: Names, width: int, heads: int, inner: int, activation: str) -> Block:
    b = BlockBuilder("encoder", width)
    a, f = b.part("", "attention"), b.part("", "feed_forward")
    q, k, v = (a.linear(b.input, name, width, bias=True) for name in n.queries)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    x = b.add(a.linear(out, n.output, width, bias=True, split="row"), b.input)
    x = b.layer_norm(x, n.attention_norm)
    y = f.activation(f.linear(x, n.up, inner, bias=True), activation)
    b.layer_norm(b.add(f.linear(y, n.down, width, bias=True, split="row"), x), n.norm)
    return b.block()


def embeddings(
    prefix: str,
    vocab: int,
    positions: int,
    width: int,
    *,
    segments: int = 0,
    projected: int | None = None,
) -> Block:
    b = BlockBuilder("embedding", 0)
    outer = b.part(prefix.rstrip("."), "embedding")
    e = outer.part("embeddings")
    x = e.embedding("word_embeddings", vocab, width)
    x = table(e, x, "position_embeddings", positions, width)
    if segments:
        x = table(e, x, "token_type_embeddings", segments, width)
    x = e.layer_norm(x, "LayerNorm")
    if projected:
        outer.linear(x, "encoder.embedding_hidden_mapping_in", projected, bias=True, split="whole")
    return b.block()


def distilbert(c: Config) -> ModelSpec:
    width, vocab, kind = c.size("dim"), c.size("vocab_size"), kind_of_head(c)
    c.divides("dim", "n_heads")
    c.ignore("sinusoidal_pos_embds", "tie_weights_", "output_past")
    prefix = "" if kind == "bare" else "distilbert."
    activation = c.word("activation")
    layer = post_norm_layer(DISTILBERT, width, c.size("n_heads"), c.size("hidden_dim"), activation)
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    tied = c.flag("tie_word_embeddings")
    if kind == "language":
        x = transform(h, b.input, "vocab_transform", "vocab_layer_norm", activation)
        table_name = "distilbert.embeddings.word_embeddings.weight"
        vocabulary(h, x, vocab, "vocab_projector", tied_to=table_name if tied else None)
    elif kind == "sequences":
        x = h.activation(h.linear(b.input, "pre_classifier", width, bias=True), "relu")
        h.linear(x, "classifier", labels(c), bias=True, split="whole")
    elif kind == "tokens":
        h.linear(b.input, "classifier", labels(c), bias=True, split="whole")
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(prefix, vocab, c.size("max_position_embeddings"), width),
        blocks={"encoder": layer},
        pattern=("encoder",) * layers_of(c, "n_layers"),
        head=b.block(),
        layer_prefix=f"{prefix}transformer.layer.{{}}.",
    )


def mpnet(c: Config) -> ModelSpec:
    width, vocab, kind = c.size("hidden_size"), c.size("vocab_size"), kind_of_head(c)
    heads, activation = c.size("num_attention_heads"), c.word("hidden_act")
    c.divides("hidden_size", "num_attention_heads")
    prefix = "" if kind == "bare" else "mpnet."
    b = BlockBuilder("head", width)
    shape = (c.size("relative_attention_num_buckets"), heads)
    encoder = b.part(f"{prefix}encoder", "attention")
    bias = encoder.weight("relative_attention_bias.weight", *shape, kind="embedding")
    encoder.opaque("relative_attention_bias", 0, (bias,))
    h = b.part("", "output_head")
    tied = c.flag("tie_word_embeddings")
    if kind == "language":
        x = transform(h, b.input, "lm_head.dense", "lm_head.layer_norm", "gelu")
        vocabulary(
            h,
            x,
            vocab,
            "lm_head.decoder",
            tied_to="mpnet.embeddings.word_embeddings.weight" if tied else None,
            shared_bias="lm_head.bias",
        )
    elif kind == "bare":
        h.activation(h.linear(b.input, "pooler.dense", width, bias=True, split="whole"), "tanh")
    else:
        raise not_modelled(c)
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(prefix, vocab, c.size("max_position_embeddings"), width),
        blocks={
            "encoder": post_norm_layer(MPNET, width, heads, c.size("intermediate_size"), activation)
        },
        pattern=("encoder",) * layers_of(c),
        head=b.block(),
        layer_prefix=f"{prefix}encoder.layer.{{}}.",
        not_trainable_because="the tensors that its relative attention keeps are not modelled",
    )


def albert(c: Config) -> ModelSpec:
    """Few groups of layers, run again and again: weights are counted where they first run."""
    width, vocab, kind = c.size("hidden_size"), c.size("vocab_size"), kind_of_head(c)
    narrow, layers = c.size("embedding_size"), layers_of(c)
    groups, inside = c.size("num_hidden_groups"), c.size("inner_group_num")
    c.divides("hidden_size", "num_attention_heads")
    prefix = "" if kind == "bare" else "albert."
    block = post_norm_layer(
        ALBERT,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
    )
    names = [
        f"{prefix}encoder.albert_layer_groups.{min(int(i / (layers / groups)), groups - 1)}"
        f".albert_layers.{j}."
        for i in range(layers)
        for j in range(inside)
    ]
    c.require(groups <= layers, "num_hidden_groups", f"at most {layers}, the layers")
    seen: set[str] = set()
    placed = []
    for name in names:
        placed.append(Placed(name, block, name if name in seen else None))
        seen.add(name)
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    tied = c.flag("tie_word_embeddings")
    if kind == "language":
        x = transform(
            h, b.input, "predictions.dense", "predictions.LayerNorm", c.word("hidden_act"), narrow
        )
        vocabulary(
            h,
            x,
            vocab,
            "predictions.decoder",
            tied_to="albert.embeddings.word_embeddings.weight" if tied else None,
            shared_bias="predictions.bias",
        )
    elif kind in ("bare", "sequences"):
        x = h.activation(h.linear(b.input, f"{prefix}pooler", width, bias=True), "tanh")
        if kind == "sequences":
            h.linear(x, "classifier", labels(c), bias=True, split="whole")
    else:
        raise not_modelled(c)
    embedding = embeddings(
        prefix,
        vocab,
        c.size("max_position_embeddings"),
        narrow,
        segments=c.size("type_vocab_size"),
        projected=width,
    )
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=width,
        embedding=Placed("", embedding),
        layers=tuple(placed),
        head=Placed("", b.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because="gradients of layers that run again and again are not modelled",
    )
