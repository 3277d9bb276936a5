"""Convolutional backbones of other makes: HGNet v2, TextNet and SwiftFormer."""

from __future__ import annotations

from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized, per_channel, with_norm
from planner.model.families.image_classifiers import block, factor, finished, last_width, per_stage
from planner.model.families.vision_layers import pair
from planner.model.heads import labels
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


def build(c: Config) -> ModelSpec:
    c.ignore("stage_names", "out_features", "out_indices", "image_size", "drop_path_rate")
    return {"hgnet_v2": hgnet, "textnet": textnet, "swiftformer": swiftformer}[c.model_type](c)


# ---- HGNet v2: each block joins the outputs of all its layers ------------------------------------

STAGES = (
    *("stage_in_channels", "stage_mid_channels", "stage_out_channels", "stage_num_blocks"),
    *("stage_numb_of_layers", "stage_kernel_size"),
)


def hgnet(c: Config) -> ModelSpec:
    c.ignore("num_channels", "embedding_size", "depths", "hidden_act", "stem_strides")
    c.ignore("stage_downsample_strides")
    affine, found = c.flag("use_learnable_affine_block"), c.sizes("stage_in_channels") or ()
    lists = per_stage(c, len(found), *STAGES)
    light, down = c.flags("stage_light_block"), c.flags("stage_downsample")
    for name, values in (("stage_light_block", light), ("stage_downsample", down)):
        c.require(len(values) == len(found), name, f"{len(found)} entries, one per stage")
    layers = sum(own[3] * own[4] for own in lists)
    c.require(0 < layers <= MOST_LAYERS, "stage_num_blocks", f"at most {MOST_LAYERS} layers")
    stem = c.sizes("stem_channels") or ()
    c.require(len(stem) == 3 and min(stem) > 1, "stem_channels", "three numbers above 1")
    colours, narrow, wide = stem
    first = block("stem", wide)
    e, x = first.part("embedder"), first.input
    for name, inputs, outputs, kernel in (
        ("stem1", colours, narrow, 3),
        ("stem2a", narrow, narrow // 2, 2),
        ("stem2b", narrow // 2, narrow, 2),
        ("stem3", 2 * narrow, narrow, 3),
        ("stem4", narrow, wide, 1),
    ):
        x = _scaled(e, x, name, inputs, outputs, kernel, affine=affine)
    places = []
    for i, (before, middle, after, count, depth, kernel) in enumerate(lists):
        prefix, shrunk = f"encoder.stages.{i}.", 2 ** sum(down[: i + 1])
        if down[i]:
            b = block("downsampling", before)
            with_norm(b, b.input, "downsample", before, before, 3, groups=before, shrunk=shrunk)
            places.append(Placed(prefix, b.block()))
        made = [
            _joined(inputs, middle, after, depth, kernel, light[i], affine, shrunk)
            for inputs in (before, after)[:count]
        ]
        places += [Placed(f"{prefix}blocks.{j}.", made[min(j, 1)]) for j in range(count)]
    end = BlockBuilder("head", last_width(c), sequence="image")
    return finished(c, first.block(), places, end, end.input, "fc")


def _scaled(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    groups: int = 1,
    shrunk: int = 1,
    affine: bool,
) -> Tensor:
    """Convolution and norm; affine: one factor and one addend for all channels besides."""
    x = with_norm(b, x, name, inputs, outputs, kernel, groups=groups, shrunk=shrunk)
    if affine:
        for part in ("scale", "bias"):
            x = per_channel(b, x, f"{name}.lab.{part}", 1)
    return x


def _joined(
    inputs: int,
    middle: int,
    outputs: int,
    depth: int,
    kernel: int,
    light: bool,
    affine: bool,
    shrunk: int,
) -> Block:
    """light: a pointwise and a depthwise convolution in place of a full one."""
    b = block("block", inputs)
    x = b.input
    for i in range(depth):
        name, before = f"layers.{i}", inputs if i == 0 else middle
        if light:
            # the first of the two has no activation, so no affine part either
            x = with_norm(b, x, f"{name}.conv1", before, middle, 1, shrunk=shrunk)
            name, before = f"{name}.conv2", middle
        groups = middle if light else 1
        x = _scaled(b, x, name, before, middle, kernel, groups=groups, shrunk=shrunk, affine=affine)
    total = inputs + depth * middle
    x = b.make(total)
    for i, (before, after) in enumerate(((total, outputs // 2), (outputs // 2, outputs))):
        x = _scaled(b, x, f"aggregation.{i}", before, after, 1, shrunk=shrunk, affine=affine)
    return b.block()


# ---- TextNet: a convolution beside its vertical, its horizontal and none -----------------------


def textnet(c: Config) -> ModelSpec:
    c.ignore("stem_stride", "stem_act_func", "depths")
    kernels, strides = c.resolved("conv_layer_kernel_sizes"), c.resolved("conv_layer_strides")
    wanted = "for each stage a list of [height, width]"
    fits = isinstance(kernels, list | tuple) and all(
        isinstance(stage, list | tuple) and all(_is_pair(kernel) for kernel in stage)
        for stage in kernels
    )
    c.require(fits, "conv_layer_kernel_sizes", wanted)
    same = isinstance(strides, list | tuple) and len(strides) >= len(kernels)
    same = same and all(
        isinstance(own, list | tuple) and len(own) == len(stage) and all(_is_size(n) for n in own)
        for own, stage in zip(strides, kernels, strict=False)
    )
    c.require(same, "conv_layer_strides", "a stride for each kernel of conv_layer_kernel_sizes")
    sizes = c.sizes("hidden_sizes") or ()
    fits = len(sizes) > len(kernels) and min(sizes) > 0
    c.require(fits, "hidden_sizes", f"{len(kernels) + 1} widths: one more than stages")
    width, channels = c.size("stem_out_channels"), c.size("stem_num_channels")
    first = block("stem", width)
    side, names = c.size("stem_kernel_size"), ("conv", "batch_norm")
    with_norm(first, first.input, "textnet.stem", channels, width, side, names=names)
    places, shrunk = [], 1
    for i, (stage, own) in enumerate(zip(kernels, strides, strict=False)):
        before, after = sizes[i], sizes[i + 1]
        for j, (kernel, stride) in enumerate(zip(stage, own, strict=True)):
            inputs, shrunk = after if j else before, shrunk * stride
            made = _parallel(inputs, after, tuple(kernel), stride, shrunk)
            places.append(Placed(f"textnet.encoder.stages.{i}.stage.{j}.", made))
    end = BlockBuilder("head", sizes[-1], sequence="image")
    return finished(c, first.block(), places, end, end.input, "fc")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_size, value))


def _parallel(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int, shrunk: int
) -> Block:
    height, width = kernel
    b = block("layer", inputs)
    sides = [("main", kernel, True), ("vertical", (height, 1), width != 1)]
    for name, shape, there in (*sides, ("horizontal", (1, width), height != 1)):
        if there:
            x = convolution(b, b.input, f"{name}_conv", inputs, outputs, shape, shrunk=shrunk)
            normalized(b, x, f"{name}_batch_norm")
    if inputs == outputs and stride == 1:
        normalized(b, b.input, "rbr_identity")
    return b.block()


# ---- SwiftFormer: convolutions, and additive attention in each stage's last layer ----------------


def swiftformer(c: Config) -> ModelSpec:
    c.ignore("down_stride", "down_pad", "drop_mlp_rate", "drop_conv_encoder_rate", "hidden_act")
    c.ignore("layer_scale_init_value")
    ratio, scaled = factor(c, "mlp_ratio"), c.flag("use_layer_scale")
    down, patch = c.flags("downsamples"), pair(c, "down_patch_size")
    depths = c.sizes("depths") or ()
    found = per_stage(c, len(depths), "depths", "embed_dims")
    fits = 0 < sum(depths) <= MOST_LAYERS
    c.require(fits, "depths", f"one or more numbers, in all at most {MOST_LAYERS}")
    c.require(len(down) >= len(found) - 1, "downsamples", f"{len(found)} entries, one per stage")
    widths = [width for _, width in found]
    first = block("stem", widths[0])
    x, half = first.input, widths[0] // 2
    e = first.part("swiftformer.patch_embed.patch_embedding", "embedding")
    for i, before, after in ((0, c.size("num_channels"), half), (3, half, widths[0])):
        x = convolution(e, x, f"{i}", before, after, 3, bias=True)
        x = normalized(e, x, f"{i + 1}")
    places: list[Placed] = []
    number = 0  # of the module in the network: stages and what is between them
    for i, (depth, width) in enumerate(found):
        inner, shrunk = int(ratio * width), 2**i
        kinds = (_convolutional(width, inner, shrunk), _attentive(width, inner, shrunk, scaled))
        prefix = f"swiftformer.encoder.network.{number}."
        places += [Placed(f"{prefix}blocks.{j}.", kinds[j == depth - 1]) for j in range(depth)]
        number += 1
        if i + 1 < len(found) and (down[i] or width != widths[i + 1]):
            b = block("downsampling", width)
            after = widths[i + 1]
            x = convolution(b, b.input, "proj", width, after, patch, bias=True, shrunk=2 * shrunk)
            normalized(b, x, "norm")
            places.append(Placed(f"swiftformer.encoder.network.{number}.", b.block()))
            number += 1
    end = BlockBuilder("head", last_width(c, "embed_dims"), sequence="image")
    x = normalized(end, end.input, "norm")
    h = end.part("", "output_head")
    h.linear(x, "dist_head", labels(c), bias=True, split="whole")
    return finished(c, first.block(), places, end, x, "head")


def _local(b: BlockBuilder, width: int, inner: int, shrunk: int) -> Tensor:
    """A depthwise and two pointwise convolutions, and a factor per channel."""
    name = "depth_wise_conv"
    x = convolution(b, b.input, name, width, width, 3, groups=width, bias=True, shrunk=shrunk)
    x = normalized(b, x, "norm")
    x = convolution(b, x, "point_wise_conv1", width, inner, bias=True, shrunk=shrunk)
    x = convolution(b, x, "point_wise_conv2", inner, width, bias=True, shrunk=shrunk)
    return per_channel(b, x, "layer_scale", width, 1, 1)


def _convolutional(width: int, inner: int, shrunk: int) -> Block:
    b = block("layer", width)
    _local(b, width, inner, shrunk)
    return b.block()


def _attentive(width: int, inner: int, shrunk: int, scaled: bool) -> Block:
    """Additive attention: a learned vector weighs the queries, so its cost is linear."""
    b = block("layer", width)
    x = _local(b.part("local_representation"), width, width, shrunk)
    a, f = b.part("attn", "attention"), b.part("linear", "feed_forward")
    q, k = (a.linear(x, name, width, bias=True) for name in ("to_query", "to_key"))
    weight = a.weight("w_g", width, 1)
    x = a.opaque("weigh", width, (weight,), (q, k), flops_per_token=2 * width)
    for name in ("proj", "final"):
        x = a.linear(x, name, width, bias=True)
    x = normalized(f, x, "norm1")
    x = convolution(f, x, "fc1", width, inner, bias=True, shrunk=shrunk)
    x = convolution(f, x, "fc2", inner, width, bias=True, shrunk=shrunk)
    if scaled:
        for name in ("layer_scale_1", "layer_scale_2"):
            x = per_channel(b, x, name, width, 1, 1)
    return b.block()
