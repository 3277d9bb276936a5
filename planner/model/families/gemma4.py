"""Gemma 3n and 4: inputs of every layer's own, keys shared between layers, wider global heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.model import blocks, counted, expert_operations
from planner.model.assemble import heads_of, layer_types, layers_of, llama_shaped, rms_float32
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.patterns import FULL, SLIDING
from planner.model.spec import ModelSpec, Placed

# Gemma 4's own default where global_head_dim is left out (configuration_gemma4.py).
GLOBAL_HEAD_DIM = 512
# Gemma 3n's and 4's layers of full attention: each fifth, each sixth.
PERIOD = {"gemma3n_text": 5}


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "gemma3n_text": gemma3n,
        "gemma4_text": gemma4,
        "gemma4_unified_text": gemma4,
        "gemma4_assistant": assistant,
        "gemma4_unified_assistant": assistant,
    }
    return builders[c.model_type](c)


@dataclass(frozen=True)
class Variant:
    """What may differ from layer to layer. reuses: keys and values are an earlier layer's."""

    kind: str
    reuses: bool
    heads: Heads
    inner: int

    @property
    def name(self) -> str:
        words = f"{self.kind} {self.heads.head_dim} {self.heads.kv_heads} {self.inner}"
        return f"{words} shared keys" if self.reuses else words


def kinds_of(c: Config, layers: int) -> tuple[str, ...]:
    """Each fifth or sixth layer is full; Gemma 4's last layer always is."""
    period = PERIOD.get(c.model_type, 6)
    kinds = layer_types(
        c, layers, lambda i: SLIDING if (i + 1) % period else FULL, known=(FULL, SLIDING)
    )
    return kinds if c.model_type == "gemma3n_text" else (*kinds[:-1], FULL)


def shared_layers(c: Config, layers: int) -> int:
    shared = c.count("num_kv_shared_layers")
    c.require(shared <= layers, "num_kv_shared_layers", f"at most num_hidden_layers = {layers}")
    return shared


def why_not(c: Config, shared: int, per_layer: int) -> str | None:
    if shared:
        return "layers share keys and values with earlier ones"
    return "every layer has inputs of its own" if per_layer else None


# ---- Gemma 4 ------------------------------------------------------------------------------------


def gemma4(c: Config) -> ModelSpec:
    layers = layers_of(c)
    kinds, shared = kinds_of(c, layers), shared_layers(c, layers)
    per_layer = c.count("hidden_size_per_layer_input", 0)
    wide = c.flag("use_double_wide_mlp")
    heads = heads_by_layer(c, kinds)
    inner = c.size("intermediate_size")
    variants = tuple(
        Variant(kind, reuses, heads[i], 2 * inner if wide and reuses else inner)
        for i, kind in enumerate(kinds)
        for reuses in (i >= layers - shared,)
    )
    c.ignore("vocab_size_per_layer_input", "num_experts", "top_k_experts", "moe_intermediate_size")
    return llama_shaped(
        c,
        {v.name: gemma4_layer(c, v, per_layer) for v in dict.fromkeys(variants)},
        tuple(v.name for v in variants),
        norm=rms_float32,
        embedded=lambda b, x: embedded(c, b, x, layers, per_layer),
        logits=(lambda b, x: b.softcap(x)) if c.has("final_logit_softcapping") else None,
        not_trainable_because=why_not(c, shared, per_layer),
    )


def heads_by_layer(c: Config, kinds: tuple[str, ...]) -> list[Heads]:
    """Full layers have a width and a number of keys of their own."""
    plain = heads_of(c)
    wide = c.size("global_head_dim", GLOBAL_HEAD_DIM)
    keys = c.optional("num_global_key_value_heads")
    equal = c.flag("attention_k_eq_v")
    overrides = c.per_layer("per_layer_config", ("head_dim", "num_key_value_heads"))
    if overrides is None:
        full = Heads(plain.heads, keys if keys and equal else plain.kv_heads, wide)
        return [full if kind == FULL else plain for kind in kinds]
    own = [overrides.get(i, {}) for i in range(len(kinds))]
    return [
        Heads(
            plain.heads,
            sizes.get("num_key_value_heads", plain.kv_heads),
            sizes.get("head_dim", plain.head_dim),
        )
        for sizes in own
    ]


