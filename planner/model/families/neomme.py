"""NeoMME: an encoder of text and pages, with norms that have no weights and gated attention."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import assemble, heads_of, layer_types, layers_of, window_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import pair
from planner.model.operations import Block
from planner.model.spec import ModelSpec

NOT_MODELLED = "what its mixed residual streams keep for the backward pass is not modelled"
COLOURS = 3
# The width between the two matrices of a patch, in hidden sizes (Transformers' modeling_neomme).
PATCH_WIDENING = 2
# One layer of so many sees the whole text, and the last (NeoMMEConfig's own rule).
WHOLE_EVERY = 6


def build(c: Config) -> ModelSpec:
    c.ignore("residual_multiplier", "embedding_dim", "per_layer_config", "sliding_window")
    width, rank, vocab = c.size("hidden_size"), c.size("embedding_rank"), c.size("vocab_size")
    h, layers = heads_of(c), layers_of(c)

    def kind(i: int) -> str:
        whole = (i + 1) % WHOLE_EVERY == 0 or i == layers - 1
        return "full_attention" if whole else "sliding_attention"

    kinds = layer_types(c, layers, kind, known=("full_attention", "sliding_attention"))
    tied = c.flag("tie_word_embeddings")
    b = BlockBuilder("embedding", 0)
    e = b.part("model", "embedding")
    words = e.part("embed_tokens")
    x = words.embedding("word_embeddings", vocab, rank)
    words.linear(x, "embedding_projection", width, split="whole")
    down, across = pair(c, "patch_size")
    p = e.part("patch_embeddings")
    x = p.layer_norm(p.make(COLOURS * down * across), "norm")
    x = p.activation(p.linear(x, "up_proj", PATCH_WIDENING * width, split="whole"), "gelu")
    p.linear(x, "down_proj", width, bias=True, split="whole")
    # values of the first and the last layer that sees everything
    e.embedding("value_embeddings", vocab, h.kv_width)
    end = BlockBuilder("head", width)
    head = end.part("", "output_head")
    narrow = head.weight(
        "unembedding_projection.weight",
        width,
        rank,
        tied_to="model.embed_tokens.embedding_projection.weight" if tied else None,
    )
    flops = 2 * width * rank
    y = head.opaque("unembedding_projection", rank, (narrow,), (end.input,), flops_per_token=flops)
    table = "model.embed_tokens.word_embeddings.weight" if tied else None
    head.cross_entropy(head.linear(y, "lm_head", vocab, split="vocabulary", tied_to=table))
    return assemble(
        c,
        hidden_size=width,
        embedding=b.block(),
        blocks={name: layer(c, width, name) for name in set(kinds)},
        pattern=kinds,
        head=end.block(),
        not_trainable_because=NOT_MODELLED,
    )


def layer(c: Config, width: int, kind: str) -> Block:
    h, bias, mlp_bias = heads_of(c), c.flag("attention_bias"), c.flag("mlp_bias")
    b = BlockBuilder(kind, width)
    a, f = b.part("self_attn", "attention"), b.part("mlp", "feed_forward")
    lambdas = b.weight("lambdas", 2)
    x = b.opaque("mixed", width, (lambdas,), (b.input,), group="other")
    y = b.rms_norm(x, "input_layernorm", weight=False)
    q = a.linear(y, "q_proj", h.q_width, bias=bias)
    k = a.linear(y, "k_proj", h.kv_width, bias=bias)
    v = a.linear(y, "v_proj", h.kv_width, bias=bias)
    q = a.rms_norm(q, "q_norm", heads=h.heads, weight=False)
    k = a.rms_norm(k, "k_norm", heads=h.kv_heads, weight=False)
    alpha = a.weight("exclusive_self_attention.alpha", h.heads)
    out = blocks.rotated_attention(
        a, q, k, v, h, window=window_of(c, kind), causal=False, weights=(alpha,)
    )
    g = a.part("output_projection")
    gate = g.activation(g.linear(y, "gate_proj", h.q_width), "sigmoid")
    y = g.linear(g.multiply(gate, out), "o_proj", width, bias=bias, split="row")
    x = b.add(x, b.scale(y))
    y = b.rms_norm(x, "post_attention_layernorm", weight=False)
    inner = c.size("intermediate_size")
    y = f.activation(f.linear(y, "up_proj", inner, bias=mlp_bias), c.word("hidden_act"))
    b.add(x, b.scale(f.linear(y, "down_proj", width, bias=mlp_bias, split="row")))
    return b.block()
