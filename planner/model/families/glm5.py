"""GLM-5 next and Mistral Large 4: latent attention over picked keys in other surroundings.

GLM-5 next has three layers of a gated delta rule to one of attention, and mixes several residual
streams. Mistral Large 4 leaves every fourth layer without positions, and layers may take their
keys and values from an earlier one.
"""

from __future__ import annotations

from planner.model import blocks, counted
from planner.model.assemble import layer_types, layers_of, llama_shaped, rms
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.decoder import latent_heads
from planner.model.families.deepseek import PICKED, by_words
from planner.model.families.deepseek_v4 import hyper
from planner.model.families.kimi_linear import delta, delta_heads
from planner.model.latent import Indexer, LatentStyle, head_scaling, latent_attention
from planner.model.operations import Block, Tensor, Weight
from planner.model.patterns import INDEXED, indexed, picking
from planner.model.routing import Routing, routed_feed_forward, sparse_layers
from planner.model.spec import ModelSpec
from planner.model.wiring import Part, pre_norm

LINEAR = "linear_attention"
FULL, SHARED = "full", "shared"
# A rotated layer, one without positions (no_rope_layers).
ROTATED, UNROTATED = 1, 0


def build(c: Config) -> ModelSpec:
    return glm5_next(c) if c.model_type == "glm5_next_text" else mistral_large4(c)


def indexer_words(c: Config, layers: int) -> tuple[str, ...]:
    """Which layers pick keys themselves, and which take the picks of an earlier one."""
    rule = picking(c) if c.words("indexer_types") is None else None
    return layer_types(c, layers, rule, known=(FULL, SHARED), field="indexer_types")


def feed_forward(c: Config, sparse: bool, routing: Routing) -> Part:
    activation = c.word("hidden_act")
    if sparse:
        return routed_feed_forward(c, routing, bias=False, activation=activation)
    inner = c.size("intermediate_size")
    return lambda b, x: blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"), x, intermediate_size=inner, activation=activation
    )


# ---- GLM-5 next ---------------------------------------------------------------------------------


def glm5_next(c: Config) -> ModelSpec:
    layers, routing = layers_of(c), by_words(3)
    c.ignore("index_topk", "index_kpool_always_select_tail", "linear_lower_bound", "swiglu_limit")
    c.ignore("hc_sinkhorn_iters", "num_key_value_heads", "head_dim", "qk_head_dim")
    kinds = tuple(
        INDEXED if kind == "full_attention" else kind
        for kind in layer_types(c, layers, known=(LINEAR, INDEXED, "full_attention"))
    )
    picks = indexer_words(c, layers)
    sparse = sparse_layers(c, routing, layers)
    keys = [
        (kind, pick if kind == INDEXED else FULL, feed)
        for kind, pick, feed in zip(kinds, picks, sparse, strict=True)
    ]
    names = {key: f"{key[0]} {key[1]} {'moe' if key[2] else 'dense'}" for key in keys}
    made = {name: glm5_layer(c, name, *key, routing) for key, name in names.items()}
    why = "several residual streams are mixed in every layer"
    return llama_shaped(c, made, tuple(names[key] for key in keys), not_trainable_because=why)


def glm5_layer(c: Config, name: str, kind: str, pick: str, sparse: bool, routing: Routing) -> Block:
    b = BlockBuilder(name, c.size("hidden_size"))
    mixer = delta(c, delta_heads(c)) if kind == LINEAR else glm5_attention(c, pick == FULL)
    x = rms(b, hyper(c, b, b.input, "attn_hc"), "input_layernorm")
    x = hyper(c, b, b.add(b.input, mixer(b, x)), "ffn_hc")
    fed = feed_forward(c, sparse, routing)(b, rms(b, x, "post_attention_layernorm"))
    b.add(x, fed)
    return b.block()


def glm5_attention(c: Config, picks: bool) -> Part:
    """Latent attention without positions; the indexer joins index_kpool keys into one."""
    c.require(c.count("qk_rope_head_dim") == 0, "qk_rope_head_dim", "0: no layer is rotated")
    h, bias = latent_heads(c, direct_query=False), c.flag("attention_bias")
    pool = c.size("index_kpool")
    indexer = Indexer(c.size("index_n_heads"), c.size("index_head_dim"), pooled=pool)
    style = LatentStyle(indexer=indexer if picks else None)
    return lambda b, x: latent_attention(b.part("self_attn", "attention"), x, h, style, bias=bias)