def embedded(c: Config, b: BlockBuilder, x: Tensor, layers: int, per_layer: int) -> Tensor:
    """The scaled embedding; before it, the table of every layer's own inputs."""
    if per_layer:
        rows = c.size("vocab_size_per_layer_input")
        b.embedding("embed_tokens_per_layer", rows, layers * per_layer)
        weights = [
            *counted.linear(b, "per_layer_model_projection", x.width, layers * per_layer),
            *counted.norm(b, "per_layer_projection_norm", per_layer),
        ]
        counted.module(b, "per_layer_inputs", layers * per_layer, weights, x)
    return b.scale(x)


def attention(c: Config, b: BlockBuilder, x: Tensor, v: Variant) -> Tensor:
    """Norms of queries, keys and (without a weight) values; layers that reuse have queries only."""
    h, bias, width = v.heads, c.flag("attention_bias"), x.width
    window = c.optional("sliding_window") if v.kind == SLIDING else None
    causal = c.raw("use_bidirectional_attention") != "all"
    q = b.linear(x, "q_proj", h.q_width, bias=bias)
    q = b.rotary(b.rms_norm(q, "q_norm", cast="after_weight", heads=h.heads), heads=h.heads)
    if v.reuses:
        out = counted.module(b, "attention", h.q_width, (), q)
        return b.linear(out, "o_proj", width, bias=bias, split="row")
    k = made = b.linear(x, "k_proj", h.kv_width, bias=bias)
    equal = c.flag("attention_k_eq_v") and v.kind == FULL
    value = made if equal else b.linear(x, "v_proj", h.kv_width, bias=bias)
    k = b.rotary(b.rms_norm(k, "k_norm", cast="after_weight", heads=h.kv_heads), heads=h.kv_heads)
    value = b.rms_norm(value, "v_norm", cast="after_weight", heads=h.kv_heads, weight=False)
    out = b.attention(q, k, value, heads=h.heads, kv_heads=h.kv_heads, window=window, causal=causal)
    return b.linear(out, "o_proj", width, bias=bias, split="row")


def gemma4_layer(c: Config, v: Variant, per_layer: int) -> Block:
    b = BlockBuilder(v.name, c.size("hidden_size"))
    activation = c.word("hidden_activation")
    x = attention(
        c, b.part("self_attn", "attention"), rms_float32(b, b.input, "input_layernorm"), v
    )
    x = residual = b.add(b.input, rms_float32(b, x, "post_attention_layernorm"))
    x = rms_float32(b, x, "pre_feedforward_layernorm")
    x = blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"), x, intermediate_size=v.inner, activation=activation
    )
    if c.flag("enable_moe_block"):
        x = with_experts(c, b, x, residual, activation)
    x = b.add(residual, rms_float32(b, x, "post_feedforward_layernorm"))
    if per_layer:
        x = b.add(x, per_layer_input(b, x, per_layer))
    b.scale(x)  # by a buffer of the layer
    return b.block()


def with_experts(c: Config, b: BlockBuilder, dense: Tensor, residual: Tensor, act: str) -> Tensor:
    """Routed experts beside the dense part; the router has a norm and scales of its own."""
    count, top_k = c.size("num_experts"), c.size("top_k_experts")
    c.require(top_k <= count, "top_k_experts", f"at most num_experts = {count}")
    first = rms_float32(b, dense, "post_feedforward_layernorm_1")
    router = b.part("router", "router")
    normal = router.rms_norm(residual, "norm", cast="after_weight", weight=False)
    scaled = router.scale(router.multiply_vector(normal, "scale"))
    scores = expert_operations.router(
        router,
        scaled,
        "proj",
        experts=count,
        top_k=top_k,
        normalize=True,
        more_weights=(router.weight("per_expert_scale", count),),
        scaled=True,
    )
    second = rms_float32(b, residual, "pre_feedforward_layernorm_2")
    second = expert_operations.experts(
        b.part("", "experts"),
        second,
        scores,
        "experts",
        experts=count,
        top_k=top_k,
        intermediate_size=c.size("moe_intermediate_size"),
        activation=act,
    )
    return b.add(first, rms_float32(b, second, "post_feedforward_layernorm_2"))


def per_layer_input(b: BlockBuilder, x: Tensor, per_layer: int) -> Tensor:
    weights = [
        *counted.linear(b, "per_layer_input_gate", x.width, per_layer),
        *counted.linear(b, "per_layer_projection", per_layer, x.width),
        *counted.norm(b, "post_per_layer_input_norm", x.width),
    ]
    return counted.module(b, "per_layer_input", x.width, weights, x)


# ---- the assistants -----------------------------------------------------------------------------


