"""Vision towers of LFM3 (convolutions among the layers) and Granite Docling (two routes out)."""

from __future__ import annotations

from planner.model.assemble import layer_types, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.vision_layers import (
    NONE,
    Names,
    attention_names,
    pair,
    patch_projection,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, siglip
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

CONV, FULL = "conv", "full_attention"
LFM_NAMES = Names(
    ("operator_norm", "ffn_norm"),
    *attention_names("self_attn", "out_proj"),
    feed=tuple(f"feed_forward.{name}" for name in ("w1", "w3", "w2")),
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
    rms=True,
    gated=True,
)


def lfm3(c: Config, prefix: str) -> Tower:
    """Gated convolutions over neighbouring patches, attention in every other layer."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("spatial_merge_size")
    c.divides("hidden_size", "num_attention_heads")
    count = layers_of(c)
    kinds = layer_types(c, count, lambda i: CONV if i < 2 or i % 2 else FULL, known=(CONV, FULL))
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    shape = (c.size("in_channels") * c.size("temporal_patch_size") * side[0] * side[1],)
    b.rms_norm(patch_projection(e, "patch_embed", width, *shape, bias=False), "embedding_norm")
    layers = {kind: lfm3_layer(c, width, kind) for kind in set(kinds)}
    places = [Placed(f"{prefix}layers.{i}.", layers[kind]) for i, kind in enumerate(kinds)]
    return Tower((Placed(prefix, b.block()), *places), width)


def lfm3_layer(c: Config, width: int, kind: str) -> Block:
    kernel = c.size("conv_kernel_size")

    def gated_convolution(b: BlockBuilder, x: Tensor) -> Tensor:
        m = b.part("conv", "state_space")
        before, after, value = m.split(m.linear(x, "in_proj", 3 * width), *(width,) * 3)
        y = m.multiply(before, value)
        y = convolution(m, y, "spatial_conv", width, width, kernel, groups=width)
        return m.linear(m.multiply(after, y), "out_proj", width, split="row")

    return vision_layer(
        LFM_NAMES,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        "silu",
        NONE,
        rotary=True,
        kv_heads=c.size("num_key_value_heads"),
        mixer=gated_convolution if kind == CONV else None,
    )


# ---- Granite Docling ----------------------------------------------------------------------------


def granite_docling(c: Config, prefix: str) -> Tower:
    """SigLIP, and a connector with a coarse and a fine route, each with mergers of some layers."""
    built = siglip(c, prefix)
    width, out, factor = built.width, c.size("out_hidden_size"), c.size("scale_factor")
    deep = c.resolved("deepstack_visual_indexes")
    c.require(isinstance(deep, list), "deepstack_visual_indexes", "a list of layer numbers")
    end = BlockBuilder("connector", width, sequence="image")
    p = end.part("connector", "other")
    x = p.layer_norm(p.input, "ln_in")
    routes = [("coarse", factor)]
    if c.flag("use_fine_route", True):
        routes.append(("fine", factor // 2))
    for name, times in routes:
        y = route(p.part(name), x, width * times**2, out, len(deep))
    y = p.linear(p.layer_norm(y, "ln_mid"), "mlp_fc2", out, split="row")
    p.layer_norm(y, "ln_out")
    return Tower((*built.places, Placed(prefix, end.block())), out)


def route(b: BlockBuilder, x: Tensor, wide: int, out: int, mergers: int) -> Tensor:
    joined = b.opaque("join", wide, (), (x,))
    for i in range(mergers):
        m = b.part(f"deepstack_mergers.{i}")
        y = m.linear(m.layer_norm(joined, "layer_norm"), "linear_1", out, bias=True)
        m.linear(m.activation(y, "gelu"), "linear_2", out, bias=True, split="row")
    return b.linear(joined, "projection", out)