# ---- Mistral Large 4 ----------------------------------------------------------------------------


def mistral_large4(c: Config) -> ModelSpec:
    layers, routing = layers_of(c), by_words("first_k_dense_replace")
    c.ignore("index_topk", "num_key_value_heads", "head_dim", "qk_head_dim")
    c.ignore("no_rope_layer_interval", "kv_source_layers", "final_logit_softcapping")
    indexed(c, layers)
    picks, sparse = indexer_words(c, layers), sparse_layers(c, routing, layers)
    sources = c.sizes("kv_source_layers") or tuple(range(layers))
    own = len(sources) == layers and all(s <= i and sources[s] == s for i, s in enumerate(sources))
    c.require(own, "kv_source_layers", "for each layer itself, or an earlier one that has its own")
    keys = [
        (rotated, sources[i] == i, picks[i] == FULL, sparse[i])
        for i, rotated in enumerate(rotated_layers(c, layers))
    ]
    names = {key: " ".join(words(*key)) for key in keys}
    made = {}
    for key, name in names.items():
        *attention, with_experts = key
        b = BlockBuilder(name, c.size("hidden_size"))
        pre_norm(b, rms, large4_attention(c, *attention), feed_forward(c, with_experts, routing))
        made[name] = b.block()
    return llama_shaped(
        c,
        made,
        tuple(names[key] for key in keys),
        embedded=lambda b, x: scaled_angles(c, b, x),
        logits=lambda b, x: b.softcap(x),
        not_trainable_because=PICKED,
    )


def rotated_layers(c: Config, layers: int) -> tuple[bool, ...]:
    given = c.sizes("no_rope_layers")
    if given is None:
        step = c.size("no_rope_layer_interval", 4)
        given = tuple(ROTATED if (i + 1) % step else UNROTATED for i in range(layers))
    c.require(len(given) >= layers, "no_rope_layers", f"one number per layer ({layers})")
    return tuple(bool(number) for number in given[:layers])


def words(rotated: bool, own_keys: bool, picks: bool, sparse: bool) -> list[str]:
    said = {"unrotated": not rotated, "shared keys": not own_keys, "shared index": not picks}
    return ["moe" if sparse else "dense", *(word for word, true in said.items() if true)]


def scaled_angles(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """Each angle of the rotation is scaled by a learned number."""
    pairs = c.size("qk_rope_head_dim") // 2
    return b.opaque("rotary_emb", x.width, (b.weight("rotary_emb.alpha", pairs),), (x,))


def large4_attention(c: Config, rotated: bool, own_keys: bool, picks: bool) -> Part:
    """Queries straight from x; a layer with another's keys has no narrow projection of its own."""
    heads, value, rank = c.size("num_attention_heads"), c.size("v_head_dim"), c.size("kv_lora_rank")
    nope, rope = c.size("qk_nope_head_dim"), c.size("qk_rope_head_dim")
    bias = c.flag("attention_bias")
    indexer = Indexer(c.size("index_n_heads"), c.size("index_head_dim"), scaled=True)
    plain = nope if rotated else nope + rope

    def part(outer: BlockBuilder, x: Tensor) -> Tensor:
        b, width = outer.part("self_attn", "attention"), x.width
        weights: list[Weight] = []
        if own_keys:
            narrow = rank + (rope if rotated else 0)
            weights += counted.linear(b, "kv_a_proj_with_mqa", width, narrow, bias)
            weights += counted.norm(b, "kv_a_layernorm", rank)
        weights += counted.linear(b, "kv_b_proj", rank, heads * (plain + value))
        weights += counted.linear(b, "q_proj", width, heads * (nope + rope))
        weights += counted.linear(b, "o_proj", heads * value, width, bias)
        weights += head_scaling(b, heads)
        if picks:
            indexer.record(b, x, x)
        return counted.module(b, "", width, weights, x)

    return part
