"""DeepSeek-V4 and MiniMax-M3's text model: attention over picked or compressed keys."""

from __future__ import annotations

from collections.abc import Mapping

from planner.model import blocks, counted, decoder
from planner.model.assemble import layer_types, layers_of, llama_shaped, rms_float32
from planner.model.blocks import Experts
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor, Weight
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import Routing, by_mlp_layer_types
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits
from planner.model.wiring import Norm, Part

SPARSE, HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"
# Tokens per compressed key where compress_rates is left out (configuration_deepseek_v4.py).
RATES = {SPARSE: 4, HEAVY: 128}
M3_SPARSE = "minimax_m3_sparse"


def build(c: Config) -> ModelSpec:
    return deepseek_v4(c) if c.model_type == "deepseek_v4" else minimax_m3(c)


def deepseek_v4(c: Config) -> ModelSpec:
    layers, width, streams = layers_of(c), c.size("hidden_size"), c.size("hc_mult")
    kinds = layer_types(
        c,
        layers,
        lambda i: SPARSE if i >= 2 and i % 2 else HEAVY,
        known=(SPARSE, HEAVY, SLIDING),
    )
    layer_types(c, layers, lambda i: "moe", known=("moe", "hash_moe"), field="mlp_layer_types")
    c.ignore("index_topk", "hc_sinkhorn_iters", "swiglu_limit", "num_key_value_heads")
    c.ignore("num_nextn_predict_layers", "attention_bias", "sliding_window")

    def final(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        head = b.part("model.hc_head", "other")
        weights = [
            head.weight("hc_fn", streams, streams * width),
            head.weight("hc_base", streams),
            head.weight("hc_scale", 1),
        ]
        return rms_float32(b, counted.module(head, "", width, weights, x), name)

    return llama_shaped(
        c,
        {kind: v4_layer(c, kind) for kind in set(kinds)},
        kinds,
        norm=final,
        not_trainable_because="keys are compressed and picked, and several streams are mixed",
    )


def v4_layer(c: Config, kind: str) -> Block:
    width = c.size("hidden_size")
    b = BlockBuilder(kind, width)
    x = rms_float32(b, hyper(c, b, b.input, "attn_hc"), "input_layernorm")
    a = b.part("self_attn", "attention")
    x = counted.module(a, "", width, v4_attention(c, a, kind), x)
    x = rms_float32(b, hyper(c, b, x, "ffn_hc"), "post_attention_layernorm")
    m = b.part("mlp", "experts")
    e = Experts(
        c.size("n_routed_experts"),
        c.size("num_experts_per_tok"),
        c.size("moe_intermediate_size"),
        "clamped_swiglu",
        c.word("scoring_func"),
        normalize=True,
    )
    routed = blocks.routed_experts(m, x, e, scaled=True)
    shared = blocks.gated_feed_forward(
        m.part("shared_experts"),
        x,
        intermediate_size=e.intermediate_size,
        activation="clamped_swiglu",
        bias=c.flag("mlp_bias"),
    )
    c.require(c.size("n_shared_experts") == 1, "n_shared_experts", "1, which the code has")
    m.add(routed, shared)
    return b.block()


def hyper(c: Config, b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """Mixes hc_mult residual streams before a part."""
    n, inner = c.size("hc_mult"), b.part(name, "other")
    weights = [
        inner.weight("fn", (2 + n) * n, n * x.width),
        inner.weight("base", (2 + n) * n),
        inner.weight("scale", 3),
    ]
    return counted.module(inner, "", x.width, weights, x)


def v4_attention(c: Config, a: BlockBuilder, kind: str) -> list[Weight]:
    width, heads, head = c.size("hidden_size"), c.size("num_attention_heads"), c.size("head_dim")
    rank, groups, narrow = c.size("q_lora_rank"), c.size("o_groups"), c.size("o_lora_rank")
    c.require(heads * head % groups == 0, "o_groups", f"a divisor of {heads} x {head}")
    weights = [
        a.weight("sinks", heads),
        *counted.linear(a, "q_a_proj", width, rank),
        *counted.norm(a, "q_a_norm", rank),
        *counted.linear(a, "q_b_proj", rank, heads * head),
        *counted.linear(a, "kv_proj", width, head),
        *counted.norm(a, "kv_norm", head),
        *counted.linear(a, "o_a_proj", heads * head // groups, groups * narrow),
        *counted.linear(a, "o_b_proj", groups * narrow, width),
    ]
    if kind == SLIDING:
        return weights
    rate, twice = rate_of(c, kind), 2 if kind == SPARSE else 1
    compressor = a.part("compressor")
    weights += compressed(compressor, width, head, rate, twice)
    if kind == SPARSE:
        index, own = compressor.part("indexer"), c.size("index_head_dim")
        count = c.size("index_n_heads")
        weights += compressed(index, width, own, rate, 2)
        weights += counted.linear(index, "q_b_proj", rank, count * own)
        weights += counted.linear(index, "scorer.weights_proj", width, count)
    return weights


def compressed(b: BlockBuilder, width: int, head: int, rate: int, twice: int) -> list[Weight]:
    return [
        *counted.linear(b, "kv_proj", width, twice * head),
        *counted.linear(b, "gate_proj", width, twice * head),
        b.weight("position_bias", rate, twice * head, kind="vector"),
        *counted.norm(b, "kv_norm", head),
    ]


def rate_of(c: Config, kind: str) -> int:
    rates = c.raw("compress_rates")
    if rates is None:
        return RATES[kind]
    c.require(isinstance(rates, Mapping) and kind in rates, "compress_rates", f"a rate of {kind}")
    rate = rates[kind]
    c.require(isinstance(rate, int) and rate > 0, "compress_rates", "whole numbers above 0")
    return int(rate)


# ---- MiniMax-M3 ---------------------------------------------------------------------------------


def minimax_m3(c: Config) -> ModelSpec:
    """Norms with Gemma's float32 weights; a clamped gate; sparse layers have an indexer."""
    layers = layers_of(c)
    older_m3(c)
    kinds = layer_types(c, layers, lambda i: FULL, known=(FULL, M3_SPARSE))
    c.ignore("swiglu_alpha", "swiglu_limit", "index_block_size", "index_topk_blocks", "rotary_dim")
    c.ignore("index_local_blocks", "hidden_act", "index_n_heads", "index_head_dim")
    c.ignore("dense_intermediate_size")
    sparse = M3_SPARSE in kinds

    def join(b: BlockBuilder, norm: Norm, mixer: Part, feed: Part) -> Tensor:
        normal = norm(b, b.input, "input_layernorm")
        if b.name.startswith(M3_SPARSE):
            record_indexer(c, b.part("self_attn.indexer", "attention"), normal)
        x = b.add(b.input, mixer(b, normal))
        return b.add(x, feed(b, norm(b, x, "post_attention_layernorm")))

    return decoder.build(
        c,
        Traits(
            Attention(False, False, head_norm=blocks.rms_float32_of_heads, rotary="partial"),
            FeedForward("fused", False, width="dense_intermediate_size"),
            Routing(
                count="num_local_experts",
                width="intermediate_size",
                sparse=by_mlp_layer_types(0),
                score="sigmoid",
                normalize=True,
                scaled=True,
                activation="gpt_oss_swiglu",
                shared=("shared_intermediate_size",),
                shared_form="gate_up",
                shared_first=True,
            ),
            kinds=lambda c, layers: kinds,
            norm=rms_float32,
            join=join,
            not_trainable_because="keys are picked by an indexer" if sparse else None,
        ),
    )


# In the configs of checkpoints -> in Transformers' class (configuration_minimax_m3_vl.py).
M3_OLDER = {"sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim"}


def older_m3(c: Config) -> None:
    """Which layers are sparse, and which have experts, as lists of zeros and ones."""
    older = c.raw("sparse_attention_config") or {}
    if not isinstance(older, Mapping):
        raise c.error("sparse_attention_config", older, "a mapping of fields")
    c.given.update({new: older[old] for old, new in M3_OLDER.items() if old in older})
    lists = (
        ("layer_types", older.get("sparse_attention_freq"), (FULL, M3_SPARSE)),
        ("mlp_layer_types", c.raw("moe_layer_freq"), ("dense", "sparse")),
    )
    for name, flags, words in lists:
        if flags is not None and c.given.get(name) is None:
            c.require(isinstance(flags, list), "moe_layer_freq", "a list of zeros and ones")
            c.given[name] = [words[bool(flag)] for flag in flags]


def record_indexer(c: Config, b: BlockBuilder, x: Tensor) -> None:
    heads, head = c.size("index_n_heads"), c.size("index_head_dim")
    weights = [
        *counted.linear(b, "q_proj", x.width, heads * head),
        *counted.linear(b, "k_proj", x.width, head),
        *counted.norm(b, "q_norm", head),
        *counted.norm(b, "k_norm", head),
    ]
    counted.module(b, "", 0, weights, x)
