"""Encoders with rotary positions: ModernBERT and its decoder, EuroBERT, UltraBERT and more."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks
from planner.model.assemble import (
    assemble,
    heads_of,
    layer_types,
    layers_of,
    output_head,
    rms,
    token_embedding,
    window_of,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import table
from planner.model.families.bert_heads import transform, vocabulary
from planner.model.heads import kind_of_head, not_modelled
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.wiring import pre_norm

HEADS = ("language", "bare")


def build(c: Config) -> ModelSpec:
    if c.model_type.startswith("modernbert"):
        return modernbert(c)
    if c.model_type in POST_NORM:
        return post_norm_encoder(c)
    return esmc(c) if c.model_type == "esmc" else eurobert(c)


# ---- ModernBERT: pre-norm, fused matrices, local attention in two layers of three ----------

MODERNBERT_SETTINGS = (
    "deterministic_flash_attn",
    "classifier_pooling",
    "classifier_activation",
    "sparse_prediction",
    "sparse_pred_ignore_index",
    "reference_compile",
    "repad_logits_with_grad",
    "global_rope_theta",
    "local_rope_theta",
    "layer_norm_eps",
    "position_embedding_type",
    "hidden_act",
    "embedding_dropout",
    "compile_model",
)


def modernbert(c: Config) -> ModelSpec:
    c.ignore(*MODERNBERT_SETTINGS)
    decoder, bare = c.model_type == "modernbert-decoder", kind_of_head(c) == "bare"
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.divides("hidden_size", "num_attention_heads")
    prefix = "" if bare else "model."
    every = c.size("global_attn_every_n_layers", 3)
    kinds = ("full_attention", "sliding_attention")
    pattern = layer_types(c, layers_of(c), lambda i: kinds[i % every > 0], known=kinds)
    norm_bias = c.flag("norm_bias")
    names = ("first " + pattern[0], *pattern[1:])
    e = BlockBuilder("embedding", 0)
    inner = e.part(f"{prefix}embeddings", "embedding")
    inner.layer_norm(inner.embedding("tok_embeddings", vocab, width), "norm", bias=norm_bias)
    return assemble(
        c,
        hidden_size=width,
        embedding=e.block(),
        blocks={name: modernbert_layer(c, name, decoder) for name in dict.fromkeys(names)},
        pattern=names,
        head=modernbert_head(c, width, vocab, prefix, "lm_head" if decoder else "head"),
        layer_prefix=f"{prefix}layers.{{}}.",
    )


def modernbert_layer(c: Config, name: str, decoder: bool) -> Block:
    """The first layer has no norm before attention: the embeddings have just been normed."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    norm_bias, bias = c.flag("norm_bias"), c.flag("attention_bias")
    inner, activation = c.size("intermediate_size"), c.word("hidden_activation")
    window = c.size("local_attention") // 2 if "sliding" in name else None
    mlp_bias = c.flag("mlp_bias")
    b = BlockBuilder(name, width)
    first = name.startswith("first")
    x = b.input if first else b.layer_norm(b.input, "attn_norm", bias=norm_bias)
    a = b.part("attn", "attention")
    if decoder:
        q, k, v = (a.linear(x, f"{n}_proj", width, bias=bias) for n in "qkv")
    else:
        q, k, v = a.split(a.linear(x, "Wqkv", 3 * width, bias=bias), width, width, width)
    h = blocks.Heads(heads, heads, width // heads)
    out = blocks.rotated_attention(a, q, k, v, h, window=window, causal=decoder)
    x = b.add(b.input, a.linear(out, "Wo", width, bias=bias, split="row"))
    f = b.part("mlp", "feed_forward")
    y = f.linear(b.layer_norm(x, "mlp_norm", bias=norm_bias), "Wi", 2 * inner, bias=mlp_bias)
    left, gate = f.split(y, inner, inner)
    y = f.multiply(f.activation(left, activation), gate)
    b.add(x, f.linear(y, "Wo", width, bias=mlp_bias, split="row"))
    return b.block()


def modernbert_head(c: Config, width: int, vocab: int, prefix: str, name: str) -> Block:
    b = BlockBuilder("head", width)
    norm_bias, tied = c.flag("norm_bias"), c.flag("tie_word_embeddings")
    bias, own_bias = c.flag("classifier_bias"), c.flag("decoder_bias")
    x = b.layer_norm(b.input, f"{prefix}final_norm", bias=norm_bias)
    if kind_of_head(c) == "language":
        h = b.part("", "output_head")
        x = h.linear(x, f"{name}.dense", width, bias=bias, split="whole")
        activation = c.word("classifier_activation", "gelu")
        x = h.layer_norm(h.activation(x, activation), f"{name}.norm", bias=norm_bias)
        x = h.linear(
            x,
            "decoder",
            vocab,
            bias=own_bias,
            split="vocabulary",
            tied_to=f"{prefix}embeddings.tok_embeddings.weight" if tied else None,
        )
        h.cross_entropy(x)
    return b.block()


# ---- EuroBERT: Llama's layers, seeing both ways; UltraBERT: most of them near by ----------


def eurobert(c: Config) -> ModelSpec:
    if kind_of_head(c) == "bare":
        raise not_modelled(c)
    c.ignore("classifier_pooling")
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    local = c.model_type == "ultrabert"
    kinds = ("full_attention", "sliding_attention")
    pattern = ("full_attention",) * layers_of(c)
    if local:  # windows per layer are an older spelling of layer_types
        c.require(c.raw("attention_windows") is None, "attention_windows", "left out")
        pattern = layer_types(c, layers_of(c), known=kinds)
    tied = c.flag("tie_word_embeddings")
    head_size = c.size("prediction_head_size") if local else None

    def before(b: BlockBuilder, x: Tensor) -> Tensor:
        if head_size is None:
            return x
        x = b.activation(b.linear(x, "head.linear1", head_size, split="whole"), "gelu_pytorch_tanh")
        return b.activation(b.linear(x, "head.linear2", width, split="whole"), "gelu_pytorch_tanh")

    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width),
        blocks={kind: eurobert_layer(c, kind) for kind in dict.fromkeys(pattern)},
        pattern=pattern,
        head=output_head(
            width,
            vocab,
            name="head.decoder" if local else "lm_head",
            tied_to="model.embed_tokens.weight" if tied else None,
            bias=not local and c.flag("mlp_bias"),
            before=before,
        ),
    )


