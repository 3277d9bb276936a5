"""What sees and hears in Muse: windows of patches, convolutions over sound."""

from __future__ import annotations

from planner.model.assemble import layer_types, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import (
    Names,
    attention_names,
    learned,
    pair,
    patch_projection,
    vision_layer,
)
from planner.model.families.vision_towers import COLOURS, Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

NAMES = Names(("norm1", "norm2"), *attention_names("attn", "proj"))


def vision(c: Config, prefix: str) -> Tower:
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("merge_size", "max_position_embeddings")
    c.divides("hidden_size", "num_attention_heads")
    count = layers_of(c)
    layer_types(c, count, lambda i: "full_attention", known=("full_attention", "window_attention"))
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("patch_embedder", "embedding")
    pixels = c.size("patch_temporal") * COLOURS * side[0] * side[1]
    x = patch_projection(e, "patch_embedding", width, pixels, bias=False)
    rows = c.size("pos_emb_height") * c.size("pos_emb_width")
    b.layer_norm(learned(e, x, "position_embedding_table.weight", rows, width), "ln_pre")
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    layer = vision_layer(NAMES, width, heads, inner, c.word("hidden_act"), rotary=True)
    end = BlockBuilder("vision end", width, sequence="image")
    end.layer_norm(end.input, "ln_post")
    places = [Placed(f"{prefix}layers.{i}.", layer) for i in range(count)]
    return Tower((Placed(prefix, b.block()), *places, Placed(prefix, end.block())), width)


def sound(c: Config, prefix: str) -> Tower:
    """Each stage joins samples to wider tokens, then convolves over time."""
    out, stages = c.size("out_hidden_size"), layers_of(c)
    sides, widths, depths = (
        c.sizes(name) or () for name in ("patch_sizes", "hidden_sizes", "depths")
    )
    same = len(sides) == len(widths) == len(depths) == stages
    c.require(same, "num_hidden_layers", "as many as patch_sizes, hidden_sizes and depths")
    places = [
        Placed(f"{prefix}layers.{i}.", stage(c, before * side, width, depth))
        for i, (before, side, width, depth) in enumerate(
            zip((1, *widths[:-1]), sides, widths, depths, strict=True)
        )
    ]
    end = BlockBuilder("audio end", widths[-1], sequence="audio")
    x = end.rms_norm(end.input, "norm")
    end.rms_norm(end.part("", "other").linear(x, "proj", out, bias=True), "post_proj_norm")
    return Tower((*places, Placed(prefix, end.block())), out)


def stage(c: Config, joined: int, width: int, depth: int) -> Block:
    b = BlockBuilder("audio stage", joined, sequence="audio")
    e = b.part("patch_embedder", "embedding")
    x = e.rms_norm(e.linear(e.input, "proj", width, bias=True, split="whole"), "norm")
    inner, activation = int(width * c.number("mlp_ratio", 4)), c.word("hidden_act")
    kernel = c.size("conv_kernel_size")
    for i in range(depth):
        p = b.part(f"conv_blocks.{i}", "feed_forward")
        y: Tensor = p.opaque(
            "conv",
            width,
            (p.weight("conv.weight", width, 1, kernel), p.weight("conv.bias", width)),
            (x,),
            flops_per_token=2 * width * kernel,
        )
        y = p.linear(p.rms_norm(y, "norm"), "mlp.fc1", inner, bias=True)
        y = p.linear(p.activation(y, activation), "mlp.fc2", width, bias=True, split="row")
        x = p.add(x, y)
    return b.block()
