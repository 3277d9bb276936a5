"""Families that stand alone (CPM-Ant, DBRX, HRM, ZAYA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model import blocks, counted, decoder, wiring
from planner.model.assemble import heads_of, layers_of, llama_shaped, rms
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families import llama
from planner.model.frames import Names, framed
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed
from planner.model.traits import Attention, FeedForward, Gate, Traits, Variant


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "cpmant": cpmant,
        "dbrx": dbrx,
        "hrm_text": hrm,
        "zaya": zaya,
    }
    return builders[c.model_type](c)


def cpmant(c: Config) -> ModelSpec:
    """A prompt of learned tokens before the text; attention biased by segment and distance."""
    width, heads, head = c.size("hidden_size"), c.size("num_attention_heads"), c.size("dim_head")
    inner, prompts = c.size("dim_ff"), c.size("prompt_types") * c.size("prompt_length")
    segments, buckets = c.size("segment_types"), c.size("position_bias_num_buckets")
    c.ignore("position_bias_max_distance", "dropout_p", "tie_word_embeddings")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("self_att.self_attention", "attention"),
            x,
            Heads(heads, heads, head),
            rotary=0,
            names=("project_q", "project_k", "project_v", "attention_out"),
            eager_only=True,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.gated_feed_forward(
            b.part("ffn.ffn", "feed_forward"),
            x,
            intermediate_size=inner,
            activation="gelu",
            names=("w_in.w_0", "w_in.w_1", "w_out"),
        )

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        weights = [
            b.weight("segment_embedding.weight", segments, width, kind="embedding"),
            b.weight("position_bias.relative_attention_bias", segments**2 + buckets, heads),
        ]
        return b.add(x, counted.module(b, "segments", width, weights))

    b = BlockBuilder("decoder", width)
    norms = ("self_att.layernorm_before_attention", "ffn.layernorm_before_ffn")
    wiring.pre_norm(b, rms, attention, feed_forward, names=norms)
    return framed(
        c,
        Names(
            "cpmant",
            "input_embedding",
            layers="encoder.layers",
            final="encoder.output_layernorm",
        ),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c),
        width=width,
        rows=c.size("vocab_size") + prompts,
        tied=False,  # the embedding has more rows than the head, so nothing can be shared
        norm=rms,
        embedded=embedded,
        not_trainable_because="the attention's bias is learned by segment and distance",
    )


def dbrx(c: Config) -> ModelSpec:
    """Fused queries, keys and values that are clamped; experts stacked in flat matrices."""
    width, heads = c.size("d_model"), c.size("n_heads")
    a, f = c.sub("attn_config", "dbrx_attention"), c.sub("ffn_config", "dbrx_experts")
    head, keys = c.divides("d_model", "n_heads"), a.size("kv_n_heads", 1)
    h = Heads(heads, keys, head)
    c.require(heads % keys == 0, "attn_config", f"kv_n_heads that divides {heads} query heads")
    experts, top_k = f.size("moe_num_experts", 4), f.size("moe_top_k", 1)
    inner = f.size("ffn_hidden_size", 3584)
    f.ignore("hidden_size", "ffn_act_fn", "moe_normalize_expert_weights", "moe_jitter_eps")
    a.ignore("clip_qkv", "rope_theta")

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        return b.layer_norm(x, name, bias=False)

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("norm_attn_norm.attn", "attention")
        fused = part.activation(part.linear(x, "Wqkv", h.q_width + 2 * h.kv_width), "clamp")
        q, k, v = part.split(fused, h.q_width, h.kv_width, h.kv_width)
        out = blocks.rotated_attention(part, q, k, v, h)
        return part.linear(out, "out_proj", width, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("ffn", "experts")
        weights: list[Weight] = counted.linear(part, "router.layer", width, experts)
        weights += [
            part.weight(
                f"experts.mlp.{name}",
                experts * inner,
                width,
                kind="expert",
                split="expert",
                used=(min(top_k, experts), experts),
            )
            for name in ("w1", "v1", "w2")
        ]
        return counted.module(part, "", width, weights, x)

    b = BlockBuilder("decoder", width)
    names = ("norm_attn_norm.norm_1", "norm_attn_norm.norm_2")
    wiring.pre_norm(b, norm, attention, feed_forward, names=names)
    c.ignore("max_seq_len", "resid_pdrop", "emb_pdrop")
    a.finish()
    f.finish()
    return framed(
        c,
        Names(layers="blocks", final="norm_f"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c, "n_layers"),
        width=width,
        norm=norm,
        not_trainable_because="its experts lie in flat matrices that are not modelled",
    )


def hrm(c: Config) -> ModelSpec:
    """Two stacks in H_cycles cycles: the low one L_cycles times, then the high one."""
    per_stack = c.optional("num_layers_per_stack") or layers_of(c)
    low, high = c.size("L_cycles"), c.size("H_cycles")
    h = heads_of(c)
    c.ignore("L_bp_cycles", "embedding_scale", "prefix_lm", "num_hidden_layers")
    traits = Traits(
        Attention(rotary="all", gate=Gate("gate_proj", bias="attention_bias")),
        FeedForward(),
        norm=llama.weightless,
    )
    variant = Variant("full_attention", True, False, Heads(h.heads, h.heads, h.head_dim))
    block = decoder.layer_block(c, traits, variant)

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        start = [b.weight("z_L_init", x.width)]
        counted.module(b, "z_L_init", x.width, start)
        return b.scale(x)

    spec = llama_shaped(
        c,
        {"layer": block},
        ("layer",) * per_stack,
        norm=lambda b, x, name: x,
        embedded=embedded,
        not_trainable_because="its stacks run in cycles, most of them without gradients",
    )
    seen: set[str] = set()
    places = []
    for name in (["L_module"] * low + ["H_module"]) * high:
        for i in range(per_stack):
            prefix = f"model.{name}.layers.{i}."
            places.append(Placed(prefix, block, prefix if prefix in seen else None))
            seen.add(prefix)
    return replace(spec, layers=tuple(places))


def zaya(c: Config) -> ModelSpec:
    """Convolved queries and keys, scaled residuals, a router with a memory of the layer before."""
    h, width, layers = heads_of(c), c.size("hidden_size"), layers_of(c)
    bias, experts, top_k = (
        c.flag("attention_bias"),
        c.size("num_experts"),
        c.size("num_experts_per_tok"),
    )
    rank, inner = c.size("router_hidden_size"), c.size("moe_intermediate_size")
    kernels = c.size("cca_time0"), c.size("cca_time1")
    c.ignore("layer_types", "sliding_window", "hidden_act")

    def scaling(b: BlockBuilder, name: str) -> list[Weight]:
        parts = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
        return [b.weight(f"{name}.{part}", width) for part in parts]

    def projection(a: BlockBuilder) -> list[Weight]:
        p, channels = a.part("qkv_proj"), h.q_width + h.kv_width
        return [
            *counted.linear(p, "q_proj", width, h.q_width, bias),
            *counted.linear(p, "k_proj", width, h.kv_width, bias),
            *counted.linear(p, "v_proj_current", width, h.kv_width // 2, bias),
            *counted.linear(p, "v_proj_delayed", width, h.kv_width // 2, bias),
            p.weight("conv_qk_depthwise.weight", channels, 1, kernels[0], kind="vector"),
            p.weight("conv_qk_depthwise.bias", channels),
            p.weight("conv_qk_grouped.weight", channels, h.head_dim, kernels[1]),
            p.weight("conv_qk_grouped.bias", channels),
        ]

    def block(first: bool) -> Block:
        b = BlockBuilder("first" if first else "decoder", width)
        x = rms(b, b.input, "input_layernorm")
        a = b.part("self_attn", "attention")
        weights = [
            *projection(a),
            a.weight("qk_norm.temp", h.kv_heads),
            *counted.linear(a, "o_proj", h.q_width, width, bias),
            *scaling(b, "post_attention_residual_scale"),
        ]
        x = rms(b, counted.module(a, "", width, weights, x), "post_attention_layernorm")
        m = b.part("mlp", "experts")
        g = m.part("gate", "router")
        weights = counted.linear(g, "down_proj", width, rank, True)
        if not first:
            weights.append(g.weight("router_states_scale", rank))
        r = g.part("router_mlp")
        weights += [
            *counted.norm(r, "norm", rank),
            *counted.linear(r, "fc1", rank, rank, True),
            *counted.linear(r, "fc2", rank, rank, True),
            *counted.linear(r, "out_proj", rank, experts + 1),
        ]
        scores = counted.module(g, "", top_k, weights, x)
        used = (min(top_k, experts), experts)

        def stacked(name: str, *shape: int) -> Weight:
            return m.weight(
                f"experts.{name}", experts, *shape, kind="expert", split="expert", used=used
            )

        weights = [stacked("gate_up_proj", 2 * inner, width), stacked("down_proj", width, inner)]
        x = counted.module(m, "experts", width, weights, x, scores)
        counted.module(b, "residual", width, scaling(b, "post_mlp_residual_scale"), x)
        return b.block()

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        parts = ("input_hidden_states_scale", "input_hidden_states_bias")
        return counted.module(b, "input", width, [b.weight(part, width) for part in parts], x)

    made = {"first": block(True), "decoder": block(False)}
    return llama_shaped(
        c,
        made,
        ("first", *("decoder",) * (layers - 1)),
        embedded=embedded,
        head_bias=c.flag("lm_head_bias"),
        not_trainable_because="convolved queries and scaled residuals are not modelled",
    )
