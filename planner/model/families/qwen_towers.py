"""Vision towers of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5, with the merger at their end.

Patches of two frames are one token; a merger joins spatial_merge_size squared of them and brings
them to the language model's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import (
    GATED_FEED,
    Names,
    learned,
    pair,
    patch_projection,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, ends_in, stacked
from planner.model.operations import Tensor

UNUSED = (
    *("spatial_patch_size", "in_chans", "tokens_per_second", "window_size"),
    *("fullatt_block_indexes", "initializer_range", "hidden_act"),
)
PLAIN = Names(("norm1", "norm2"), ("attn.qkv",), "attn.proj")
GATED = Names(
    ("norm1", "norm2"),
    ("attn.qkv",),
    "attn.proj",
    GATED_FEED,
    rms=True,
    gated=True,
)
THIRD = Names(("norm1", "norm2"), ("attn.qkv",), "attn.proj", ("mlp.linear_fc1", "mlp.linear_fc2"))


def _tower(
    c: Config,
    prefix: str,
    width: int,
    inner: int,
    names: Names,
    last: Callable[[BlockBuilder, Tensor], None],
    *,
    patch_bias: bool,
    positions: int | None = None,
    kv_heads: int | None = None,
) -> Tower:
    c.ignore(*UNUSED)
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    frames, side = c.size("temporal_patch_size"), pair(c, "patch_size")
    shape = (c.size("in_channels"), frames, *side)
    x = patch_projection(e, "patch_embed.proj", width, *shape, bias=patch_bias)
    if positions:
        learned(e, x, "pos_embed.weight", positions, width)
    heads = c.size("num_heads")
    c.require(width % heads == 0, "num_heads", f"a divisor of {width}")
    activation = c.word("hidden_act")
    layer = vision_layer(names, width, heads, inner, activation, rotary=True, kv_heads=kv_heads)
    return stacked(c, prefix, width, b, layer, "blocks.{}", last, layers_of(c, "depth"))


def merged_width(c: Config, width: int) -> int:
    return width * c.size("spatial_merge_size") ** 2


def two_linears(b: BlockBuilder, x: Tensor, wide: int, out: int, names: tuple[str, str]) -> None:
    """Several patches side by side through two linears; priced per patch."""
    joined = b.opaque("join", wide, (), (x,))
    y = b.activation(b.linear(joined, names[0], wide, bias=True), "gelu")
    b.linear(y, names[1], out, bias=True, split="row")


def qwen2_vl(c: Config, prefix: str) -> Tower:
    width = c.size("embed_dim")
    inner, wide = int(width * c.number("mlp_ratio", 4)), merged_width(c, width)
    out = c.size("hidden_size")

    def last(b: BlockBuilder, x: Tensor) -> None:
        m = b.part("merger", "other")
        two_linears(m, m.layer_norm(x, "ln_q"), wide, out, ("mlp.0", "mlp.2"))

    return _tower(c, prefix, width, inner, PLAIN, last, patch_bias=False)


def qwen2_5_vl(c: Config, prefix: str) -> Tower:
    width, inner = c.size("hidden_size"), c.size("intermediate_size")
    wide, out = merged_width(c, width), c.size("out_hidden_size")

    def last(b: BlockBuilder, x: Tensor) -> None:
        m = b.part("merger", "other")
        two_linears(m, m.rms_norm(x, "ln_q"), wide, out, ("mlp.0", "mlp.2"))

    kv_heads = c.size("num_key_value_heads") if c.model_type == "exaone4_5_vision" else None
    names = GATED
    if c.model_type == "qwen2_5_omni_vision_encoder":
        names = replace(GATED, queries=tuple(f"attn.{name}" for name in "qkv"))
    return _tower(c, prefix, width, inner, names, last, patch_bias=False, kv_heads=kv_heads)


def ernie(c: Config, prefix: str) -> Tower:
    """ERNIE 4.5 VL: flattened patches of one frame, Qwen2-VL's layers, a norm at the end."""
    width, side, heads = c.size("hidden_size"), pair(c, "patch_size"), c.size("num_heads")
    c.ignore("spatial_merge_size", "temporal_merge_size")
    c.require(width % heads == 0, "num_heads", f"a divisor of {width}")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    pixels = c.size("in_channels") * side[0] * side[1]
    patch_projection(e, "patch_embed.proj", width, pixels, bias=False)
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    layer = vision_layer(PLAIN, width, heads, inner, activation, rotary=True)
    depth = layers_of(c, "depth")
    return stacked(c, prefix, width, b, layer, "blocks.{}", ends_in("ln"), depth)


def qwen3_vl(c: Config, prefix: str) -> Tower:
    """Deepstack: some layers' outputs go through mergers of their own into the text's layers."""
    width, inner = c.size("hidden_size"), c.size("intermediate_size")
    wide, out = merged_width(c, width), c.size("out_hidden_size")
    deep = len(c.sizes("deepstack_visual_indexes") or ())
    omni = c.model_type == "qwen3_omni_moe_vision_encoder"
    names = ("mlp.0", "mlp.2") if omni else ("linear_fc1", "linear_fc2")
    norm = "ln_q" if omni else "norm"
    mergers = "merger_list" if omni else "deepstack_merger_list"

    def last(b: BlockBuilder, x: Tensor) -> None:
        m = b.part("merger", "other")
        two_linears(m, m.layer_norm(x, norm), wide, out, names)
        for i in range(deep):
            d = b.part(f"{mergers}.{i}", "other")
            joined = d.layer_norm(d.opaque("join", wide, (), (x,)), norm)
            two_linears(d, joined, wide, out, names)

    positions = c.size("num_position_embeddings")
    return _tower(c, prefix, width, inner, THIRD, last, patch_bias=True, positions=positions)
