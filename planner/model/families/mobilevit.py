"""MobileViT and its second version: inverted residuals, then transformers between convolutions."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, divisible, normalized, with_norm
from planner.model.families.image_classifiers import block, factor, finished, per_stage
from planner.model.families.mobile_networks import inverted_residual
from planner.model.families.vision_layers import Biases, bert_names, vision_layer
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)
UNUSED = (
    *("aspp_out_channels", "atrous_rates", "aspp_dropout_prob", "patch_size", "image_size"),
    *("output_stride", "hidden_act", "attn_dropout", "ffn_dropout"),
)


def build(c: Config) -> ModelSpec:
    c.ignore(*UNUSED)
    return mobilevit(c) if c.model_type == "mobilevit" else mobilevitv2(c)


# Layers of the transformer in each of the last three stages, and of the convolutions before
# (arXiv 2110.02178, table 4; Transformers' modeling_mobilevit).
VIT_DEPTHS, CONVOLUTION_DEPTHS = (2, 4, 3), (1, 3)
# arXiv 2206.02680; Transformers' modeling_mobilevitv2: widths before width_multiplier.
V2_WIDTHS, V2_CONVOLUTION_DEPTHS = (64, 128, 256, 384, 512), (1, 2)
V2_STEM, V2_LEAST_STEM, V2_MOST_STEM = 32, 16, 64


def mobilevit(c: Config) -> ModelSpec:
    necks, sizes = c.sizes("neck_hidden_sizes") or (), c.sizes("hidden_sizes") or ()
    count = len(CONVOLUTION_DEPTHS) + len(VIT_DEPTHS) + 2
    c.require(len(necks) == count and min(necks) > 0, "neck_hidden_sizes", f"{count} widths")
    fits = len(sizes) == len(VIT_DEPTHS) and min(sizes) > 0
    c.require(fits, "hidden_sizes", f"{len(VIT_DEPTHS)} widths")
    heads, ratio = c.size("num_attention_heads"), factor(c, "mlp_ratio")
    kernel, bias, activation = c.size("conv_kernel_size"), c.flag("qkv_bias"), c.word("hidden_act")
    for size in sizes:
        c.require(size % heads == 0, "num_attention_heads", f"a divisor of {size}")
    first, places = convolutional_stages(c, necks[:3], CONVOLUTION_DEPTHS)
    for i, (size, depth) in enumerate(zip(sizes, VIT_DEPTHS, strict=True)):
        before, after, prefix = necks[i + 2], necks[i + 3], f"mobilevit.encoder.layer.{i + 2}."
        b = opened(c, before, after, size, 2 ** (i + 2))
        places.append(Placed(prefix, b.block()))
        inner = int(size * ratio)
        layer = vision_layer(
            bert_names("attention"),
            size,
            heads,
            inner,
            activation,
            Biases(query=bias, key=bias, value=bias),
        )
        places += [Placed(f"{prefix}transformer.layer.{j}.", layer) for j in range(depth)]
        b = block("stage end", size)
        x = b.layer_norm(b.input, "layernorm")
        shrunk = 2 ** (i + 2)
        with_norm(b, x, "conv_projection", size, after, 1, shrunk=shrunk)
        with_norm(b, b.make(2 * after), "fusion", 2 * after, after, kernel, shrunk=shrunk)
        places.append(Placed(prefix, b.block()))
    end = BlockBuilder("head", after, sequence="image")
    x = with_norm(end, end.input, "mobilevit.conv_1x1_exp", after, necks[-1], 1, shrunk=shrunk)
    return finished(c, first, places, end, x, "classifier")


def convolutional_stages(
    c: Config, widths: tuple[int, ...], depths: tuple[int, ...]
) -> tuple[Block, list[Placed]]:
    """Stem, and the stages of inverted residuals alone: widths[0] is the stem's."""
    name, ratio = c.model_type, factor(c, "expand_ratio")
    first = block("stem", widths[0])
    with_norm(first, first.input, f"{name}.conv_stem", c.size("num_channels"), widths[0], 3)
    places = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            before, after = widths[i if j == 0 else i + 1], widths[i + 1]
            b = block("layer", before)
            inverted_residual(b, "", before, after, divisible(round(before * ratio)), 2**i)
            places.append(Placed(f"{name}.encoder.layer.{i}.layer.{j}.", b.block()))
    return first.block(), places


def opened(c: Config, before: int, after: int, size: int, shrunk: int) -> BlockBuilder:
    """Downsampling and the convolutions before a transformer of width `size`."""
    b = block("stage", before)
    expanded = divisible(round(before * factor(c, "expand_ratio")))
    x = inverted_residual(b, "downsampling_layer", before, after, expanded, shrunk)
    groups = after if c.model_type == "mobilevitv2" else 1
    kernel = c.size("conv_kernel_size")
    x = with_norm(b, x, "conv_kxk", after, after, kernel, groups=groups, shrunk=shrunk)
    convolution(b.part("conv_1x1"), x, "convolution", after, size, shrunk=shrunk)
    return b


def mobilevitv2(c: Config) -> ModelSpec:
    """Attention whose queries are one number per patch, so its cost is linear."""
    multiplier, ratio = factor(c, "width_multiplier"), c.size("ffn_multiplier")
    found = per_stage(c, 3, "base_attn_unit_dims", "n_attn_blocks")
    clipped = max(V2_LEAST_STEM, min(V2_MOST_STEM, V2_STEM * multiplier))
    # the first width is rounded to a coarser step than the others
    steps = (16, 8, 8, 8, 8)
    widths = [divisible(w * multiplier, s) for w, s in zip(V2_WIDTHS, steps, strict=True)]
    stem = divisible(clipped, 8, V2_LEAST_STEM)
    first, places = convolutional_stages(c, (stem, *widths[:2]), V2_CONVOLUTION_DEPTHS)
    for i, (unit, depth) in enumerate(found):
        before, after, prefix = widths[i + 1], widths[i + 2], f"mobilevitv2.encoder.layer.{i + 2}."
        size, shrunk = divisible(unit * multiplier), 2 ** (i + 2)
        places.append(Placed(prefix, opened(c, before, after, size, shrunk).block()))
        inner = ratio * size // 16 * 16
        layer = linear_attention_layer(size, inner, shrunk)
        places += [Placed(f"{prefix}transformer.layer.{j}.", layer) for j in range(depth)]
        b = block("stage end", size)
        x = normalized(b, b.input, "layernorm")
        with_norm(b, x, "conv_projection", size, after, 1, shrunk=shrunk)
        places.append(Placed(prefix, b.block()))
    end = BlockBuilder("head", after, sequence="image")
    return finished(c, first, places, end, end.input, "classifier")


def linear_attention_layer(width: int, inner: int, shrunk: int) -> Block:
    b = BlockBuilder("layer", width, sequence="image")
    a, f = b.part("attention", "attention"), b.part("ffn", "feed_forward")

    def pointwise(p: BlockBuilder, x: Tensor, name: str, outputs: int) -> Tensor:
        return convolution(
            p.part(name), x, "convolution", x.width, outputs, bias=True, shrunk=shrunk
        )

    x = normalized(b, b.input, "layernorm_before")
    qkv = pointwise(a, x, "qkv_proj", 1 + 2 * width)
    _, _, v = a.split(qkv, 1, width, width)
    x = normalized(b, pointwise(a, v, "out_proj", width), "layernorm_after")
    pointwise(f, pointwise(f, x, "conv1", inner), "conv2", width)
    return b.block()
