"""Convolutional classifiers in stages: ResNet, BiT, RegNet, ConvNeXt and PoolFormer."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import (
    convolution,
    divisible,
    normalized,
    per_channel,
    squeeze_excitation,
    with_norm,
)
from planner.model.families.image_classifiers import (
    block,
    factor,
    finished,
    last_width,
    per_stage,
    stages,
)
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)
UNUSED = (
    *("hidden_act", "drop_path_rate", "image_size", "stage_names", "out_features", "out_indices"),
    *("layer_scale_init_value", "num_stages", "num_encoder_blocks", "stride", "strides"),
    *("padding", "pool_size", "downsample_in_bottleneck"),
)


def build(c: Config) -> ModelSpec:
    c.ignore(*UNUSED)
    return {
        "resnet": resnet,
        "bit": bit,
        "regnet": regnet,
        "convnext": convnext,
        "convnextv2": convnext,
        "poolformer": poolformer,
    }[c.model_type](c)


# ---- ResNet and RegNet --------------------------------------------------------------------------

Inner = Callable[[BlockBuilder, int, int, int, Tensor], None]


def residual(c: Config, kernel: int, inner: Inner) -> ModelSpec:
    """Stages of layers with a shortcut, which is a convolution where width or size changes."""
    name, width = c.model_type, c.size("embedding_size")
    first = block("stem", width)
    channels = c.size("num_channels")
    with_norm(first, first.input, f"{name}.embedder.embedder", channels, width, kernel)
    downsample = c.flag("downsample_in_first_stage")
    places, shrunk = [], 1
    for i, (before, after, depth) in enumerate(stages(c, width)):
        smaller = i > 0 or downsample
        shrunk *= 2 if smaller else 1
        kinds = {}
        for j in range(depth):
            inputs = before if j == 0 else after
            if j < 2:
                b = block(f"stage {i}", inputs)
                if inputs != after or (smaller and j == 0):
                    with_norm(b, b.input, "shortcut", inputs, after, 1, shrunk=shrunk)
                inner(b, inputs, after, shrunk, b.input)
                kinds[min(j, 1)] = b.block()
            prefix = f"{name}.encoder.stages.{i}.layers.{j}."
            places.append(Placed(prefix, kinds[min(j, 1)]))
    end = BlockBuilder("head", after, sequence="image")
    return finished(c, first.block(), places, end, end.input, "classifier.1")


def resnet(c: Config) -> ModelSpec:
    bottleneck = c.one_of("layer_type", ("bottleneck", "basic")) == "bottleneck"

    def inner(b: BlockBuilder, before: int, after: int, shrunk: int, x: Tensor) -> None:
        narrow = after // 4
        shapes = [(before, after, 3), (after, after, 3)]
        if bottleneck:
            shapes = [(before, narrow, 1), (narrow, narrow, 3), (narrow, after, 1)]
        for i, (inputs, outputs, kernel) in enumerate(shapes):
            x = with_norm(b, x, f"layer.{i}", inputs, outputs, kernel, shrunk=shrunk)

    return residual(c, 7, inner)


def regnet(c: Config) -> ModelSpec:
    """Grouped convolutions; type y has a squeeze-and-excitation part between them."""
    squeeze = c.one_of("layer_type", ("x", "y")) == "y"
    group = c.size("groups_width")

    def inner(b: BlockBuilder, before: int, after: int, shrunk: int, x: Tensor) -> None:
        groups = max(1, after // group)
        c.require(after % groups == 0, "groups_width", f"a divisor of {after}")
        x = with_norm(b, x, "layer.0", before, after, 1, shrunk=shrunk)
        x = with_norm(b, x, "layer.1", after, after, 3, groups=groups, shrunk=shrunk)
        if squeeze:
            parts = ("attention.0", "attention.2")
            x = squeeze_excitation(b, x, "layer.2", after, round(before / 4), parts)
        with_norm(b, x, f"layer.{2 + squeeze}", after, after, 1, shrunk=shrunk)

    return residual(c, 3, inner)


# ---- BiT: ResNet with group norms, before each convolution or after it --------------------------


def bit(c: Config) -> ModelSpec:
    before = c.one_of("layer_type", ("preactivation", "bottleneck")) == "preactivation"
    c.ignore("global_padding", "embedding_dynamic_padding", "output_stride")
    width, wider = c.size("embedding_size"), factor(c, "width_factor")
    groups, channels = c.size("num_groups"), c.size("num_channels")

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        c.require(x.width % groups == 0, "num_groups", f"a divisor of the width {x.width}")
        return normalized(b, x, name)

    first = block("stem", width)
    x = convolution(first, first.input, "bit.embedder.convolution", channels, width, 7)
    if not before:
        norm(first, x, "bit.embedder.norm")
    places, inputs = [], width
    for i, (_, size, depth) in enumerate(stages(c, width)):
        after, kinds = divisible(size * wider), []
        narrow, shrunk = divisible(after * 0.25), 2**i
        for j in range(min(depth, 2)):
            b = block(f"stage {i}", inputs)
            if j == 0:
                x = convolution(b, b.input, "downsample.conv", inputs, after, shrunk=shrunk)
                if not before:
                    norm(b, x, "downsample.norm")
            shapes = ((inputs, narrow, 1), (narrow, narrow, 3), (narrow, after, 1))
            x = b.input
            for k, (wide, out, kernel) in enumerate(shapes, start=1):
                if before:
                    x = norm(b, x, f"norm{k}")
                x = convolution(b, x, f"conv{k}", wide, out, kernel, shrunk=shrunk)
                if not before:
                    x = norm(b, x, f"norm{k}")
            kinds.append(b.block())
            inputs = after
        prefix = f"bit.encoder.stages.{i}.layers."
        places += [Placed(f"{prefix}{j}.", kinds[min(j, 1)]) for j in range(depth)]
    end = BlockBuilder("head", size, sequence="image")
    x = norm(end, end.input, "bit.norm") if before else end.input
    return finished(c, first.block(), places, end, x, "classifier.1")


# ---- ConvNeXt -----------------------------------------------------------------------------------


def convnext(c: Config) -> ModelSpec:
    """Depthwise convolution, norm, two linears; v2 norms the response in between."""
    name, second = c.model_type, c.model_type == "convnextv2"
    scaled = not second and c.number("layer_scale_init_value", 1e-6) > 0
    sizes, patch = stages(c, 0, "num_stages"), c.size("patch_size")
    width = sizes[0][1]
    first = block("stem", width)
    e = first.part(f"{name}.embeddings", "embedding")
    channels = c.size("num_channels")
    x = convolution(e, e.input, "patch_embeddings", channels, width, patch, bias=True)
    normalized(e, x, "layernorm")
    places = []
    for i, (before, after, depth) in enumerate(sizes):
        shrunk = 2**i
        prefix = f"{name}.encoder.stages.{i}."
        if i > 0:
            d = block("downsampling", before)
            x = normalized(d, d.input, "downsampling_layer.0")
            convolution(d, x, "downsampling_layer.1", before, after, 2, bias=True, shrunk=shrunk)
            places.append(Placed(prefix, d.block()))
        layer = convnext_layer(after, shrunk, scaled, second)
        places += [Placed(f"{prefix}layers.{j}.", layer) for j in range(depth)]
    end = BlockBuilder("head", last_width(c), sequence="image")
    x = normalized(end, end.input, f"{name}.layernorm")
    return finished(c, first.block(), places, end, x, "classifier")


def convnext_layer(width: int, shrunk: int, scaled: bool, second: bool) -> Block:
    b = block("layer", width)
    x = convolution(b, b.input, "dwconv", width, width, 7, groups=width, bias=True, shrunk=shrunk)
    x = normalized(b, x, "layernorm")
    inner = 4 * width
    x = _pointwise(b, x, "pwconv1", inner, shrunk)
    if second:
        for part in ("weight", "bias"):
            x = per_channel(b, x, f"grn.{part}", 1, 1, 1, inner)
    x = _pointwise(b, x, "pwconv2", width, shrunk)
    if scaled:
        per_channel(b, x, "layer_scale_parameter")
    return b.block()


def _pointwise(b: BlockBuilder, x: Tensor, name: str, outputs: int, shrunk: int) -> Tensor:
    weights = (b.weight(f"{name}.weight", outputs, x.width), b.weight(f"{name}.bias", outputs))
    flops = 2 * weights[0].elements // shrunk**2
    return b.opaque(name, outputs, weights, (x,), flops_per_token=flops)


# ---- PoolFormer ---------------------------------------------------------------------------------


def poolformer(c: Config) -> ModelSpec:
    """Pooling in place of attention."""
    c.ignore("patch_size")
    ratio = factor(c, "mlp_ratio")
    sizes = stages(c, c.size("num_channels"), "num_encoder_blocks")
    kernels = [own[0] for own in per_stage(c, len(sizes), "patch_sizes")]
    scaled = c.flag("use_layer_scale")
    places = []
    for i, (before, after, depth) in enumerate(sizes):
        shrunk, inner = 2**i, int(after * ratio)
        p = block("patch embedding", before)
        where = f"poolformer.encoder.patch_embeddings.{i}.projection"
        convolution(p, p.input, where, before, after, kernels[i], bias=True, shrunk=shrunk)
        places.append(Placed("", p.block()))
        b = block("layer", after)
        x = normalized(b, b.input, "before_norm")
        x = normalized(b, x, "after_norm")
        x = convolution(b, x, "output.conv1", after, inner, bias=True, shrunk=shrunk)
        x = convolution(b, x, "output.conv2", inner, after, bias=True, shrunk=shrunk)
        if scaled:
            per_channel(b, per_channel(b, x, "layer_scale_1"), "layer_scale_2")
        prefix = f"poolformer.encoder.block.{i}."
        places += [Placed(f"{prefix}{j}.", b.block()) for j in range(depth)]
    end = BlockBuilder("head", last_width(c), sequence="image")
    x = normalized(end, end.input, "norm")
    first = places.pop(0)
    return finished(c, first.block, places, end, x, "classifier")
