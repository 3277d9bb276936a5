"""Inkling: relative positions and short convolutions; from 2 on, residuals by attention."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks, counted, expert_operations
from planner.model.assemble import layer_types, layers_of, llama_shaped, rms
from planner.model.blocks import Experts, Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec

FULL, SLIDING = "hybrid", "hybrid_sliding"
WHY = "short convolutions and relative positions are not modelled"


def build(c: Config) -> ModelSpec:
    c.ignore("log_scaling_n_floor", "log_scaling_alpha", "rope_parameters", "unpadded_vocab_size")
    c.ignore("route_scale")
    return inkling(c) if c.model_type == "inkling_text" else inkling2(c)


def kinds_of(c: Config, layers: int) -> tuple[str, ...]:
    """Each sixth layer is full, or all but local_layer_ids."""
    local = c.sizes("local_layer_ids")

    def rule(i: int) -> str:
        slides = i in local if local is not None else (i + 1) % 6
        return SLIDING if slides else FULL

    return layer_types(c, layers, rule, known=(FULL, SLIDING))


def heads_of_kind(c: Config, kind: str) -> tuple[Heads, int]:
    """Heads, and how far back relative positions reach."""
    prefix = "swa_" if kind == SLIDING else ""
    heads = Heads(
        c.size(f"{prefix}num_attention_heads"),
        c.size(f"{prefix}num_key_value_heads"),
        c.size(f"{prefix}head_dim"),
    )
    return heads, c.size("sliding_window_size" if kind == SLIDING else "rel_extent")


def convolution(c: Config, b: BlockBuilder, name: str, width: int) -> Weight:
    return b.weight(f"{name}.conv1d.weight", width, 1, c.size("conv_kernel_size"), kind="vector")


def normed_embedding(b: BlockBuilder, x: Tensor) -> Tensor:
    return b.rms_norm(x, "embed_tokens.embed_norm")


# ---- the first ----------------------------------------------------------------------------------


def inkling(c: Config) -> ModelSpec:
    layers = layers_of(c)
    kinds = kinds_of(c, layers)
    dense = c.count("dense_mlp_idx", 0)
    feeds = layer_types(
        c,
        layers,
        lambda i: "dense" if i < dense else "sparse",
        known=("dense", "sparse"),
        field="mlp_layer_types",
    )
    c.ignore("shared_expert_sink", "rms_norm_eps_moe_gate", "num_mtp_layers")
    c.ignore("chain_hidden_post_norm", "mtp_hidden_states_first", "mtp_local_layer_ids")
    c.ignore("intermediate_size", "logits_mup_width_multiplier")
    pattern = tuple(f"{kind} {feed}" for kind, feed in zip(kinds, feeds, strict=True))
    return llama_shaped(
        c,
        {name: inkling_layer(c, name) for name in set(pattern)},
        pattern,
        embedded=normed_embedding,
        before_head=lambda b, x: b.scale(x),
        not_trainable_because=WHY,
    )


def inkling_layer(c: Config, name: str) -> Block:
    kind, feed = name.split()
    h, extent = heads_of_kind(c, kind)
    width, rel = c.size("hidden_size"), c.size("d_rel")
    b = BlockBuilder(name, width)
    x = rms(b, b.input, "input_layernorm")
    a = b.part("self_attn", "attention")
    weights = [
        *counted.linear(a, "q_proj", width, h.q_width),
        *counted.linear(a, "k_proj", width, h.kv_width),
        *counted.linear(a, "v_proj", width, h.kv_width),
        *counted.linear(a, "r_proj", width, h.heads * rel),
        *counted.linear(a, "o_proj", h.q_width, width),
        convolution(c, a, "k_sconv", h.kv_width),
        convolution(c, a, "v_sconv", h.kv_width),
        *counted.norm(a, "q_norm", h.head_dim),
        *counted.norm(a, "k_norm", h.head_dim),
        a.weight("rel_logits_proj.proj", rel, extent),
        convolution(c, b, "attn_sconv", width),
    ]
    residual = b.add(b.input, counted.module(a, "", width, weights, x))
    x = rms(b, residual, "post_attention_layernorm")
    x = dense_part(c, b, x) if feed == "dense" else inkling_experts(c, b, x)
    mixed = counted.module(b, "mlp_sconv", width, [convolution(c, b, "mlp_sconv", width)], x)
    b.add(residual, mixed)
    return b.block()


def dense_part(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    inner = c.optional("dense_intermediate_size") or c.size("intermediate_size")
    part = b.part("mlp", "feed_forward")
    activation = c.word("hidden_act")
    out = blocks.gated_feed_forward(part, x, intermediate_size=inner, activation=activation)
    return part.multiply_vector(out, "global_scale", 1)


def inkling_experts(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    m = b.part("mlp", "experts")
    experts, shared = c.size("n_routed_experts"), c.size("n_shared_experts")
    top_k = c.size("num_experts_per_tok")
    # Where a dense width is given too, intermediate_size is the experts'.
    own = "dense_intermediate_size" in c.given
    inner = c.size("intermediate_size" if own else "moe_intermediate_size")
    scores = expert_operations.router(
        m,
        x,
        "gate",
        experts=experts + shared,
        top_k=top_k,
        score="sigmoid",
        normalize=True,
        more_weights=(m.weight("gate.global_scale", 1),),
        float32=True,
        scaled=True,
    )
    routed = expert_operations.experts(
        m,
        x,
        scores,
        "experts",
        experts=experts,
        top_k=top_k,
        intermediate_size=inner,
        activation=c.word("hidden_act"),
    )
    s = m.part("shared_experts")
    weights = [
        s.weight("gate_proj", shared, inner, x.width, kind="matrix"),
        s.weight("up_proj", shared, inner, x.width, kind="matrix"),
        s.weight("down_proj", shared, x.width, inner, kind="matrix"),
    ]
    return m.add(routed, counted.module(s, "", x.width, weights, x))


# ---- the second ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What may differ from layer to layer: the first has no residual by attention; some loop."""

    kind: str
    first: bool
    loops: bool

    @property
    def name(self) -> str:
        words = [self.kind, "first" if self.first else "", "looped" if self.loops else ""]
        return " ".join(word for word in words if word)


