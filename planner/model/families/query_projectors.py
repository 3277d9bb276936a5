"""What joins an encoder to a language model by attention: learned queries read its tokens."""

from __future__ import annotations

from collections.abc import Mapping

from planner.model import blocks
from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.qformer import qformer
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower

# How many queries a picture of so many patches has (configuration_aria.py).
ARIA_QUERIES = {"1225": 128, "4900": 256}


def idefics2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A gated linear to the text's width, then learned queries that attend to the patches."""
    p = c.sub("perceiver_config")
    same = p.size("hidden_size") == width
    c.require(same, "perceiver_config", f"hidden_size {width}, the text's")
    inner = c.sub("text_config").size("intermediate_size")
    m = b.part("modality_projection")
    gate = m.activation(m.linear(b.input, "gate_proj", inner), "silu")
    x = m.linear(m.multiply(gate, m.linear(b.input, "up_proj", inner)), "down_proj", width)
    r = b.part("perceiver_resampler")
    heads, head_dim = p.size("resampler_n_heads"), p.size("resampler_head_dim")
    h = blocks.Heads(heads, p.size("num_key_value_heads", heads), head_dim)
    latents = r.weight("latents", p.size("resampler_n_latents"), width, kind="embedding")
    y = r.opaque("latents", width, (latents,))
    for i in range(layers_of(p, "resampler_depth")):
        layer = r.part(f"layers.{i}")
        a = layer.part("self_attn", "attention")
        normed = layer.rms_norm(y, "input_latents_norm")
        context = layer.rms_norm(x, "input_context_norm")
        q = a.linear(normed, "q_proj", h.q_width)
        k, value = (a.linear(context, f"{name}_proj", h.kv_width) for name in "kv")
        out = a.attention(q, k, value, heads=h.heads, kv_heads=h.kv_heads, causal=False)
        y = layer.add(y, a.linear(out, "o_proj", width, split="row"))
        fed = blocks.gated_feed_forward(
            layer.part("mlp", "feed_forward"),
            layer.rms_norm(y, "post_attention_layernorm"),
            intermediate_size=4 * width,
            activation=p.word("hidden_act"),
        )
        y = layer.add(y, fed)
    r.rms_norm(y, "norm")
    p.finish()


def molmo2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Attention pools several layers' patches, a gated part brings them to the text's width."""
    a = c.sub("adapter_config")
    a.modernize({"vit_layers": "vision_feature_layer"})
    layers, inside = a.resolved("vision_feature_layer"), a.size("hidden_size")
    a.require(isinstance(layers, list), "vision_feature_layer", "a list of layer numbers")
    x = b.opaque("features", inside * len(layers), (), (b.input,))
    heads, kv_heads = a.size("num_attention_heads"), a.size("num_key_value_heads")
    h = blocks.Heads(heads, kv_heads, a.size("head_dim"))
    p, bias = b.part("image_pooling_2d", "attention"), a.flag("attention_bias")
    q, k, value = (
        p.linear(x, f"{name}_proj", wide, bias=bias)
        for name, wide in (("q", h.q_width), ("k", h.kv_width), ("v", h.kv_width))
    )
    y = p.attention(q, k, value, heads=h.heads, kv_heads=h.kv_heads, causal=False)
    y = p.linear(y, "o_proj", inside, bias=bias, split="row")
    f, inner, bias = b.part("image_projector"), a.size("intermediate_size"), a.flag("mlp_bias")
    gate = f.activation(f.linear(y, "gate_proj", inner, bias=bias), a.word("hidden_act"))
    gate = f.multiply(gate, f.linear(y, "up_proj", inner, bias=bias))
    f.linear(gate, "down_proj", a.size("text_hidden_size"), split="row")
    a.finish()


def aria(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Learned queries attend to the patches through projections of projections."""
    counts = c.resolved("projector_patch_to_query_dict") or ARIA_QUERIES
    known = isinstance(counts, Mapping) and all(isinstance(n, int) for n in counts.values())
    c.require(known and bool(counts), "projector_patch_to_query_dict", "patches -> queries")
    inside, heads = t.width, v.size("num_attention_heads")
    query = b.weight("query", max(counts.values()), inside, kind="embedding")
    a = b.part("cross_attn", "attention")
    context = a.layer_norm(b.input, "layer_norm_kv")
    x = a.layer_norm(b.opaque("query", inside, (query,)), "layer_norm")
    q = a.linear(x, "q_proj", inside)
    k, value = (a.linear(context, f"{name}_proj", inside) for name in "kv")
    m = a.part("multihead_attn")
    weights = (m.weight("in_proj_weight", 3 * inside, inside), m.weight("in_proj_bias", 3 * inside))
    q = m.opaque("in_proj", inside, weights, (q, k, value), flops_per_token=6 * inside * inside)
    out = m.attention(q, q, q, heads=heads, kv_heads=heads, causal=False)
    out = m.linear(out, "out_proj", inside, bias=True, split="row")
    x = b.layer_norm(a.linear(out, "linear", inside, bias=True, split="row"), "layer_norm")
    f = b.part("feed_forward")
    y = f.activation(f.linear(x, "linear_in", width), "gelu_new")
    f.linear(y, "linear_out", width, split="row")


def blip2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Learned queries read the patches, and a linear brings them to the text's width."""
    q = c.sub("qformer_config")
    q.given["encoder_hidden_size"] = t.width  # whatever it says
    shape = (1, c.size("num_query_tokens"), q.size("hidden_size"))
    c.ignore("image_text_hidden_size", "initializer_factor")
    tokens = b.weight("query_tokens", *shape, kind="embedding")
    queries = b.opaque("query_tokens", shape[2], (tokens,))
    x = qformer(b.part("qformer"), q, queries, b.input)
    b.linear(x, "language_projection", width, bias=True, split="whole")
    q.finish()


# The width of a head of Granite 4 Vision's Q-Formers (configuration_granite4_vision.py).
GRANITE_HEAD = 64
# How many projectors of Granite 4 Vision each read every other row and column, from one of the
# four places that a patch can have among its neighbours (modeling_granite4_vision.py).
SPATIAL_PROJECTORS = 4


def granite4_vision(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A Q-Former over windows of patches for each of several layers of the tower."""
    c.ignore("spatial_vision_layer", "spatial_target_layers", "projector_dropout")
    rate = c.word("downsample_rate")
    sides = [int(side) for side in rate.split("/") if side.isdecimal()]
    c.require(len(sides) == 2 and min(sides) > 0, "downsample_rate", 'such as "4/8"')
    layers = c.raw("deepstack_layer_map")
    c.require(isinstance(layers, list), "deepstack_layer_map", "a list of pairs of layers")
    names = [f"layerwise_projectors.{i}" for i in range(len(layers))]
    names += [f"spatial_projectors.{i}" for i in range(SPATIAL_PROJECTORS)]
    for name in names:
        p, q = b.part(name), c.sub("qformer_config")
        q.given |= {
            "hidden_size": t.width,
            "encoder_hidden_size": t.width,
            "num_attention_heads": t.width // GRANITE_HEAD,
        }
        x = p.layer_norm(b.input, "norm")
        x = learned(p, x, "image_positions", 1, sides[1] ** 2, t.width)
        queries = learned(p, p.make(t.width), "query", 1, sides[0] ** 2, t.width)
        x = qformer(p.part("qformer"), q, queries, x)
        p.linear(x, "out_linear", width, bias=True, split="whole")
        q.finish()
