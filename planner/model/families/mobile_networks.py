"""Small networks for images, depthwise and pointwise convolutions in turn.

MobileNet v1 and v2, EfficientNet, PP-LCNet.
"""

from __future__ import annotations

from math import ceil

from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import (
    convolution,
    divisible,
    normalized,
    squeeze_excitation,
    with_norm,
)
from planner.model.families.image_classifiers import block, factor, finished, per_stage
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


def build(c: Config) -> ModelSpec:
    families = {
        "mobilenet_v1": mobilenet_v1,
        "mobilenet_v2": mobilenet_v2,
        "efficientnet": efficientnet,
        "pp_lcnet": pp_lcnet,
    }
    c.ignore("hidden_act", "tf_padding", "image_size", "output_stride")
    return families[c.model_type](c)


def inverted_residual(
    b: BlockBuilder, name: str, inputs: int, outputs: int, expanded: int, shrunk: int
) -> Tensor:
    """To more channels, a convolution of each, back to fewer."""
    inner = b.part(name)
    x = with_norm(inner, b.input, "expand_1x1", inputs, expanded, 1, shrunk=shrunk)
    x = with_norm(inner, x, "conv_3x3", expanded, expanded, 3, groups=expanded, shrunk=shrunk)
    return with_norm(inner, x, "reduce_1x1", expanded, outputs, 1, shrunk=shrunk)


# ---- MobileNet ----------------------------------------------------------------------------------

# Widths and strides are no fields of the config: they are the papers' tables (arXiv 1704.04861,
# table 1; arXiv 1801.04381, table 2), as in Transformers' modeling_mobilenet_v1 and _v2.
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
FIRST_CHANNELS = 32
V2_CHANNELS = (16, *(24,) * 2, *(32,) * 3, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)
V2_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
V2_LAST_CHANNELS = 1280


def mobilenet_v1(c: Config) -> ModelSpec:
    multiplier, least = factor(c, "depth_multiplier"), c.size("min_depth")
    depth, shrunk = FIRST_CHANNELS, 1
    after = max(int(depth * multiplier), least)
    first = block("stem", after)
    channels = c.size("num_channels")
    with_norm(first, first.input, "mobilenet_v1.conv_stem", channels, after, 3)
    places = []
    for i, stride in enumerate(V1_STRIDES):
        before, shrunk = after, shrunk * stride
        if stride == 2 or i == 0:
            depth *= 2
            after = max(int(depth * multiplier), least)
        b = block("layer", before)
        name = f"mobilenet_v1.layer.{2 * i}"
        x = with_norm(b, b.input, name, before, before, 3, groups=before, shrunk=shrunk)
        with_norm(b, x, f"mobilenet_v1.layer.{2 * i + 1}", before, after, 1, shrunk=shrunk)
        places.append(Placed("", b.block()))
    end = BlockBuilder("head", after, sequence="image")
    return finished(c, first.block(), places, end, end.input, "classifier")


def mobilenet_v2(c: Config) -> ModelSpec:
    multiplier, ratio = factor(c, "depth_multiplier"), factor(c, "expand_ratio")
    divisor, least = c.size("depth_divisible_by"), c.size("min_depth")
    fine = c.flag("finegrained_output") and multiplier < 1.0

    def wide(channels: int, by: float = multiplier) -> int:
        return divisible(round(channels * by), divisor, least)

    widths, stem = [wide(channels) for channels in V2_CHANNELS], wide(FIRST_CHANNELS)
    first = block("stem", stem)
    s = first.part("mobilenet_v2.conv_stem")
    x = with_norm(s, first.input, "first_conv", c.size("num_channels"), stem, 3)
    if not c.flag("first_layer_is_expansion"):
        x = with_norm(s, x, "expand_1x1", stem, stem, 1)
    x = with_norm(s, x, "conv_3x3", stem, stem, 3, groups=stem)
    with_norm(s, x, "reduce_1x1", stem, widths[0], 1)
    places, shrunk = [], 1
    for i, stride in enumerate(V2_STRIDES):
        before, after, shrunk = widths[i], widths[i + 1], shrunk * stride
        b = block("layer", before)
        inverted_residual(b, "", before, after, wide(before, ratio), shrunk)
        places.append(Placed(f"mobilenet_v2.layer.{i}.", b.block()))
    end = BlockBuilder("head", after, sequence="image")
    last = V2_LAST_CHANNELS if fine else wide(V2_LAST_CHANNELS)
    x = with_norm(end, end.input, "mobilenet_v2.conv_1x1", after, last, 1, shrunk=shrunk)
    return finished(c, first.block(), places, end, x, "classifier")


# ---- EfficientNet -------------------------------------------------------------------------------

# Widths before the first block and after the last, before scaling (arXiv 1905.11946, table 1).
STEM_CHANNELS, TOP_CHANNELS = 32, 1280


