"""DaViT, Florence 2's encoder: attention over windows of patches and over groups of channels."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

DEPTHWISE_KERNEL = 3
LISTS = ("depths", "patch_size", "embed_dim", "num_heads", "num_groups")


def davit(c: Config, prefix: str) -> Tower:
    """Source: arXiv 2204.03645, section 3; Transformers' modeling_florence2."""
    c.ignore("patch_stride", "patch_padding", "drop_path_rate", "projection_dim")
    c.ignore("max_temporal_embeddings", "max_position_embeddings")
    depths, sides, widths, heads, groups = (c.sizes(name) or () for name in LISTS)
    normed_before = c.raw("patch_prenorm")
    same = {len(depths), len(sides), len(widths), len(heads), len(groups)}
    known = isinstance(normed_before, list) and same == {len(normed_before)}
    c.require(known, "embed_dim", f"as many stages as {', '.join((*LISTS, 'patch_prenorm'))}")
    before, places = c.size("in_channels"), []
    for i, width in enumerate(widths):
        b = BlockBuilder("stage embedding", before, sequence="image")
        e = b.part(f"convs.{i}", "embedding")
        x = e.layer_norm(e.input, "norm") if normed_before[i] else e.input
        x = convolution(e, x, "conv", before, width, sides[i], bias=True)
        if not normed_before[i]:
            e.layer_norm(x, "norm")
        places.append(Placed(prefix, b.block()))
        block = stage_block(c, width, heads[i], groups[i])
        places += [Placed(f"{prefix}blocks.{i}.{j}.", block) for j in range(depths[i])]
        before = width
    return Tower(tuple(places), before)


def stage_block(c: Config, width: int, heads: int, groups: int) -> Block:
    window, inner = c.size("window_size"), int(width * c.number("mlp_ratio", 4))
    bias, activation = c.flag("qkv_bias"), c.word("activation_function")
    for name, count in (("num_heads", heads), ("num_groups", groups)):
        c.require(count > 0 and width % count == 0, name, f"divisors of embed_dim {width}")
    b = BlockBuilder("windows and channels", width, sequence="image")

    def half(x: Tensor, name: str, module: str, count: int) -> Tensor:
        p = b.part(name)
        x = p.add(x, depthwise(p, x, "conv1"))
        a = p.part(module, "attention")
        y = a.linear(p.layer_norm(x, "norm1"), "qkv", 3 * width, bias=bias)
        q, k, v = a.split(y, width, width, width)
        reach = window * window if module == "window_attn" else None
        y = a.attention(q, k, v, heads=count, kv_heads=count, window=reach, causal=False)
        x = p.add(x, a.linear(y, "proj", width, bias=True, split="row"))
        x = p.add(x, depthwise(p, x, "conv2"))
        f = p.part("ffn", "feed_forward")
        y = f.activation(f.linear(p.layer_norm(x, "norm2"), "fc1", inner, bias=True), activation)
        return p.add(x, f.linear(y, "fc2", width, bias=True, split="row"))

    half(
        half(b.input, "spatial_block", "window_attn", heads),
        "channel_block",
        "channel_attn",
        groups,
    )
    return b.block()


def depthwise(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return convolution(b, x, name, x.width, x.width, DEPTHWISE_KERNEL, groups=x.width, bias=True)