def eurobert_layer(c: Config, kind: str) -> Block:
    h, bias, mlp_bias = heads_of(c), c.flag("attention_bias"), c.flag("mlp_bias")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    window = window_of(c, kind)
    b = BlockBuilder(kind, c.size("hidden_size"))
    pre_norm(
        b,
        rms,
        lambda b, x: blocks.grouped_query_attention(
            b.part("self_attn", "attention"),
            x,
            h,
            bias=bias,
            output_bias=bias,
            causal=False,
            window=window,
        ),
        lambda b, x: blocks.gated_feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            bias=mlp_bias,
        ),
    )
    return b.block()


# ---- ESM C: layer norms, queries and keys normed over all heads ----------


def esmc(c: Config) -> ModelSpec:
    if kind_of_head(c) == "bare":
        raise not_modelled(c)
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    h, bias, mlp_bias = heads_of(c), c.flag("attention_bias"), c.flag("mlp_bias")
    same = h.q_width == h.kv_width == width
    c.runs_only_if(same, "num_key_value_heads", f"heads whose widths add up to {width}, all kept")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def norm(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
        """Queries and keys are normed as a whole, at hidden_size."""
        x = x if x.width == width else b.opaque("heads", width, (), (x,))
        return b.layer_norm(x, name, bias=False)

    b = BlockBuilder("encoder", width)
    x = b.layer_norm(b.input, "input_layernorm")
    attention = blocks.grouped_query_attention(
        b.part("self_attn", "attention"),
        x,
        h,
        bias=bias,
        output_bias=bias,
        causal=False,
        head_norm=norm,
    )
    x = b.add(b.input, b.scale(attention))
    feed = blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"),
        b.layer_norm(x, "post_attention_layernorm"),
        intermediate_size=inner,
        activation=activation,
        bias=mlp_bias,
    )
    b.add(x, b.scale(feed))
    c.ignore("tie_word_embeddings")  # the head has a matrix of its own whatever it says
    head = BlockBuilder("head", width)
    y = head.layer_norm(head.input, "esmc.norm", bias=False)
    out = head.part("", "output_head")
    y = transform(out, y, "lm_head.dense", "lm_head.layer_norm", "gelu")
    vocabulary(out, y, vocab, "lm_head.decoder", tied_to=None)
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="esmc"),
        blocks={"encoder": b.block()},
        pattern=("encoder",) * layers_of(c),
        head=head.block(),
        layer_prefix="esmc.layers.{}.",
    )