def efficientnet(c: Config) -> ModelSpec:
    """Inverted residuals with squeeze-and-excitation, scaled in width and depth."""
    c.ignore("depthwise_padding", "pooling_type", "dropout_rate", "drop_connect_rate")
    c.ignore("num_hidden_layers", "batch_norm_momentum")
    wider, deeper = factor(c, "width_coefficient"), factor(c, "depth_coefficient")
    divisor, squeeze = c.size("depth_divisor"), c.number("squeeze_expansion_ratio", 0.25)
    fields = ("in_channels", "out_channels", "kernel_sizes", "strides", "num_block_repeats")
    found = per_stage(c, len(c.sizes("in_channels") or ()), *fields, "expand_ratios")
    c.require(bool(found), "in_channels", "at least one stage")
    depths = [ceil(deeper * repeats) for *_, repeats, _ in found]
    c.require(sum(depths) <= MOST_LAYERS, "num_block_repeats", f"at most {MOST_LAYERS} layers")

    def wide(channels: int) -> int:
        return divisible(channels * wider, divisor)

    stem = wide(STEM_CHANNELS)
    first = block("stem", stem)
    names = ("convolution", "batchnorm")
    name = "efficientnet.embeddings"
    with_norm(first, first.input, name, c.size("num_channels"), stem, 3, names=names)
    places: list[Placed] = []
    shrunk = 1
    for (before, after, kernel, stride, _, ratio), depth in zip(found, depths, strict=True):
        shrunk *= stride
        for j in range(depth):
            inputs = wide(after if j else before)
            b = block("layer", inputs)
            x, inner = b.input, inputs * ratio
            if ratio != 1:
                names = ("expand_conv", "expand_bn")
                x = with_norm(b, x, "expansion", inputs, inner, 1, shrunk=shrunk, names=names)
            names = ("depthwise_conv", "depthwise_norm")
            name, kept = "depthwise_conv", {"groups": inner, "shrunk": shrunk}
            x = with_norm(b, x, name, inner, inner, kernel, **kept, names=names)
            narrow = max(1, int(inputs * squeeze))
            x = squeeze_excitation(b, x, "squeeze_excite", inner, narrow, ("reduce", "expand"))
            names = ("project_conv", "project_bn")
            with_norm(b, x, "projection", inner, wide(after), 1, shrunk=shrunk, names=names)
            places.append(Placed(f"efficientnet.encoder.blocks.{len(places)}.", b.block()))
    end = BlockBuilder("head", wide(after), sequence="image")
    inner_end = end.part("efficientnet.encoder")
    top = wide(TOP_CHANNELS)
    convolution(inner_end, end.input, "top_conv", wide(after), top, shrunk=shrunk)
    # the norm and the classifier take hidden_dim, which a checkpoint keeps equal to `top`
    x = normalized(inner_end, end.make(c.size("hidden_dim")), "top_bn")
    return finished(c, first.block(), places, end, x, "classifier")


# ---- PP-LCNet -----------------------------------------------------------------------------------

COLOURS = 3


def pp_lcnet(c: Config) -> ModelSpec:
    """Depthwise then pointwise convolutions, the last ones with squeeze-and-excitation."""
    c.ignore("stem_stride", "depths", "stage_names", "out_features", "out_indices")
    scale, divisor, reduction = factor(c, "scale"), c.size("divisor"), c.size("reduction")
    wanted = "stages of [kernel, inputs, outputs, stride, squeeze-and-excitation]"
    found = c.resolved("block_configs")
    c.require(isinstance(found, list | tuple) and bool(found), "block_configs", wanted)

    def wide(channels: int) -> int:
        return divisible(channels * scale, divisor)

    stem = wide(c.size("stem_channels"))
    first = block("stem", stem)
    with_norm(first, first.input, "encoder.convolution", COLOURS, stem, 3)
    places, shrunk = [], 1
    for i, stage in enumerate(found):
        c.require(isinstance(stage, list | tuple) and bool(stage), "block_configs", wanted)
        for j, own in enumerate(stage):
            fits = isinstance(own, list | tuple) and len(own) == 5
            fits = fits and all(isinstance(n, int) and n > 0 for n in own[:4])
            c.require(fits, "block_configs", wanted)
            kernel, inputs, outputs, stride, squeezed = own
            before, shrunk = wide(inputs), shrunk * stride
            b = block("layer", before)
            name, kept = "depthwise_convolution", {"groups": before, "shrunk": shrunk}
            x = with_norm(b, b.input, name, before, before, kernel, **kept)
            if squeezed:
                name, parts = "squeeze_excitation_module", ("convolutions.0", "convolutions.2")
                x = squeeze_excitation(b, x, name, before, before // reduction, parts)
            name = "pointwise_convolution"
            with_norm(b, x, name, before, wide(outputs), 1, shrunk=shrunk)
            places.append(Placed(f"encoder.blocks.{i}.layers.{j}.", b.block()))
    end = BlockBuilder("head", wide(outputs), sequence="image")
    last = c.size("class_expand")
    x = convolution(end, end.input, "last_convolution", wide(outputs), last, shrunk=shrunk)
    return finished(c, first.block(), places, end, x, "head")