def assistant(c: Config) -> ModelSpec:
    """A small Gemma 4 whose layers read another model's keys, between two projections."""
    text = c.sub("text_config")
    text.given["tie_word_embeddings"] = c.flag("tie_word_embeddings")
    if not text.given.get("num_kv_shared_layers"):
        text.given["num_kv_shared_layers"] = layers_of(text)
    inner = gemma4(text)
    width, outer = text.size("hidden_size"), c.size("backbone_hidden_size")
    c.ignore("centroid_intermediate_top_k", "num_centroids")
    b = BlockBuilder("projections", width)
    weights = [
        *counted.linear(b, "pre_projection", 2 * outer, width),
        *counted.linear(b, "post_projection", width, outer),
    ]
    if c.flag("use_ordered_embeddings"):
        weights += counted.linear(b, "masked_embedding.centroids", width, c.size("num_centroids"))
    counted.module(b, "projections", width, weights, b.input)
    return replace(
        inner,
        name=c.model_type,
        model_type=c.model_type,
        layers=(*inner.layers, Placed("", b.block())),
        config=c.given,
        assumed={**c.assumed, **inner.assumed},
        warnings=(*c.finish(), *inner.warnings),
        not_trainable_because="its layers read another model's keys and values",
    )


# ---- Gemma 3n -----------------------------------------------------------------------------------


def gemma3n(c: Config) -> ModelSpec:
    layers = layers_of(c)
    kinds, shared = kinds_of(c, layers), shared_layers(c, layers)
    inner = c.per_layer_sizes("intermediate_size", layers)
    per_layer, streams = c.size("hidden_size_per_layer_input"), c.size("altup_num_inputs")
    h, width = heads_of(c), c.size("hidden_size")
    variants = tuple(
        Variant(kind, i >= layers - shared, h, inner[i]) for i, kind in enumerate(kinds)
    )
    c.ignore("altup_active_idx", "altup_coef_clip", "altup_correct_scale")
    c.ignore("activation_sparsity_pattern")

    def before(b: BlockBuilder, x: Tensor) -> Tensor:
        names = [f"altup_projections.{i}" for i in range(streams - 1)]
        weights = [w for name in names for w in counted.linear(b, name, width, width)]
        counted.module(b, "altup_projections", streams * width, weights, x)
        return embedded(c, b, x, layers, per_layer)

    return llama_shaped(
        c,
        {v.name: gemma3n_layer(c, v, per_layer, streams) for v in dict.fromkeys(variants)},
        tuple(v.name for v in variants),
        norm=lambda b, x, name: rms_float32(b, unembedded(b, x, streams), name),
        embedded=before,
        logits=(lambda b, x: b.softcap(x)) if c.has("final_logit_softcapping") else None,
        not_trainable_because="several streams run side by side, with inputs of every layer's own",
    )


def unembedded(b: BlockBuilder, x: Tensor, streams: int) -> Tensor:
    """The streams are projected and averaged before the last norm."""
    inner = b.part("model", "other")
    names = [f"altup_unembed_projections.{i}" for i in range(streams - 1)]
    weights = [w for name in names for w in counted.linear(inner, name, x.width, x.width)]
    return counted.module(inner, "altup_unembed_projections", x.width, weights, x)


def gemma3n_layer(c: Config, v: Variant, per_layer: int, streams: int) -> Block:
    width, rank = c.size("hidden_size"), c.size("laurel_rank")
    b = BlockBuilder(v.name, width)
    altup = b.part("altup", "other")
    weights = [
        altup.weight("correct_output_scale", width),
        *counted.linear(altup, "correction_coefs", streams, streams),
        *counted.linear(altup, "prediction_coefs", streams, streams**2),
        *counted.linear(altup, "modality_router", width, streams),
        *counted.norm(altup, "router_norm", width),
    ]
    x = counted.module(altup, "", width, weights, b.input)
    normal = rms_float32(b, x, "input_layernorm")
    laurel = b.part("laurel", "other")
    low = laurel.linear(normal, "linear_left", rank, split="whole")
    low = laurel.linear(low, "linear_right", width, split="whole")
    beside = b.add(normal, laurel.rms_norm(low, "post_laurel_norm", cast="after_weight"))
    attended = attention(c, b.part("self_attn", "attention"), normal, v)
    x = b.add(x, rms_float32(b, attended, "post_attention_layernorm"))
    x = residual = b.scale(b.add(x, beside))
    x = blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"),
        rms_float32(b, x, "pre_feedforward_layernorm"),
        intermediate_size=v.inner,
        activation=c.word("hidden_activation"),
    )
    x = b.add(residual, rms_float32(b, x, "post_feedforward_layernorm"))
    b.add(x, per_layer_input(b, x, per_layer))
    return b.block()