# ---- GTE, Nomic and Jina embeddings: BERT's order of norms with rotary positions ----------


@dataclass(frozen=True)
class PostNorm:
    """prefix of the encoder, biases of attention and of the last linear, gated or plain."""

    prefix: str
    bias: bool
    down_bias: bool
    gated: bool
    head: str


POST_NORM = {
    "gte": PostNorm("gte", bias=True, down_bias=True, gated=True, head="own bias"),
    "nomic_bert": PostNorm("nomic_bert", bias=False, down_bias=False, gated=True, head="cls"),
    "jina_embeddings_v3": PostNorm(
        "roberta", bias=True, down_bias=True, gated=False, head="lm_head"
    ),
}


def post_norm_encoder(c: Config) -> ModelSpec:
    kin, bare = POST_NORM[c.model_type], kind_of_head(c) == "bare"
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    prefix = "" if bare else f"{kin.prefix}."
    e = BlockBuilder("embedding", 0)
    inner = e.part(f"{prefix}embeddings", "embedding")
    x = inner.embedding("word_embeddings", vocab, width)
    segments = c.count("type_vocab_size")
    if segments:
        x = table(inner, x, "token_type_embeddings", segments, width)
    inner.layer_norm(x, "LayerNorm")
    return assemble(
        c,
        hidden_size=width,
        embedding=e.block(),
        blocks={"encoder": post_norm_layer(c, kin)},
        pattern=("encoder",) * layers_of(c),
        head=post_norm_head(c, kin, width, vocab, bare),
        layer_prefix=f"{prefix}layers.{{}}.",
    )


def post_norm_layer(c: Config, kin: PostNorm) -> Block:
    b = BlockBuilder("encoder", c.size("hidden_size"))
    h, inner, activation = heads_of(c), c.size("intermediate_size"), c.word("hidden_act")
    out = blocks.grouped_query_attention(
        b.part("self_attn", "attention"),
        b.input,
        h,
        bias=kin.bias,
        output_bias=kin.bias,
        causal=False,
    )
    x = b.layer_norm(b.add(b.input, out), "post_attention_layernorm")
    y = _feed(b.part("mlp", "feed_forward"), x, kin, inner, activation)
    b.layer_norm(b.add(x, y), "post_mlp_layernorm")
    return b.block()


def _feed(b: BlockBuilder, x: Tensor, kin: PostNorm, inner: int, activation: str) -> Tensor:
    if not kin.gated:
        return blocks.feed_forward(b, x, intermediate_size=inner, activation=activation)
    gate = b.activation(b.linear(x, "gate_proj", inner), activation)
    product = b.multiply(gate, b.linear(x, "up_proj", inner))
    return b.linear(product, "down_proj", x.width, bias=kin.down_bias, split="row")


def post_norm_head(c: Config, kin: PostNorm, width: int, vocab: int, bare: bool) -> Block:
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    if bare and c.model_type != "jina_embeddings_v3":
        return b.block()
    if bare:
        h.activation(h.linear(b.input, "pooler.dense", width, bias=True, split="whole"), "tanh")
        return b.block()
    cls = kin.head == "cls"
    start = "cls.predictions.transform" if cls else "lm_head"
    activation = c.word("hidden_act") if cls else "gelu"
    x = transform(h, b.input, f"{start}.dense", f"{start}.layer_norm", activation)
    shared = {"cls": "cls.predictions.bias", "lm_head": "lm_head.bias"}.get(kin.head)
    tied = c.flag("tie_word_embeddings", True)
    vocabulary(
        h,
        x,
        vocab,
        "cls.predictions.decoder" if cls else "lm_head.decoder",
        tied_to=f"{kin.prefix}.embeddings.word_embeddings.weight" if tied else None,
        shared_bias=shared,
    )
    return b.block()
