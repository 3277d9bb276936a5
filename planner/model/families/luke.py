"""LUKE: RoBERTa that reads entities beside words, and guesses both."""

from __future__ import annotations

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import token_positions
from planner.model.families.bert_heads import PARTS, transform
from planner.model.operations import Block
from planner.model.spec import ModelSpec

NOT_MODELLED = "what the attention of words and entities keeps is not modelled"


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.divides("hidden_size", "num_attention_heads")
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(c, width, vocab),
        blocks={"encoder": layer(c, width)},
        pattern=("encoder",) * layers_of(c),
        head=head(c, width, vocab),
        layer_prefix="luke.encoder.layer.{}.",
        not_trainable_because=NOT_MODELLED,
    )


def embeddings(c: Config, width: int, vocab: int) -> Block:
    """Words as BERT's; entities from a table of their own, which may be narrower."""
    b = BlockBuilder("embedding", 0)
    outer = b.part("luke", "embedding")
    rows, segments = c.size("max_position_embeddings"), c.size("type_vocab_size")
    entities, narrow = c.size("entity_vocab_size"), c.size("entity_emb_size")
    for module, name, count, size in (
        ("embeddings", "word_embeddings", vocab, width),
        ("entity_embeddings", "entity_embeddings", entities, narrow),
    ):
        e = outer.part(module)
        x = e.embedding(name, count, size)
        if size != width:
            x = e.linear(x, "entity_embedding_dense", width, split="whole")
        x = token_positions(e, x, rows, width)
        x = e.add(x, e.embedding("token_type_embeddings", segments, width, split="whole"))
        e.layer_norm(x, "LayerNorm")
    return b.block()


def layer(c: Config, width: int) -> Block:
    """Queries of their own for each pair of words and entities."""
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    b = BlockBuilder("encoder", width)
    a, f = b.part("attention", "attention"), b.part("", "feed_forward")
    names = ("query", "key", "value")
    q, k, v = (a.linear(b.input, f"self.{name}", width, bias=True) for name in names)
    if c.flag("use_entity_aware_attention"):
        for pair in ("w2e", "e2w", "e2e"):
            a.linear(b.input, f"self.{pair}_query", width, bias=True)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    y = a.linear(out, "output.dense", width, bias=True, split="row")
    x = b.layer_norm(b.add(b.input, y), "attention.output.LayerNorm")
    y = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), c.word("hidden_act"))
    y = f.linear(y, "output.dense", width, bias=True, split="row")
    b.layer_norm(b.add(x, y), "output.LayerNorm")
    return b.block()


def head(c: Config, width: int, vocab: int) -> Block:
    """The words' matrix is never the embedding's; tying shares its bias and the entities' matrix.

    Source: Transformers' LukeForMaskedLM, _tied_weights_keys.
    """
    tied = c.flag("tie_word_embeddings")
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    h.activation(h.linear(b.input, "luke.pooler.dense", width, bias=True, split="whole"), "tanh")
    x = transform(h, b.input, *PARTS["lm_head"], "gelu")
    weights = [h.weight("lm_head.decoder.weight", vocab, width), h.weight("lm_head.bias", vocab)]
    if not tied:
        weights.append(h.weight("lm_head.decoder.bias", vocab))
    h.cross_entropy(h.opaque("words", vocab, weights, (x,), flops_per_token=2 * vocab * width))
    entities, narrow = c.size("entity_vocab_size"), c.size("entity_emb_size")
    e = h.part("entity_predictions")
    dense, norm = "transform.dense", "transform.LayerNorm"
    y = transform(e, b.input, dense, norm, c.word("hidden_act"), narrow)
    table = "luke.entity_embeddings.entity_embeddings.weight" if tied else None
    matrix = e.weight("decoder.weight", entities, narrow, tied_to=table)
    flops = 2 * entities * narrow
    bias = e.weight("bias", entities)
    h.cross_entropy(e.opaque("entities", entities, (matrix, bias), (y,), flops_per_token=flops))
    return b.block()
