"""Kimi Linear and Bailing hybrid: Kimi delta attention between layers of latent attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planner.model import blocks
from planner.model.assemble import (
    assemble,
    layer_types,
    layers_of,
    output_head,
    rms,
    token_embedding,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.delta_rule import DeltaHeads, delta_scan
from planner.model.latent import LatentHeads, latent_attention
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED
from planner.model.wiring import Part, pre_norm

KINDS = ("linear_attention", "full_attention")
FEEDS = ("dense", "sparse")
UNUSED = (
    "tie_word_embeddings",  # the head has a matrix of its own whatever it says
    "num_key_value_heads",  # latent attention makes keys and values for every head
    "linear_attn_config",
    "qk_head_dim",
    "head_dim",
    "num_mtp_layers",
    "kda_safe_gate",
    "kda_lower_bound",
    "routed_scaling_factor",
    "norm_topk_prob",
    "n_group",
    "topk_group",
    "first_k_dense_replace",
    "mla_use_nope",
)


def build(c: Config) -> ModelSpec:
    c.ignore(*UNUSED)
    layers = layers_of(c)
    h = delta_heads(c)
    pattern = layer_types(c, layers, attention_rule(c), known=KINDS)
    first_dense = c.count("first_k_dense_replace", 1)
    feeds = layer_types(
        c,
        layers,
        lambda i: FEEDS[i >= first_dense],
        known=FEEDS,
        field="mlp_layer_types",
    )
    names = tuple(f"{kind} + {feed}" for kind, feed in zip(pattern, feeds, strict=True))
    kinds = {
        name: decoder_layer(c, h, kind, feed, name)
        for name, kind, feed in dict.fromkeys(zip(names, pattern, feeds, strict=True))
    }
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width),
        blocks=kinds,
        pattern=names,
        head=output_head(width, vocab),
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def attention_rule(c: Config) -> Callable[[int], str]:
    """Where latent attention stands if layer_types is left out."""
    if c.model_type == "bailing_hybrid":
        group = c.size("layer_group_size")
        return lambda i: KINDS[(i + 1) % group == 0]
    older = older_fields(c)
    if "full_attn_layers" in older and "kda_layers" in older:
        full = set(_numbers(c, older["full_attn_layers"]))
        linear = set(_numbers(c, older["kda_layers"]))
        each_once = not full & linear and full | linear == set(range(1, layers_of(c) + 1))
        c.require(each_once, "linear_attn_config", "each layer, counted from 1, in one list")
        return lambda i: KINDS[i + 1 in full]
    return lambda i: KINDS[i > 0 and i % 4 == 0]


def _numbers(c: Config, value: object) -> list[int]:
    if not isinstance(value, list):
        raise c.error("linear_attn_config", value, "lists of layer numbers")
    return value


def older_fields(c: Config) -> Mapping[str, object]:
    """linear_attn_config, the mapping in which Kimi's own configs keep the delta rule's sizes."""
    older = c.raw("linear_attn_config") if c.model_type != "bailing_hybrid" else None
    c.require(older is None or isinstance(older, Mapping), "linear_attn_config", "a mapping")
    return older or {}


def delta_heads(c: Config) -> DeltaHeads:
    if c.model_type == "bailing_hybrid":
        heads, dim = c.size("num_attention_heads"), c.size("head_dim")
        return DeltaHeads(heads, heads, dim, dim, c.size("short_conv_kernel_size"))
    older = older_fields(c)

    def size(name: str, in_older: str) -> int:
        value = older.get(in_older)
        if value is None:
            return c.size(name)
        c.ignore(name)
        if not isinstance(value, int) or value < 1:
            raise c.error("linear_attn_config", value, f"{in_older} >= 1")
        return value

    heads, dim = size("linear_num_heads", "num_heads"), size("linear_head_dim", "head_dim")
    kernel = size("linear_conv_kernel_dim", "short_conv_kernel_size")
    return DeltaHeads(heads, heads, dim, dim, kernel)


def decoder_layer(c: Config, h: DeltaHeads, kind: str, feed: str, name: str) -> Block:
    b = BlockBuilder(name, c.size("hidden_size"))
    mixer = latent(c) if kind == "full_attention" else delta(c, h)
    pre_norm(b, rms, mixer, experts(c) if feed == "sparse" else dense(c))
    return b.block()


def delta(c: Config, h: DeltaHeads) -> Part:
    """Decay per channel; Kimi and GLM-5 make it and the output gate through a narrow layer."""
    kimi = c.model_type != "bailing_hybrid"

    def gate(b: BlockBuilder, x: Tensor, narrow: str, wide: str) -> Tensor:
        if not kimi:
            return b.linear(x, wide, h.values)
        inner = b.linear(x, narrow, h.value_dim, split="whole")
        return b.linear(inner, wide, h.values)

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "state_space")
        widths = {"q_proj": h.keys, "k_proj": h.keys, "v_proj": h.values}
        made = [a.linear(x, name, width) for name, width in widths.items()]
        f = a.part("forget_gate")
        made.append(gate(f, x, "f_a_proj", "f_b_proj" if kimi else "f_proj"))
        made.append(a.linear(x, "b_proj", h.value_heads))
        made.append(gate(a, x, "g_a_proj", "g_b_proj" if kimi else "g_proj"))
        heads = h.value_heads
        decay = (1, 1, heads, 1) if c.model_type == "kimi_linear" else (heads,)
        weights = (
            f.weight("A_log", *decay, kind="vector", split="column"),
            f.weight("dt_bias", h.values, split="column"),
            a.weight("o_norm.weight", h.value_dim),
        )
        return a.linear(delta_scan(a, h, tuple(made), weights), "o_proj", x.width, split="row")

    return part


def latent(c: Config) -> Part:
    h = LatentHeads(
        c.size("num_attention_heads"),
        c.count("qk_nope_head_dim"),
        c.count("qk_rope_head_dim"),
        c.size("v_head_dim"),
        c.size("kv_lora_rank"),
        c.optional("q_lora_rank"),
    )
    bias = c.flag("attention_bias")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "attention")
        if c.model_type == "bailing_hybrid":  # a gate on each head's output
            a.activation(a.linear(x, "g_proj", h.heads), "sigmoid")
        return latent_attention(a, x, h, bias=bias)

    return part


def dense(c: Config) -> Part:
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    return lambda b, x: blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"), x, intermediate_size=inner, activation=activation
    )


def experts(c: Config) -> Part:
    inner, activation = c.size("moe_intermediate_size"), c.word("hidden_act")
    shared = inner * c.size("n_shared_experts")
    e = blocks.Experts(
        c.size("num_local_experts"),
        c.size("num_experts_per_tok"),
        inner,
        activation,
        score="sigmoid",
        normalize=True,
    )

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        m = b.part("mlp", "experts")
        out = blocks.routed_experts(m, x, e)
        alone = blocks.gated_feed_forward(
            m.part("shared_experts", "feed_forward"),
            x,
            intermediate_size=shared,
            activation=activation,
        )
        return m.add(out, alone)

    return part
