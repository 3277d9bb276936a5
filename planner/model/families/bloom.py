"""BLOOM, Falcon and MPT: fused queries, keys and values, positions as a bias or by rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.model import blocks, wiring
from planner.model.assemble import layer, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Names, framed
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    return {"bloom": bloom, "falcon": falcon, "mpt": mpt}[c.model_type](c)


def bloom(c: Config) -> ModelSpec:
    """Attention in eager steps only, on copies of queries, keys and values."""
    width, heads = c.size("hidden_size"), c.size("n_head")
    c.divides("hidden_size", "n_head")
    normal_residual = c.flag("apply_residual_connection_post_layernorm")
    c.ignore("slow_but_exact", "n_inner", "attention_softmax_in_fp32", "masked_softmax_fusion")
    c.ignore("offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "bias_dropout_fusion")
    c.ignore("hidden_dropout_prob", "seq_length", "unk_token_id")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attention", "attention")
        fused = part.linear(x, "query_key_value", 3 * width, bias=True)
        q, k, v = (part.copy(y) for y in part.split(fused, width, width, width))
        out = part.attention(
            q, k, v, heads=heads, kv_heads=heads, alibi="in_product", eager_only=True
        )
        return part.linear(out, "dense", width, bias=True, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=4 * width,
            activation="bloom_gelu",
            names=("dense_h_to_4h", "dense_4h_to_h"),
        )

    b = BlockBuilder("decoder", width)
    x = b.input
    for name, part in (("input_layernorm", attention), ("post_attention_layernorm", feed_forward)):
        normal = layer(b, x, name)
        x = b.add(normal if normal_residual else x, part(b, normal))
    return framed(
        c,
        Names(embedding="word_embeddings"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c, "n_layer"),
        width=width,
        embedded=lambda b, x: layer(b, x, "word_embeddings_layernorm"),
    )


def falcon(c: Config) -> ModelSpec:
    """One key and value head (7B), or groups whose keys and values are written out to all heads."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    head = c.divides("hidden_size", "num_attention_heads")
    bias, parallel, grouped = (
        c.flag("bias"),
        c.flag("parallel_attn"),
        c.flag("new_decoder_architecture"),
    )
    rotary, inner = not c.flag("alibi"), c.size("ffn_hidden_size", 4 * width)
    activation = c.word("activation")
    multi_query = c.flag("multi_query")
    groups = c.size("num_kv_heads", heads)
    kv_heads = groups if grouped else (1 if multi_query else heads)
    c.require(heads % kv_heads == 0, "num_kv_heads", f"a divisor of {heads} query heads")
    norms = c.count("num_ln_in_parallel_attn", 2 if grouped else 1)
    # With a linear bias there is no fused kernel; the softmax is in the activations' dtype.
    scores: dict[str, Any] = {"softmax_float32": False, "broadcast_keys": not grouped}
    scores |= {"scaled_in_place": True} if rotary else {"alibi": "widened", "eager_only": True}

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attention", "attention")
        fused = part.linear(
            x, "query_key_value", (heads + 2 * kv_heads) * head, bias=bias, plain=True
        )
        q, k, v = part.split(fused, width, kv_heads * head, kv_heads * head)
        if grouped:
            times = heads // kv_heads
            q, k, v = part.copy(q), part.repeat_heads(k, times), part.repeat_heads(v, times)
        elif multi_query:
            k, v = part.copy(k), part.copy(v)
        seen = heads if grouped else kv_heads
        if rotary:
            q, k = part.rotary(q, heads=heads), part.rotary(k, heads=seen)
        out = part.attention(q, k, v, heads=heads, kv_heads=seen, **scores)
        return part.linear(out, "dense", width, bias=bias, split="row", plain=True)

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            bias=bias,
            names=("dense_h_to_4h", "dense_4h_to_h"),
            plain=True,
        )

    b = BlockBuilder("decoder", width)
    if not parallel:
        c.require(not grouped, "parallel_attn", "true with new_decoder_architecture")
        wiring.pre_norm(b, layer, attention, feed_forward)
    else:
        if norms == 2:
            c.require(grouped, "num_ln_in_parallel_attn", "1 without new_decoder_architecture")
            first, second = layer(b, b.input, "ln_attn"), layer(b, b.input, "ln_mlp")
        else:
            first = second = layer(b, b.input, "input_layernorm")
        attended = attention(b, first)
        b.add(b.input, b.add(feed_forward(b, second), attended))
    return framed(
        c,
        Names(embedding="word_embeddings"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c),
        width=width,
    )


def mpt(c: Config) -> ModelSpec:
    """No biases at all; attention in eager steps with a linear bias."""
    width, heads = c.size("d_model"), c.size("n_heads")
    c.divides("d_model", "n_heads")
    # Transformers' code takes none of these: four times the width, no biases, no learned positions.
    c.require(c.size("expansion_ratio") == 4, "expansion_ratio", "4, which Transformers' code has")
    c.ignore("no_bias", "learned_pos_emb", "embedding_fraction", "norm_type", "init_device")
    c.ignore("emb_pdrop", "resid_pdrop", "max_seq_len", "verbose", "init_config")
    options = c.raw("attn_config")
    clipped = isinstance(options, Mapping) and options.get("clip_qkv") is not None

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        return b.layer_norm(x, name, bias=False)

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("attn", "attention")
        fused = part.linear(x, "Wqkv", 3 * width)
        fused = part.activation(fused, "clamp") if clipped else fused
        q, k, v = part.split(fused, width, width, width)
        out = part.attention(q, k, v, heads=heads, kv_heads=heads, alibi="added", eager_only=True)
        return part.linear(out, "out_proj", width, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("ffn", "feed_forward"),
            x,
            intermediate_size=4 * width,
            activation="gelu",
            bias=False,
            names=("up_proj", "down_proj"),
        )

    b = BlockBuilder("decoder", width)
    wiring.pre_norm(b, norm, attention, feed_forward, names=("norm_1", "norm_2"))
    return framed(
        c,
        Names(layers="blocks", final="norm_f"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c, "n_layers"),
        width=width,
        norm=norm,
    )
