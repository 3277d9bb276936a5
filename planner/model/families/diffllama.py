"""Decoders whose attention is made otherwise: DiffLlama, Doge, Dory, JetMoE."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from planner.model import blocks, counted, wiring
from planner.model.assemble import heads_of, layers_of, llama_shaped, rms
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor, Weight
from planner.model.patterns import FULL, SLIDING, by_layer_types
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "diffllama": diffllama,
        "doge": doge,
        "dory": dory,
        "jetmoe": jetmoe,
    }
    return builders[c.model_type](c)


def pre_norm_model(c: Config, attention: wiring.Part, feed: wiring.Part, **facts: str) -> ModelSpec:
    b = BlockBuilder("decoder", c.size("hidden_size"))
    wiring.pre_norm(b, rms, attention, feed)
    pattern = ("decoder",) * layers_of(c)
    return llama_shaped(c, {"decoder": b.block()}, pattern, not_trainable_because=facts.get("why"))


def gated_part(c: Config, bias: bool = False) -> wiring.Part:
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.gated_feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            bias=bias,
        )

    return part


def diffllama(c: Config) -> ModelSpec:
    """The difference of two attentions, each over half of the values."""
    h, bias = heads_of(c), c.flag("attention_bias")
    c.require(h.kv_heads % 2 == 0, "num_key_value_heads", "an even number")
    c.ignore("lambda_std_dev")

    def attention(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part("self_attn", "attention")
        q = b.rotary(b.linear(x, "q_proj", h.q_width, bias=bias), heads=h.heads)
        k = b.rotary(b.linear(x, "k_proj", h.kv_width, bias=bias), heads=h.kv_heads)
        v = b.linear(x, "v_proj", h.kv_width, bias=bias)
        halves = b.split(v, h.kv_width // 2, h.kv_width // 2)
        first, second = (
            b.attention(q, k, b.repeat_heads(half, 2), heads=h.heads, kv_heads=h.kv_heads)
            for half in halves
        )
        lambdas = [b.weight(f"lambda_{name}", h.head_dim) for name in ("q1", "k1", "q2", "k2")]
        out = counted.module(b, "difference", h.q_width, lambdas, first, second)
        return b.linear(out, "o_proj", x.width, bias=bias, split="row")

    return pre_norm_model(
        c, attention, gated_part(c), why="the difference of two attentions is not modelled"
    )


def doge(c: Config) -> ModelSpec:
    """Attention under a mask made of the values; experts of single rows where is_moe is on."""
    h, bias = heads_of(c), c.flag("attention_bias")
    c.ignore("keep_window_size", "sliding_window", "num_experts", "num_experts_per_tok")
    width, mlp_bias = c.size("hidden_size"), c.flag("mlp_bias")
    dense, sparse = gated_part(c, mlp_bias), c.flag("is_moe")

    def attention(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part("self_attn", "attention")
        q = b.rms_norm(b.linear(x, "q_proj", h.q_width, bias=bias), "q_norm", heads=h.heads)
        k = b.rms_norm(b.linear(x, "k_proj", h.kv_width, bias=bias), "k_norm", heads=h.kv_heads)
        v = b.linear(x, "v_proj", h.kv_width, bias=bias)
        mask = b.linear(v, "dt_proj", h.kv_heads, bias=bias, split="whole")
        mask = counted.module(b, "mask", h.kv_heads, [b.weight("A", h.kv_heads)], mask)
        out = blocks.rotated_attention(b, q, k, v, h, eager_only=True)
        return b.linear(out, "o_proj", width, bias=bias, split="row")

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        out = dense(b, x)
        return b.add(out, single_rows(c, b.part("mlp", "experts"), x)) if sparse else out

    b = BlockBuilder("decoder", width)
    x = b.input
    for norm, scale, part in (
        ("input_layernorm", "input_residual", attention),
        ("post_attention_layernorm", "post_attention_residual", feed),
    ):
        x = b.add(b.multiply_vector(x, scale), part(b, rms(b, x, norm)))
    return llama_shaped(
        c,
        {"decoder": b.block()},
        ("decoder",) * layers_of(c),
        not_trainable_because="the attention's mask is computed from the values",
    )


def single_rows(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """Experts of one row each, chosen by two keys of sqrt(experts) (product keys)."""
    experts, top_k = c.size("num_experts"), c.size("num_experts_per_tok")
    keys, used = isqrt(experts), (top_k, experts)
    router = b.weight("router_gate.weight", 2 * keys, x.width)
    rows = [
        b.weight(f"{name}.weight", experts, x.width, kind="embedding", split="whole", used=used)
        for name in ("down_embed", "up_embed")
    ]
    return counted.module(b, "rows", x.width, [router, *rows], x)


def dory(c: Config) -> ModelSpec:
    """Normalised states: no norm has a weight, vectors scale queries, gates and residuals."""
    h, bias, width = heads_of(c), c.flag("attention_bias"), c.size("hidden_size")
    inner, mlp_bias = c.size("intermediate_size"), c.flag("mlp_bias")
    activation, kinds = c.word("hidden_act"), dory_kinds(c)
    c.ignore("n_input_layers", "n_output_layers", "n_recurrent_layers", "n_recurrent_loops")
    c.ignore("recurrent_kv_cache_mode", "ngpt_alpha_init")

    def block(kind: str) -> Block:
        b = BlockBuilder(kind, width)
        a = b.part("self_attn", "attention")
        weights = [
            *counted.linear(a, "q_proj", width, h.q_width, bias),
            *counted.linear(a, "k_proj", width, h.kv_width, bias),
            *counted.linear(a, "v_proj", width, h.kv_width, bias),
            *counted.linear(a, "gate_proj", width, h.q_width),
            *counted.linear(a, "o_proj", h.q_width, width, bias),
            a.weight("sqk", h.q_width),
            a.weight("s_gate", h.q_width),
            b.weight("lambda_1", width),
        ]
        x = counted.module(a, "", width, weights, b.input)
        m = b.part("mlp", "feed_forward")
        weights = [
            *counted.linear(m, "gate_proj", width, inner, mlp_bias),
            *counted.linear(m, "up_proj", width, inner, mlp_bias),
            *counted.linear(m, "down_proj", inner, width, mlp_bias),
            m.weight("suv_gate", inner),
            m.weight("suv_up", inner),
            b.weight("lambda_2", width),
        ]
        m.activation(counted.module(m, "", width, weights, x), activation)
        return b.block()

    return llama_shaped(
        c,
        {kind: block(kind) for kind in set(kinds)},
        kinds,
        norm=lambda b, x, name: b.rms_norm(x, name, cast="after_weight", weight=False),
        logits=lambda b, x: b.multiply_vector(x, "lm_head.logit_scale"),
        not_trainable_because="its inner layers run several times over normalised states",
    )


def dory_kinds(c: Config) -> tuple[str, ...]:
    """Released configs count attention and feed-forward parts as layers of their own."""
    layers, given = layers_of(c), c.words("layer_types")
    if given is None or "mlp" not in given:
        return by_layer_types(c, layers)
    wanted = "attention and mlp by turns, as many as num_hidden_layers"
    fits = len(given) == layers and layers % 2 == 0 and set(given[1::2]) == {"mlp"}
    c.require(fits and set(given[::2]) <= {FULL, SLIDING}, "layer_types", wanted)
    c.ignore("sliding_window")
    return given[::2]


def jetmoe(c: Config) -> ModelSpec:
    """Experts for queries and outputs too: each token has the queries of its top_k experts."""
    keys, head, top_k = (
        c.size("num_key_value_heads"),
        c.size("kv_channels"),
        c.size("num_experts_per_tok"),
    )
    experts, width, inner = (
        c.size("num_local_experts"),
        c.size("hidden_size"),
        c.size("intermediate_size"),
    )
    c.require(top_k <= experts, "num_experts_per_tok", f"at most {experts} experts")
    given = c.optional("num_attention_heads")
    if "num_attention_heads" in c.given:
        c.require(given == keys * top_k, "num_attention_heads", f"{keys} x {top_k}")
    kv = keys * head
    c.ignore("activation_function")

    def stacked(b: BlockBuilder, name: str, *shape: int) -> Weight:
        used, full = (top_k, experts), (experts, *shape)
        return b.weight(f"{name}.weight", *full, kind="expert", split="expert", used=used)

    def expert_part(b: BlockBuilder, wide: int, back: int) -> list[Weight]:
        return [
            b.weight("bias", width),
            stacked(b, "input_linear", wide, width),
            stacked(b, "output_linear", width, back),
            b.weight("router.layer.weight", experts, width),
        ]

    def attention(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part("self_attention", "attention")
        weights = [
            *expert_part(b.part("experts"), kv, kv),
            *counted.linear(b, "kv_proj", width, 2 * kv),
        ]
        return counted.module(b, "", width, weights, x)

    def feed(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part("mlp", "experts")
        return counted.module(b, "", width, expert_part(b, 2 * inner, inner), x)

    return pre_norm_model(c, attention, feed, why="the attention's queries are routed to experts")
