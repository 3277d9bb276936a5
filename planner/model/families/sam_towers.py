"""Segment Anything's encoder, alone (GOT-OCR2) or beside a second one of lower resolution.

DeepSeek-VL's hybrid and Unlimited OCR shrink what it puts out by two convolutions with stride 2
and set it beside the patches of SigLIP or CLIP.
"""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.vision_layers import (
    GATED_FEED,
    Biases,
    Names,
    attention_names,
    learned,
    patch_projection,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, clip, stacked
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import Placed

SAM_NAMES = Names(
    ("layer_norm1", "layer_norm2"), ("attn.qkv",), "attn.proj", ("mlp.lin1", "mlp.lin2")
)
QWEN2_NAMES = Names(
    ("input_layernorm", "post_attention_layernorm"),
    *attention_names("self_attn", "o_proj"),
    feed=GATED_FEED,
    rms=True,
    gated=True,
)
STRIDED_KERNEL = 3


def segment_anything(c: Config, prefix: str) -> Tower:
    """Attention in windows, global in some layers, each with relative positions; a neck."""
    width, side, channels = c.size("hidden_size"), c.size("patch_size"), c.size("num_channels")
    grid, window = c.size("image_size") // side, c.size("window_size")
    heads, out = c.size("num_attention_heads"), c.size("output_channels")
    c.divides("hidden_size", "num_attention_heads")
    c.ignore("num_pos_feats", "mlp_ratio", "downsample_channels")
    inner = c.optional("mlp_dim") or int(width * c.number("mlp_ratio", 4))
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    x = patch_projection(e, "patch_embed.projection", width, channels, side, side)
    if c.flag("use_abs_pos"):
        learned(e, x, "pos_embed", 1, grid, grid, width)
    bias = c.flag("qkv_bias")
    everywhere = c.sizes("global_attn_indexes") or ()

    def layer(reach: int) -> Block:
        rows = 2 * reach - 1
        weights: tuple[Weight, ...] = ()
        names = BlockBuilder("vision layer", width, sequence="image")
        if c.flag("use_rel_pos"):
            weights = tuple(
                names.weight(f"attn.rel_pos_{axis}", rows, width // heads, kind="embedding")
                for axis in "hw"
            )
        return vision_layer(
            SAM_NAMES,
            width,
            heads,
            inner,
            c.word("hidden_act"),
            Biases(query=bias),
            extra=weights,
        )

    near, far = layer(window), layer(grid)
    places = [Placed(prefix, b.block())]
    places += [
        Placed(f"{prefix}layers.{i}.", far if i in everywhere else near)
        for i in range(layers_of(c))
    ]
    end = BlockBuilder("neck", width, sequence="image")
    neck(end.part("neck", "other"), end.input, out)
    places.append(Placed(prefix, end.block()))
    return Tower(tuple(places), out)


def neck(b: BlockBuilder, x: Tensor, out: int) -> Tensor:
    """Two convolutions, each with a norm over the channels."""
    x = b.layer_norm(convolution(b, x, "conv1", x.width, out), "layer_norm1")
    return b.layer_norm(convolution(b, x, "conv2", out, out, STRIDED_KERNEL), "layer_norm2")


def shrinking(
    b: BlockBuilder,
    x: Tensor,
    names: tuple[str, str],
    widths: tuple[int, int],
    *,
    bias: bool = False,
) -> Tensor:
    """Two convolutions that halve both sides: a quarter of the tokens is left after each."""
    for i, (name, out) in enumerate(zip(names, widths, strict=True), 1):
        x = convolution(b, x, name, x.width, out, STRIDED_KERNEL, bias=bias, shrunk=2**i)
    return x


def formulanet(c: Config, prefix: str) -> Tower:
    """Segment Anything, shrunk, and two linears to the decoder's width."""
    sam = segment_anything(c, prefix)
    widths = (c.size("post_conv_mid_channels"), c.size("post_conv_out_channels"))
    out = c.size("decoder_hidden_size")
    b = BlockBuilder("shrinking", c.size("post_conv_in_channels"), sequence="image")
    p = b.part("multi_modal_projector", "other")
    x = shrinking(p, p.input, ("conv1", "conv2"), widths)
    p.linear(p.linear(x, "linear_1", widths[1], bias=True), "linear_2", out, bias=True)
    return Tower((*sam.places, Placed(prefix, b.block())), out)


def unlimited_ocr(c: Config, prefix: str) -> Tower:
    """Segment Anything, shrunk, and CLIP: what both put out lies side by side."""
    fine, coarse = shrunk(c.sub("sam_config"), f"{prefix}sam_encoder."), c.sub("encoder_config")
    other = clip(coarse, f"{prefix}vision_encoder.")
    warnings = (*fine.warnings, *coarse.finish())
    return Tower((*fine.places, *other.places), fine.width + other.width, warnings)


def shrunk(c: Config, prefix: str) -> Tower:
    """Segment Anything and the two convolutions after it."""
    sam = segment_anything(c, prefix)
    widths = tuple(c.resolved("downsample_channels") or ())
    c.require(len(widths) == 2, "downsample_channels", "two sizes")
    b = BlockBuilder("shrinking", sam.width, sequence="image")
    shrinking(b.part("proj", "other"), b.input, ("conv1", "conv2"), (widths[0], widths[1]))
    return Tower((*sam.places, Placed(prefix, b.block())), widths[1], c.finish())


# Tokens that DeepSeek-OCR 2 reads a picture into, by the picture's side in pixels
# (modeling_deepseek_ocr2.py).
QUERIES = {768: 144, 1024: 256}


def deepseek_ocr2(c: Config, prefix: str) -> Tower:
    """Segment Anything, shrunk, and Qwen2's layers over its patches and learned queries."""
    fine, coarse = shrunk(c.sub("sam_config"), f"{prefix}sam_encoder."), c.sub("encoder_config")
    width, heads = coarse.size("hidden_size"), coarse.size("num_attention_heads")
    coarse.divides("hidden_size", "num_attention_heads")
    coarse.ignore("vocab_size", "max_position_embeddings", "layer_types", "max_window_layers")
    coarse.ignore("use_sliding_window", "sliding_window", "tie_word_embeddings")
    b = BlockBuilder("queries", width, sequence="image")
    x = b.input
    for side, number in QUERIES.items():
        x = learned(b, x, f"query_{side}_resolution.weight", number, width)
    layer = vision_layer(
        QWEN2_NAMES,
        width,
        heads,
        coarse.size("intermediate_size"),
        coarse.word("hidden_act"),
        Biases(output=False, feed=False),
        rotary=True,
        kv_heads=coarse.optional("num_key_value_heads"),
    )
    layers, norm = "vision_encoder.layers.{}", "vision_encoder.norm"
    rest = stacked(coarse, prefix, width, b, layer, layers, lambda b, x: b.rms_norm(x, norm))
    places = (*fine.places, *rest.places)
    return Tower(places, width, (*fine.warnings, *coarse.finish()))
