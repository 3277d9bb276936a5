"""Transformers in stages, each on a smaller map: PVT, PVT v2, SegFormer and CvT.

Keys and values are thinned out by a convolution, so each patch attends to fewer of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, with_norm
from planner.model.families.image_classifiers import finished, last_width, per_stage, stages
from planner.model.families.vision_layers import learned, patch_projection
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


@dataclass(frozen=True)
class Names:
    """Where a family keeps the parts of a layer and of a stage.

    reduction   the convolution that thins out keys and values, and its norm
    depthwise   a convolution of each channel inside the feed-forward part, if there is one
    field       of the reductions in the config
    """

    norms: tuple[str, str]
    queries: tuple[str, str, str]
    output: str
    reduction: tuple[str, str]
    feed: tuple[str, str]
    depthwise: str | None = None
    field: str = "sr_ratios"


PVT = Names(
    ("layer_norm_1", "layer_norm_2"),
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    ("attention.self.sequence_reduction", "attention.self.layer_norm"),
    ("mlp.dense1", "mlp.dense2"),
    field="sequence_reduction_ratios",
)
PVT_V2 = Names(
    ("layer_norm_1", "layer_norm_2"),
    ("attention.query", "attention.key", "attention.value"),
    "attention.proj",
    ("attention.spatial_reduction", "attention.layer_norm"),
    ("mlp.dense1", "mlp.dense2"),
    "mlp.dwconv.dwconv",
)
SEGFORMER = Names(
    ("layernorm_before", "layernorm_after"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    ("attention.sequence_reduction.sequence_reduction", "attention.sequence_reduction.layer_norm"),
    ("mlp.fc1", "mlp.fc2"),
    "mlp.dwconv.dwconv",
)
# Prefix of a stage, and its patch embedding within it.
OVERLAPPING = {
    "pvt_v2": (PVT_V2, "pvt_v2.encoder.layers.{}.", "patch_embedding"),
    "segformer": (SEGFORMER, "segformer.stages.{}.", "patch_embeddings"),
}


def build(c: Config) -> ModelSpec:
    c.ignore("drop_path_rate", "out_features", "out_indices", "stage_names")
    if c.model_type == "cvt":
        return cvt(c)
    return pvt(c) if c.model_type == "pvt" else overlapping(c)


@dataclass(frozen=True)
class Stage:
    """One stage's numbers; reduction 0: a convolution of kernel 1 before pooled attention."""

    before: int
    width: int
    depth: int
    kernel: int
    heads: int
    ratio: float
    reduction: int


def pyramid(c: Config, n: Names, kernel: str) -> list[Stage]:
    """The stages of a config; `kernel` is the field of the patches' kernels."""
    sizes, ratios = stages(c, c.size("num_channels"), "num_encoder_blocks"), c.numbers("mlp_ratios")
    fits = len(ratios) >= len(sizes) and min(ratios) > 0
    c.require(fits, "mlp_ratios", f"{len(sizes)} numbers above 0, one per stage")
    fields = (kernel, "num_attention_heads", n.field)
    lists = per_stage(c, len(sizes), *fields)
    return [
        Stage(*size, own[0], own[1], ratio, own[2])
        for size, own, ratio in zip(sizes, lists, ratios, strict=False)
    ]


def ended(c: Config, places: list[Placed], norm: str | None = None) -> ModelSpec:
    end = BlockBuilder("head", last_width(c), sequence="image")
    x = end.layer_norm(end.input, norm) if norm else end.input
    first = places.pop(0)
    return finished(c, first.block, places, end, x, "classifier")


