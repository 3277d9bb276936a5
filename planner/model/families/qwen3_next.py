"""Qwen3-Next, Qwen3.5 and OLMo hybrid: three layers of gated delta rule to one of attention."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import (
    heads_of,
    layer_types,
    layers_of,
    llama_shaped,
    rms,
    rms_float32,
    rotary_fraction,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.delta_rule import DeltaHeads, gated_delta_net
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED
from planner.model.wiring import Part, post_norm, pre_norm

KINDS = ("linear_attention", "full_attention")


def build(c: Config) -> ModelSpec:
    layers = layers_of(c)
    every = c.size("full_attention_interval", 4)
    pattern = layer_types(c, layers, lambda i: KINDS[(i + 1) % every == 0], known=KINDS)
    olmo = c.model_type == "olmo_hybrid"
    if olmo and "full_attention" not in pattern and c.raw("layer_types") is None:
        pattern = (*pattern[:-1], "full_attention")
    layer_of = olmo_layer if olmo else qwen_layer
    sparse = tuple(routed(c, i) for i in range(layers))
    names = tuple(f"{kind}{' + experts' * s}" for kind, s in zip(pattern, sparse, strict=True))
    if all(sparse):
        c.ignore("intermediate_size")
    if not any(sparse):
        c.ignore("shared_expert_intermediate_size", "moe_intermediate_size", "num_experts_per_tok")
    kinds = {
        name: layer_of(c, kind, s, name)
        for name, kind, s in dict.fromkeys(zip(names, pattern, sparse, strict=True))
    }
    return llama_shaped(
        c,
        kinds,
        names,
        norm=rms if olmo else rms_float32,
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def routed(c: Config, i: int) -> bool:
    """Whether layer i has experts: every decoder_sparse_step-th, but for mlp_only_layers."""
    if not c.knows("num_experts"):
        return False
    step, dense = c.size("decoder_sparse_step", 1), c.sizes("mlp_only_layers") or ()
    return c.count("num_experts") > 0 and i not in dense and (i + 1) % step == 0


def delta_heads(c: Config) -> DeltaHeads:
    heads = c.size("num_attention_heads")
    key_heads = c.size("linear_num_key_heads", heads)
    key_dim = c.size("linear_key_head_dim", int(0.75 * c.size("hidden_size") / key_heads))
    h = DeltaHeads(
        key_heads,
        c.size("linear_num_value_heads", heads),
        key_dim,
        c.size("linear_value_head_dim", 2 * key_dim),
        c.size("linear_conv_kernel_dim"),
    )
    c.runs_only_if(
        h.value_heads % key_heads == 0, "linear_num_value_heads", f"a multiple of {key_heads}"
    )
    return h


# ---- Qwen ---------------------------------------------------------------------------------------


def qwen_layer(c: Config, kind: str, sparse: bool, name: str) -> Block:
    b = BlockBuilder(name, c.size("hidden_size"))
    mixer = attention(c) if kind == "full_attention" else delta(c)
    pre_norm(b, rms_float32, mixer, experts(c) if sparse else feed_forward(c))
    return b.block()


def delta(c: Config) -> Part:
    h = delta_heads(c)
    if c.model_type == "qwen3_next":
        projections: tuple[tuple[str, int], ...] = (
            ("in_proj_qkvz", 2 * h.keys + 2 * h.values),
            ("in_proj_ba", 2 * h.value_heads),
        )
    else:
        projections = (
            ("in_proj_qkv", h.channels),
            ("in_proj_z", h.values),
            ("in_proj_b", h.value_heads),
            ("in_proj_a", h.value_heads),
        )

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("linear_attn", "state_space")
        return gated_delta_net(inner, x, h, projections, norm="norm", output="out_proj")

    return part


def attention(c: Config) -> Part:
    """Grouped queries with a gate of the same width from q_proj, and norms of each head."""
    h, rotary, bias = heads_of(c), rotary_fraction(c), c.flag("attention_bias")
    norm = blocks.rms_float32_of_heads

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "attention")
        q, gate = a.split(a.linear(x, "q_proj", 2 * h.q_width, bias=bias), h.q_width, h.q_width)
        q = norm(a, q, "q_norm", h.heads)
        k = norm(a, a.linear(x, "k_proj", h.kv_width, bias=bias), "k_norm", h.kv_heads)
        v = a.linear(x, "v_proj", h.kv_width, bias=bias)
        out = blocks.rotated_attention(a, q, k, v, h, rotary=rotary)
        out = a.multiply(out, a.activation(gate, "sigmoid"))
        return a.linear(out, "o_proj", x.width, bias=bias, split="row")

    return part


def feed_forward(c: Config) -> Part:
    inner_size, activation = c.size("intermediate_size"), c.word("hidden_act")
    return lambda b, x: blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"), x, intermediate_size=inner_size, activation=activation
    )


def experts(c: Config) -> Part:
    """Routed experts beside one shared expert behind a gate of its own."""
    activation = c.word("hidden_act")
    shared = c.size("shared_expert_intermediate_size")
    e = blocks.Experts(
        c.size("num_experts"),
        c.size("num_experts_per_tok"),
        c.size("moe_intermediate_size"),
        activation,
        normalize=True,
    )

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        m = b.part("mlp", "experts")
        out = blocks.routed_experts(m, x, e)
        alone = blocks.gated_feed_forward(
            m.part("shared_expert", "feed_forward"),
            x,
            intermediate_size=shared,
            activation=activation,
        )
        gate = m.linear(x, "shared_expert_gate", 1, split="whole", group="router")
        return m.add(out, m.multiply(m.activation(gate, "sigmoid"), alone))

    return part


# ---- OLMo hybrid --------------------------------------------------------------------------------


def olmo_layer(c: Config, kind: str, sparse: bool, name: str) -> Block:
    """Pre-norm around the delta rule; norms after attention and its feed-forward part."""
    c.ignore(
        "linear_a_log_min",
        "linear_a_log_max",
        "linear_dt_min",
        "linear_dt_max",
        "linear_dt_init_floor",
        "linear_allow_neg_eigval",
    )
    b = BlockBuilder(name, c.size("hidden_size"))
    feed = feed_forward(c)
    h, bias = heads_of(c), c.flag("attention_bias")
    d = delta_heads(c)
    if kind == "linear_attention":
        pre_norm(b, rms, olmo_delta(d), feed)
        return b.block()

    def attend(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("self_attn", "attention")
        return blocks.grouped_query_attention(
            inner, x, h, bias=bias, output_bias=bias, head_norm=blocks.rms_of_all
        )

    post_norm(b, rms, attend, feed)
    return b.block()


def olmo_delta(h: DeltaHeads) -> Part:
    projections = (
        ("q_proj", h.keys),
        ("k_proj", h.keys),
        ("v_proj", h.values),
        ("a_proj", h.value_heads),
        ("b_proj", h.value_heads),
        ("g_proj", h.values),
    )

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("linear_attn", "state_space")
        return gated_delta_net(inner, x, h, projections, norm="o_norm", output="o_proj")

    return part
