"""Swin, Donut's Swin and Swin v2: attention in windows, patches merged from stage to stage."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.image_classifiers import finished
from planner.model.families.vision_layers import (
    Biases,
    Names,
    attention_names,
    bert_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.heads import kind_of_head
from planner.model.operations import Block, Weight
from planner.model.spec import ModelSpec, Placed

HEADS = ("images", "bare")
PREFIXES = {"donut-swin": "donut"}
# The table of relative positions, and the other names of a layer.
LAYERS = {
    "swin": (
        "attention.relative_position_bias.relative_position_bias_table",
        Names(("layernorm_before", "layernorm_after"), *attention_names("attention", "o_proj")),
    ),
    "donut-swin": ("attention.self.relative_position_bias_table", bert_names("self")),
}
UNUSED = ("drop_path_rate", "encoder_stride", "stage_names", "out_features", "out_indices")
# Width of the small network that makes Swin v2's position biases.
POSITION_WIDTH = 512


def build(c: Config) -> ModelSpec:
    c.ignore(*UNUSED, "num_layers", "hidden_size", "pretrained_window_sizes", "path_norm")
    bare, second = kind_of_head(c) == "bare", c.model_type == "swinv2"
    name = "" if bare else f"{PREFIXES.get(c.model_type, c.model_type)}."
    donut = c.model_type == "donut-swin"
    width, side = c.size("embed_dim"), pair(c, "patch_size")
    depths, heads = c.sizes("depths") or (), c.sizes("num_heads") or ()
    same = bool(depths) and len(depths) == len(heads) and min(*depths, *heads) > 0
    c.require(same, "num_heads", f"{len(depths)} numbers, as many as depths")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part(f"{name}embeddings", "embedding")
    channels = c.size("num_channels")
    x = patch_projection(e, "patch_embeddings.projection", width, channels, *side)
    if c.flag("use_absolute_embeddings"):
        x = learned(e, x, "position_embeddings", 1, patches(c) + (second or donut), width)
    e.layer_norm(x, "norm")
    patches(c)
    places = []
    for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        size = width * 2**i
        c.require(size % count == 0, "num_heads", f"divisors of the widths: {count} of {size}")
        prefix = f"{name}encoder.layers.{i}."
        layer = swin2_layer(c, size, count) if second else swin_layer(c, size, count)
        places += [Placed(f"{prefix}blocks.{j}.", layer) for j in range(depth)]
        if i + 1 < len(depths):
            places.append(Placed(prefix, merging(size, second)))
    end = BlockBuilder("head", size, sequence="image")
    x = end.input if donut else end.layer_norm(end.input, f"{name}layernorm")
    return finished(c, b.block(), places, end, x, None if bare else "classifier")


def merging(width: int, second: bool) -> Block:
    """Four patches become one of twice the width; v2 norms afterwards."""
    b = BlockBuilder("downsample", width, sequence="image")
    d = b.part("downsample", "other")
    x = d.opaque("join", 4 * width, (), (d.input,))
    if second:
        d.layer_norm(d.linear(x, "reduction", 2 * width), "norm")
    else:
        d.linear(d.layer_norm(x, "norm"), "reduction", 2 * width)
    return b.block()


def swin_layer(c: Config, width: int, heads: int) -> Block:
    bias, window = c.flag("qkv_bias"), c.size("window_size")
    table, names = LAYERS[c.model_type]
    rows = (2 * window - 1) ** 2
    return vision_layer(
        names,
        width,
        heads,
        int(c.number("mlp_ratio", 4.0) * width),
        c.word("hidden_act"),
        Biases(bias, bias, bias),
        window=window * window,
        extra=(Weight(table, (rows, heads), "embedding"),),
    )


def swin2_layer(c: Config, width: int, heads: int) -> Block:
    """Norms after each branch, cosine attention, position biases from a small network."""
    b = BlockBuilder("layer", width, sequence="image")
    bias, window = c.flag("qkv_bias"), c.size("window_size")
    inner, activation = int(c.number("mlp_ratio", 4.0) * width), c.word("hidden_act")
    a = b.part("attention", "attention")
    network = "self.continuous_position_bias_mlp"
    weights = (
        a.weight("self.logit_scale", heads, 1, 1, kind="vector"),
        a.weight(f"{network}.0.weight", POSITION_WIDTH, 2),
        a.weight(f"{network}.0.bias", POSITION_WIDTH),
        a.weight(f"{network}.2.weight", heads, POSITION_WIDTH),
    )
    names = (("query", bias), ("key", False), ("value", bias))
    q, k, v = (a.linear(b.input, f"self.{name}", width, bias=has) for name, has in names)
    facts = {"heads": heads, "kv_heads": heads, "window": window * window}
    out = a.attention(q, k, v, **facts, causal=False, weights=weights)
    y = a.linear(out, "output.dense", width, bias=True, split="row")
    x = b.add(b.input, b.layer_norm(y, "layernorm_before"))
    f = b.part("", "feed_forward")
    y = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), activation)
    y = f.linear(y, "output.dense", width, bias=True, split="row")
    b.add(x, b.layer_norm(y, "layernorm_after"))
    return b.block()