def pvt(c: Config) -> ModelSpec:
    """Patches that do not overlap, learned positions, a class token in the last stage."""
    found = pyramid(c, PVT, "strides")
    patch_sizes = per_stage(c, len(found), "patch_sizes")
    image, places, bias = c.size("image_size"), [], c.flag("qkv_bias")
    for i, stage in enumerate(found):
        side = (image if i == 0 else image // 2 ** (i + 1)) // patch_sizes[i][0]
        last = i == len(found) - 1
        b = BlockBuilder("patch embedding", stage.before, sequence="image")
        e = b.part(f"pvt.encoder.patch_embeddings.{i}", "embedding")
        x = patch_projection(e, "projection", stage.width, stage.before, stage.kernel, stage.kernel)
        x = e.layer_norm(x, "layer_norm")
        if last:
            x = learned(e, x, "cls_token", 1, 1, stage.width)
        learned(e, x, "position_embeddings", 1, side * side + last, stage.width)
        places.append(Placed("", b.block()))
        made = layer(c, PVT, stage, bias)
        places += [Placed(f"pvt.encoder.block.{i}.{j}.", made) for j in range(stage.depth)]
    return ended(c, places, "pvt.encoder.layer_norm")


def overlapping(c: Config) -> ModelSpec:
    """Patches that overlap, no positions, a norm at the end of each stage."""
    n, where, patches = OVERLAPPING[c.model_type]
    c.ignore("image_size", "strides", "decoder_hidden_size", "reshape_last_stage")
    bias, linear = c.flag("qkv_bias", True), c.flag("linear_attention")
    found, places = pyramid(c, n, "patch_sizes"), []
    for i, stage in enumerate(found):
        prefix = where.format(i)
        b = BlockBuilder("patch embedding", stage.before, sequence="image")
        # the first place stands at the model's root
        e = b.part("" if i else prefix.rstrip("."), "embedding").part(patches)
        x = patch_projection(e, "proj", stage.width, stage.before, stage.kernel, stage.kernel)
        e.layer_norm(x, "layer_norm")
        places.append(Placed(prefix if i else "", b.block()))
        made = layer(c, n, stage, bias, pooled=linear)
        places += [Placed(f"{prefix}blocks.{j}.", made) for j in range(stage.depth)]
        end = BlockBuilder("stage end", stage.width, sequence="image")
        end.layer_norm(end.input, "layer_norm")
        places.append(Placed(prefix, end.block()))
    return ended(c, places)


def layer(c: Config, n: Names, s: Stage, bias: bool, *, pooled: bool = False) -> Block:
    """pooled: keys and values are pooled to one size, and convolved with kernel 1."""
    if c.model_type != "segformer":
        c.require(s.width % s.heads == 0, "num_attention_heads", f"a divisor of {s.width}")
    inside, inner = s.heads * (s.width // s.heads), int(s.width * s.ratio)
    b = BlockBuilder("layer", s.width, sequence="image")
    a, f = b.part("", "attention"), b.part("", "feed_forward")
    x = b.layer_norm(b.input, n.norms[0])
    q = a.linear(x, n.queries[0], inside, bias=bias)
    if pooled or s.reduction > 1:
        kernel = 1 if pooled else s.reduction
        x = convolution(a, x, n.reduction[0], s.width, s.width, kernel, bias=True, shrunk=kernel)
        x = a.layer_norm(x, n.reduction[1])
    k, v = (a.linear(x, name, inside, bias=bias) for name in n.queries[1:])
    out = a.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
    x = b.add(b.input, a.linear(out, n.output, s.width, bias=True, split="row"))
    y = f.linear(b.layer_norm(x, n.norms[1]), n.feed[0], inner, bias=True)
    if n.depthwise is not None:
        y = convolution(f, y, n.depthwise, inner, inner, 3, groups=inner, bias=True)
    y = f.activation(y, c.word("hidden_act"))
    b.add(x, f.linear(y, n.feed[1], s.width, bias=True, split="row"))
    return b.block()


# ---- CvT: queries, keys and values each through a convolution of their own -----------------------


def cvt(c: Config) -> ModelSpec:
    c.ignore("patch_stride", "patch_padding", "attention_drop_rate", "drop_rate")
    c.ignore("padding_kv", "padding_q", "stride_kv", "stride_q")
    count = len(c.sizes("depth") or ())
    c.require(count > 0, "depth", "one number of layers per stage")
    lists = per_stage(c, count, "depth", "embed_dim", "num_heads", "patch_sizes", "kernel_qkv")
    ratios, biases, tokens = c.numbers("mlp_ratio"), c.flags("qkv_bias"), c.flags("cls_token")
    methods = c.words("qkv_projection_method") or ()
    for name, values in (
        *(("mlp_ratio", ratios), ("qkv_bias", biases), ("cls_token", tokens)),
        ("qkv_projection_method", methods),
    ):
        c.require(len(values) >= count, name, f"{count} entries, one per stage")
    c.require(min(ratios) > 0, "mlp_ratio", "numbers above 0")
    c.require(sum(own[0] for own in lists) <= MOST_LAYERS, "depth", f"at most {MOST_LAYERS} layers")
    before, last, places = c.size("num_channels"), last_width(c, "embed_dim"), []
    for i, (depth, width, heads, patch, kernel) in enumerate(lists):
        c.require(width % heads == 0, "num_heads", f"divisors of the widths: {heads} of {width}")
        prefix = f"cvt.encoder.stages.{i}"
        b = BlockBuilder("patch embedding", before, sequence="image")
        e = b.part(prefix, "embedding")
        inner = e.part("embedding.convolution_embeddings")
        x = patch_projection(inner, "projection", width, before, patch, patch)
        x = inner.layer_norm(x, "normalization")
        if tokens[i]:
            learned(e, x, "cls_token", 1, 1, last)
        places.append(Placed("", b.block()))
        convolved = methods[i] == "dw_bn"
        made = cvt_layer(width, heads, kernel if convolved else 0, ratios[i], biases[i])
        places += [Placed(f"{prefix}.layers.{j}.", made) for j in range(depth)]
        before = width
    end = BlockBuilder("head", last, sequence="image")
    x = end.layer_norm(end.input, "layernorm")
    first = places.pop(0)
    return finished(c, first.block, places, end, x, "classifier")


def cvt_layer(width: int, heads: int, kernel: int, ratio: float, bias: bool) -> Block:
    """kernel 0: queries, keys and values without convolutions."""
    b = BlockBuilder("layer", width, sequence="image")
    a, f = b.part("attention", "attention"), b.part("", "feed_forward")
    x = b.layer_norm(b.input, "layernorm_before")
    inner = a.part("attention")

    def projected(name: str) -> Tensor:
        y = x
        if kernel:
            module = f"convolution_projection_{name}.convolution_projection"
            y = with_norm(inner, y, module, width, width, kernel, groups=width)
        return inner.linear(y, f"projection_{name}", width, bias=bias)

    made = [projected(name) for name in ("query", "key", "value")]
    out = a.attention(*made, heads=heads, kv_heads=heads, causal=False)
    x = b.add(b.input, a.linear(out, "output.dense", width, bias=True, split="row"))
    y = f.linear(
        b.layer_norm(x, "layernorm_after"), "intermediate.dense", int(width * ratio), bias=True
    )
    y = f.activation(y, "gelu")
    b.add(x, f.linear(y, "output.dense", width, bias=True, split="row"))
    return b.block()
