"""Latent attention in other surroundings: A.X K2, Dots3, Hunyuan 4, LongCat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from planner.model import blocks, counted, decoder, expert_operations
from planner.model.assemble import layer_types, layers_of, llama_shaped, rms
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.deepseek import ROUTING, by_words
from planner.model.latent import Indexer, LatentHeads, LatentStyle, latent_attention
from planner.model.operations import Block, Tensor, Weight
from planner.model.patterns import (
    INDEXED,
    SLIDING,
    every_fourth_picks,
    indexed,
    indexer_types,
)
from planner.model.routing import routed_feed_forward
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Latent, Traits
from planner.model.wiring import Norm, Part

DENSE = FeedForward(bias=False)
DYNAMIC = "keys are picked by an indexer"


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "axk2": axk2,
        "dots3_note_text": dots3,
        "hy_v4": hunyuan4,
        "hy_v4_vl_text": hunyuan4,
        "longcat_flash": longcat,
    }
    return builders[c.model_type](c)


# ---- A.X K2: gated norms, one linear for queries and the output's gate --------------------------


def axk2(c: Config) -> ModelSpec:
    rank = c.size("gated_norm_rank")

    def gated_norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        inner = b.part(name, "norm")
        normal = inner.rms_norm(x, "norm")
        low = inner.activation(inner.linear(normal, "mlp.fc1", rank, split="whole"), "silu")
        gate = inner.linear(low, "mlp.fc2", x.width, split="whole")
        return inner.multiply(normal, inner.activation(gate, "sigmoid_float32"))

    def join(b: BlockBuilder, norm: Norm, mixer: Part, feed: Part) -> Tensor:
        """The norm before a dense part has no gate."""
        x = b.add(b.input, mixer(b, gated_norm(b, b.input, "input_layernorm")))
        before = gated_norm if " moe" in b.name else norm
        return b.add(x, feed(b, before(b, x, "post_attention_layernorm")))

    style = LatentStyle(joint_gate="q_gate_proj")
    latent = Latent(style, rotary="interleave", direct_query=False, indexed=True)
    return decoder.build(
        c,
        Traits(
            Attention(latent=latent),
            DENSE,
            by_words(1),
            kinds=indexed,
            join=join,
            ignored=("index_topk",),
            not_trainable_because=DYNAMIC,
        ),
    )


# ---- Dots3: sliding layers with heads of their own ----------------------------------------------

SLIDING_SIZES = {
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
# A sliding head's whole width where nothing is given; the rest of it is rotated.
SLIDING_HEAD_DIM = 256
OVERRIDES = (
    *SLIDING_SIZES,
    "num_key_value_heads",
    "head_dim",
    "qk_rope_head_dim",
)


def dots3(c: Config) -> ModelSpec:
    layers = layers_of(c)
    kinds = layer_types(
        c,
        layers,
        lambda i: INDEXED if i < 2 or i % 4 == 1 else SLIDING,
        known=(INDEXED, SLIDING),
    )
    c.modernize({"moe_shared_expert_intermediate_size": "shared_experts_intermediate_size"})
    c.one_of("moe_layer_freq", (1,), 1)
    c.one_of("use_dsa", (True,), True)
    c.one_of("use_sliding_window", (True,), True)
    sparse = by_words("first_k_dense_replace").sparse(c, layers)
    overrides = c.per_layer("per_layer_config", OVERRIDES)
    c.ignore(
        "num_key_value_heads",
        "head_dim",
        "index_topk",
        "mlp_bias",
        "shared_experts_intermediate_size",
    )
    shapes = tuple(dots3_heads(c, kind, i, overrides) for i, kind in enumerate(kinds))
    keys = tuple(zip(kinds, sparse, shapes, strict=True))
    names = {
        key: f"{key[0]} {'moe' if key[1] else 'dense'} {n}"
        for n, key in enumerate(dict.fromkeys(keys))
    }
    made = {name: dots3_layer(c, name, *key) for key, name in names.items()}
    pattern = tuple(names[key] for key in keys)
    return llama_shaped(c, made, pattern, not_trainable_because=DYNAMIC)


def dots3_heads(
    c: Config, kind: str, i: int, overrides: Mapping[int, Mapping[str, int]] | None
) -> LatentHeads:
    own: dict[str, int] = {}
    if overrides is not None:
        own = dict(overrides.get(i, {}))
    elif kind == SLIDING:
        own = {k: c.size(f"swa_{k}", v) for k, v in SLIDING_SIZES.items()}
        whole = c.size("swa_head_dim", SLIDING_HEAD_DIM)
        own["qk_rope_head_dim"] = c.size("swa_qk_rope_head_dim", whole - own["qk_nope_head_dim"])

    def size(name: str) -> int:
        return own[name] if name in own else c.size(name)

    return LatentHeads(
        size("num_attention_heads"),
        size("qk_nope_head_dim"),
        size("qk_rope_head_dim"),
        size("v_head_dim"),
        size("kv_lora_rank"),
        size("q_lora_rank"),
    )


def dots3_layer(c: Config, name: str, kind: str, sparse: bool, h: LatentHeads) -> Block:
    indexer = Indexer(c.size("index_n_heads"), c.size("index_head_dim"))
    style = LatentStyle(
        "interleave",
        indexer if kind == INDEXED else None,
        gate="g_proj",
        gate_heads=True,
        rope_norm="k_rope_only_layernorm",
        scaled=True,
    )
    window = c.size("sliding_window", 512) if kind == SLIDING else None
    routing = replace(ROUTING, shared=("shared_experts_intermediate_size", "n_shared_experts"))
    activation = c.word("hidden_act")
    b = BlockBuilder(name, c.size("hidden_size"))
    x = rms(b, b.input, "input_layernorm")
    bias = c.flag("attention_bias")
    x = latent_attention(b.part("self_attn", "attention"), x, h, style, bias=bias, window=window)
    residual = b.add(b.input, x)
    x = rms(b, residual, "post_attention_layernorm")
    if sparse:
        x = routed_feed_forward(c, routing, bias=False, activation=activation)(b, x)
    else:
        x = blocks.gated_feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=c.size("intermediate_size"),
            activation=activation,
        )
    b.add(residual, x)
    return b.block()


# ---- Hunyuan 4: several residual streams --------------------------------------------------------


def hunyuan4(c: Config) -> ModelSpec:
    streams, width = c.size("hc_mult"), c.size("hidden_size")
    c.ignore("hc_magnitude", "learnable_sink_init", "swiglu_limit", "index_topk")

    def hyper(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        inner = b.part(name, "other")
        weights = [
            inner.weight("fn", 2 * streams, streams * width),
            inner.weight("base", 2 * streams),
            inner.weight("scale", 2),
        ]
        return counted.module(inner, "", width, weights, x)

    def join(b: BlockBuilder, norm: Norm, mixer: Part, feed: Part) -> Tensor:
        x = mixer(b, norm(b, hyper(b, b.input, "attn_hc"), "input_layernorm"))
        x = hyper(b, b.add(b.input, x), "ffn_hc")
        return b.add(x, feed(b, norm(b, x, "post_attention_layernorm")))

    def final(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        if name != "model.norm":
            return rms(b, x, name)
        head = b.part("model.hc_head", "other")
        weights: list[Weight] = [
            head.weight("hc_fn", streams, streams * width),
            head.weight("hc_base", streams),
            head.weight("hc_scale", 1),
        ]
        return rms(b, counted.module(head, "", width, weights, x), name)

    style = LatentStyle(gate="gate_proj", sinks=True)
    latent = Latent(style, rotary="half", direct_query=False, indexed=True)
    routing = replace(by_words(1), activation="clamped_swiglu")
    return decoder.build(
        c,
        Traits(
            Attention(latent=latent),
            DENSE,
            routing,
            kinds=indexer_types(every_fourth_picks),
            norm=final,
            join=join,
            not_trainable_because="several residual streams are mixed in every layer",
        ),
    )


# ---- LongCat: two attentions a layer, some experts that do nothing ------------------------------


def longcat(c: Config) -> ModelSpec:
    h, bias = decoder.latent_heads(c, direct_query=False), c.flag("attention_bias")
    made = c.optional("qk_head_dim")
    fits = made is None or made == h.query_dim
    c.runs_only_if(fits, "qk_head_dim", f"qk_nope_head_dim + qk_rope_head_dim = {h.query_dim}")
    h = replace(h, stored_query_dim=made)
    width, inner = c.size("hidden_size"), c.size("ffn_hidden_size")
    activation = c.word("hidden_act", "silu")
    style = LatentStyle("interleave", scaled=True)

    def attention(b: BlockBuilder, x: Tensor, i: int) -> Tensor:
        part = b.part(f"self_attn.{i}", "attention")
        return latent_attention(part, x, h, style, bias=bias)

    def dense(b: BlockBuilder, x: Tensor, i: int) -> Tensor:
        part = b.part(f"mlps.{i}", "feed_forward")
        return blocks.gated_feed_forward(part, x, intermediate_size=inner, activation=activation)

    b = BlockBuilder("decoder", width)
    x = b.add(b.input, attention(b, rms(b, b.input, "input_layernorm.0"), 0))
    normal = rms(b, x, "post_attention_layernorm.0")
    shortcut = longcat_experts(c, b, normal)
    x = b.add(x, dense(b, normal, 0))
    x = b.add(x, attention(b, rms(b, x, "input_layernorm.1"), 1))
    fed = dense(b, rms(b, x, "post_attention_layernorm.1"), 1)
    b.add(b.add(x, fed), shortcut)
    pattern = ("decoder",) * layers_of(c, "num_layers")
    return llama_shaped(
        c,
        {"decoder": b.block()},
        pattern,
        not_trainable_because="how many experts a token uses depends on the token",
    )


def longcat_experts(c: Config, outer: BlockBuilder, x: Tensor) -> Tensor:
    """zero_expert_num experts hand their input on; the first matrix is stored for them too."""
    b = outer.part("mlp", "experts")
    real, empty = c.size("n_routed_experts"), c.count("zero_expert_num", 0)
    top_k, inner, width = c.size("moe_topk"), c.size("expert_ffn_hidden_size"), x.width
    router = b.part("router", "router")
    scores = expert_operations.router(
        router,
        x,
        "classifier",
        experts=real + empty,
        top_k=top_k,
        bias=c.flag("router_bias"),
        float32=True,
        scaled=True,
    )
    used = (min(top_k, real), real)
    every = (min(top_k, real), real + empty)
    weights = [
        b.weight(
            "experts.gate_up_proj",
            real + empty,
            2 * inner,
            width,
            kind="expert",
            split="expert",
            used=every,
        ),
        b.weight("experts.down_proj", real, width, inner, kind="expert", split="expert", used=used),
    ]
    return counted.module(b, "experts", width, weights, x, scores)