def inkling2(c: Config) -> ModelSpec:
    layers, width = layers_of(c), c.size("hidden_size")
    looped = range(0)
    if c.model_type == "inkling2_loop_text":
        looped = range(c.count("loop_layer_index_start"), c.size("loop_layer_index_end"))
        c.require(looped.start < looped.stop, "loop_layer_index_end", f"above {looped.start}")
    c.ignore("qk_l2_clip_threshold", "rel_l2_clip_threshold", "n_layers_per_attn_res_block")
    c.ignore(
        "mlp_gate_softcap", "mlp_up_softcap", "loop_num_passes", "hidden_act", "loop_gate_rank"
    )
    kinds = kinds_of(c, layers)
    places = tuple(Place(kind, i == 0, i in looped) for i, kind in enumerate(kinds))

    def final(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        inner = b.part("model", "other")
        weights = [inner.weight("final_input.query", width)]
        if looped:
            weights.append(
                inner.weight("message_input.query", len(looped), 4, width, kind="vector")
            )
        return rms(b, counted.module(inner, "final_input", width, weights, x), name)

    return llama_shaped(
        c,
        {p.name: inkling2_layer(c, p) for p in dict.fromkeys(places)},
        tuple(p.name for p in places),
        outputs=c.optional("unpadded_vocab_size"),
        norm=final,
        embedded=normed_embedding,
        logits=(lambda b, x: b.softcap(x)) if c.has("final_logit_softcapping") else None,
        not_trainable_because=WHY,
    )


def inkling2_layer(c: Config, p: Place) -> Block:
    width, rank = c.size("hidden_size"), c.optional("loop_gate_rank") if p.loops else None
    b = BlockBuilder(p.name, width)
    full = p.kind == FULL
    other = b.part("", "other")
    weights = [other.weight("mlp_input.query", width)]
    if not p.first:
        shape = (3, width) if full else (width,)
        weights.append(other.weight("attention_input.query", *shape, kind="vector"))
    for name in ("q", "k", "v", "mlp") if rank else ():
        gate = other.part(f"{name}_message_gate")
        weights += counted.linear(gate, "down_proj", 2 * width, rank or 0)
        weights += counted.linear(gate, "forget_gate_proj", rank or 0, width)
        weights += counted.linear(gate, "message_gate_proj", rank or 0, width)
    x = counted.module(other, "residuals", width, weights, b.input)
    prefixes = ("q_", "k_", "v_") if full else ("",)
    for prefix in prefixes:
        x = rms(b, x, f"{prefix}input_layernorm")
    x = counted.module(b.part("self_attn", "attention"), "", width, attention2(c, b, p.kind), x)
    x = rms(b, x, "post_attention_layernorm")
    e = Experts(
        c.size("n_routed_experts"),
        c.size("num_experts_per_tok"),
        c.size("moe_intermediate_size"),
        "softcapped_swiglu",
        c.word("scoring_func"),
        normalize=True,
    )
    x = blocks.routed_experts(b.part("mlp", "experts"), x, e, float32=True, scaled=True)
    last = [convolution(c, b, "post_mlp_convolution", width)]
    counted.module(b, "post_mlp_convolution", width, last, x)
    return b.block()


def attention2(c: Config, b: BlockBuilder, kind: str) -> list[Weight]:
    h, extent = heads_of_kind(c, kind)
    width, rel, kernel = c.size("hidden_size"), c.size("d_rel"), c.size("conv_kernel_size")
    a = b.part("self_attn", "attention")
    weights = [
        *counted.linear(a, "q_proj.linear", width, h.q_width),
        a.weight("q_proj.norm.scale", h.heads, h.head_dim, kind="vector"),
        *counted.linear(a, "k_proj.linear", width, h.kv_width),
        *counted.linear(a, "v_proj.linear", width, h.kv_width),
        *counted.linear(a, "o_proj.gate_proj", width, h.q_width),
        *counted.linear(a, "o_proj.linear", h.q_width, width),
        *counted.linear(a, "sink_proj", width, h.heads),
        a.weight("relative_position_bias.proj", rel, extent),
        *counted.linear(a, "relative_position_bias.linear", width, h.heads * rel),
        a.weight("relative_position_bias.norm.scale", h.heads, rel, kind="vector"),
        convolution(c, b, "post_attention_convolution", width),
    ]
    for name in ("k_proj.sconv", "v_proj.sconv"):
        if kind == SLIDING:
            weights.append(convolution(c, a, name, h.kv_width))
        else:
            weights.append(a.weight(f"{name}.static_weight", kernel, h.kv_width, kind="vector"))
            weights += counted.linear(a, f"{name}.weight_proj", width, h.kv_heads * kernel)
    return weights
