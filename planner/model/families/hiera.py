"""Hiera and FocalNet: stages of layers without convolutions, and of layers that are modulated."""

from __future__ import annotations

from math import prod

from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, per_channel
from planner.model.families.image_classifiers import factor, finished, per_stage
from planner.model.families.vision_layers import learned, pair, patch_projection
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


def build(c: Config) -> ModelSpec:
    c.ignore("drop_path_rate", "out_features", "out_indices", "stage_names")
    return hiera(c) if c.model_type == "hiera" else focalnet(c)


def depths_of(c: Config) -> tuple[int, ...]:
    depths = c.sizes("depths") or ()
    fits = bool(depths) and min(depths) > 0 and sum(depths) <= MOST_LAYERS
    c.require(fits, "depths", f"numbers of layers above 0, in all at most {MOST_LAYERS}")
    return depths


def feed_forward(b: BlockBuilder, x: Tensor, inner: int, activation: str) -> Tensor:
    f = b.part("mlp", "feed_forward")
    y = f.activation(f.linear(x, "fc1", inner, bias=True), activation)
    return f.linear(y, "fc2", x.width, bias=True, split="row")


# ---- Hiera: attention within units of a mask; queries are pooled from stage to stage -------------


def hiera(c: Config) -> ModelSpec:
    c.ignore("num_layers", "hidden_size", "masked_unit_attention", "num_query_pool")
    c.ignore("masked_unit_size", "query_stride", "layer_norm_init", "patch_padding", "mask_ratio")
    c.ignore("decoder_hidden_size", "decoder_depth", "decoder_num_heads", "normalize_pixel_loss")
    width, times, depths = c.size("embed_dim"), factor(c, "embed_dim_multiplier"), depths_of(c)
    heads = [own[0] for own in per_stage(c, len(depths), "num_heads")]
    sides, strides = c.sizes("image_size") or (), c.sizes("patch_stride") or ()
    fits = len(sides) == len(strides) == 2 and min(*sides, *strides) > 0
    c.require(fits, "patch_stride", "height and width, as image_size")
    tokens = prod(side // stride for side, stride in zip(sides, strides, strict=True))
    b = BlockBuilder("patch embedding", width, sequence="image")
    e, patch = b.part("hiera.embeddings", "embedding"), pair(c, "patch_size")
    x = patch_projection(e, "patch_embeddings.projection", width, c.size("num_channels"), *patch)
    learned(e, x, "position_embeddings", 1, tokens, width)
    places, before = [], width
    for i, depth in enumerate(depths):
        after = int(width * times**i)
        fits = after > 0 and after % heads[i] == 0
        c.require(fits, "num_heads", f"divisors of the widths: {heads[i]} of {after}")
        prefix = f"hiera.encoder.stages.{i}.layers."
        made = (hiera_layer(c, before, after, heads[i]), hiera_layer(c, after, after, heads[i]))
        places += [Placed(f"{prefix}{j}.", made[min(j, 1)]) for j in range(depth)]
        before = after
    end = BlockBuilder("head", before, sequence="image")
    x = end.layer_norm(end.input, "hiera.pooler.layernorm")
    return finished(c, b.block(), places, end, x, "classifier")


def hiera_layer(c: Config, before: int, after: int, heads: int) -> Block:
    """A stage's first layer also widens."""
    b = BlockBuilder("layer", before, sequence="image")
    a = b.part("attn", "attention")
    x = b.layer_norm(b.input, "layernorm_before")
    q, k, v = a.split(a.linear(x, "qkv", 3 * after, bias=True), after, after, after)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    y = a.linear(out, "proj", after, bias=True, split="row")
    x = b.input if before == after else b.linear(x, "proj", after, bias=True)
    x = b.add(x, y)
    inner = int(after * factor(c, "mlp_ratio"))
    y = feed_forward(b, b.layer_norm(x, "layernorm_after"), inner, c.word("hidden_act"))
    b.add(x, y)
    return b.block()


# ---- FocalNet: focal modulation in place of attention --------------------------------------------

# Kernels and growth of the windows that Transformers' modeling_focalnet fixes.
STEM_KERNEL, DOWN_KERNEL, DOWN_PATCH, WINDOW_STEP = 7, 3, 2, 2


def focalnet(c: Config) -> ModelSpec:
    c.ignore("hidden_sizes", "image_size", "layerscale_value", "use_post_layernorm")
    c.ignore("normalize_modulator", "encoder_stride", "num_stages")
    width, depths, channels = c.size("embed_dim"), depths_of(c), c.size("num_channels")
    convolved, patch = c.flag("use_conv_embed"), pair(c, "patch_size")
    found = per_stage(c, len(depths), "focal_levels", "focal_windows")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("focalnet.embeddings", "embedding")
    kernel = (STEM_KERNEL, STEM_KERNEL) if convolved else patch
    x = patch_projection(e, "patch_embeddings.projection", width, channels, *kernel)
    e.layer_norm(x, "norm")
    places = []
    for i, (depth, (levels, window)) in enumerate(zip(depths, found, strict=True)):
        size, prefix = width * 2**i, f"focalnet.encoder.stages.{i}."
        made = focal_layer(c, size, levels, window)
        places += [Placed(f"{prefix}layers.{j}.", made) for j in range(depth)]
        if i + 1 < len(depths):
            d = BlockBuilder("downsample", size, sequence="image")
            p = d.part("downsample", "other")
            side = DOWN_KERNEL if convolved else DOWN_PATCH
            p.layer_norm(patch_projection(p, "projection", 2 * size, size, side, side), "norm")
            places.append(Placed(prefix, d.block()))
    end = BlockBuilder("head", size, sequence="image")
    x = end.layer_norm(end.input, "focalnet.layernorm")
    return finished(c, b.block(), places, end, x, "classifier")


def focal_layer(c: Config, width: int, levels: int, window: int) -> Block:
    """Each level sees a wider window; gates weigh the levels and the whole image."""
    b = BlockBuilder("layer", width, sequence="image")
    m, scaled = b.part("modulation", "attention"), c.flag("use_layerscale")
    x = b.layer_norm(b.input, "norm1")
    gates = levels + 1
    parts = m.linear(x, "projection_in", 2 * width + gates, bias=True)
    query, context, _ = m.split(parts, width, width, gates)
    for level in range(levels):
        kernel, name = WINDOW_STEP * level + window, f"focal_layers.{level}.0"
        context = convolution(m, context, name, width, width, kernel, groups=width)
    context = convolution(m, context, "projection_context", width, width, bias=True)
    y = m.multiply(query, context)
    if c.flag("use_post_layernorm_in_modulation"):
        y = m.layer_norm(y, "layernorm")
    y = m.linear(y, "projection_out", width, bias=True, split="row")
    x = b.add(b.input, per_channel(b, y, "gamma_1") if scaled else y)
    inner = int(width * factor(c, "mlp_ratio"))
    y = feed_forward(b, b.layer_norm(x, "norm2"), inner, c.word("hidden_act"))
    b.add(x, per_channel(b, y, "gamma_2") if scaled else y)
    return b.block()
