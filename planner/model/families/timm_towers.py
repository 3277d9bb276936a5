"""Encoders that Transformers takes from timm: the Perception Encoder and FastViT.

Source: timm's models/eva.py and models/fastvit.py; the rows are those of its named variants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized, per_channel
from planner.model.families.vision_layers import Names, learned, patch_projection, vision_layer
from planner.model.families.vision_towers import COLOURS, Tower, stacked
from planner.model.operations import Tensor
from planner.model.spec import Placed

MODULE = "timm_model."
UNUSED = ("do_pooling", "num_classes", "label_names", "num_features", "global_pool")


def build(c: Config, prefix: str) -> Tower:
    """The encoder that `architecture` names, as `model_args` change it."""
    c.ignore(*UNUSED, "pretrained_cfg")
    name = c.one_of("architecture", (*PERCEPTION, *FASTVIT))
    if name in PERCEPTION:
        return perception(c, f"{prefix}{MODULE}", PERCEPTION[name])
    return fastvit(c, f"{prefix}{MODULE}", FASTVIT[name])


def arguments(c: Config, known: Collection[str]) -> Mapping[str, Any]:
    """model_args, of which only `known` ones are modelled."""
    given = c.raw("model_args") or {}
    c.require(isinstance(given, Mapping), "model_args", "a mapping of timm's arguments")
    names = ", ".join(sorted(known))
    c.require(
        set(given) <= set(known), "model_args", f"of {names} at most: others change the model"
    )
    return given


# ---- Perception Encoder: arXiv 2504.13181 --------------------------------------------------------


@dataclass(frozen=True)
class Perception:
    width: int
    depth: int
    heads: int
    inner: int
    class_token: bool


PERCEPTION = {
    "vit_pe_core_large_patch14_336": Perception(1024, 24, 16, 4096, True),
    "vit_pe_core_gigantic_patch14_448": Perception(1536, 50, 16, 8960, False),
}
PATCH = 14
PERCEPTION_NAMES = Names(("norm1", "norm2"), ("attn.qkv",), "attn.proj")
# Arguments without weights; the last two must be as Perception LM has them.
PERCEPTION_ARGUMENTS = (
    *("embed_dim", "img_size", "depth", "init_values", "ref_feat_shape"),
    *("global_pool", "use_post_transformer_norm"),
)


def is_size(value: object, least: int = PATCH) -> bool:
    return type(value) is int and value >= least


def perception(c: Config, prefix: str, row: Perception) -> Tower:
    args = arguments(c, PERCEPTION_ARGUMENTS)
    headless = args.get("global_pool") == "" and args.get("use_post_transformer_norm") is False
    wanted = 'global_pool: "" and use_post_transformer_norm: false (no pooling at the end)'
    c.require(headless, "model_args", wanted)
    sides = args.get("img_size")
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(map(is_size, sides))):
        raise c.error("model_args", args, f"img_size: two sizes of at least {PATCH}")
    c.require(args.get("embed_dim") == row.width, "model_args", f"embed_dim: {row.width}")
    depth = args.get("depth", row.depth)
    c.require(is_size(depth, 1), "model_args", "a depth above 0")
    b = BlockBuilder("patch embedding", row.width, sequence="image")
    e = b.part("", "embedding")
    x = patch_projection(e, "patch_embed.proj", row.width, COLOURS, PATCH, PATCH, bias=False)
    if row.class_token:
        x = learned(e, x, "cls_token", 1, 1, row.width)
    rows = (sides[0] // PATCH) * (sides[1] // PATCH) + row.class_token
    b.layer_norm(learned(e, x, "pos_embed", 1, rows, row.width), "norm_pre")
    scaled = args.get("init_values") is not None
    names = PERCEPTION_NAMES
    if scaled:
        names = Names(names.norms, names.queries, names.output, scales=("gamma_1", "gamma_2"))
    layer = vision_layer(names, row.width, row.heads, row.inner, "gelu", rotary=True)
    return stacked(c, prefix, row.width, b, layer, "blocks.{}", None, depth)


# ---- FastViT: arXiv 2303.14189 -------------------------------------------------------------------


@dataclass(frozen=True)
class FastVit:
    """Blocks and channels of each stage; the last `attends` of them attend."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    attends: int = 2
    expansion: int = 4


FASTVIT = {"fastvit_mci3": FastVit((2, 12, 24, 4, 2), (96, 192, 384, 768, 1536))}
KERNEL, LARGE = 3, 7
# The last convolution doubles the channels; its squeeze-and-excitation has a 16th of them.
LAST_EXPANSION, SQUEEZED = 2, 16


def fastvit(c: Config, prefix: str, row: FastVit) -> Tower:
    """As it runs after training: branches of convolutions are folded into one."""
    args = arguments(c, ("inference_mode",))
    c.require(args.get("inference_mode") is True, "model_args", "inference_mode: true")
    b = BlockBuilder("image encoder", COLOURS, sequence="image")
    m, start = b.part("", "other"), row.channels[0]
    x = folded(m, m.input, "stem.0", start, KERNEL)
    x = folded(m, x, "stem.1", start, KERNEL, depthwise=True)
    x = folded(m, x, "stem.2", start)
    for i, (count, channels) in enumerate(zip(row.layers, row.channels, strict=True)):
        stage, shrunk = m.part(f"stages.{i}"), 2**i
        if i:
            weight = stage.weight(
                "downsample.proj.0.reparam_conv.weight", channels, 1, *(LARGE,) * 2
            )
            bias = stage.weight("downsample.proj.0.reparam_conv.bias", channels)
            x = stage.opaque("downsample", channels, (weight, bias), (x,))
            x = folded(stage, x, "downsample.proj.1", channels, shrunk=shrunk)
        attends = i >= len(row.layers) - row.attends
        if attends:
            x = folded(stage, x, "pos_emb", channels, LARGE, depthwise=True, shrunk=shrunk)
        for j in range(count):
            x = block(stage.part(f"blocks.{j}"), x, row.expansion, shrunk, attends)
    out, f = LAST_EXPANSION * x.width, m.part("final_conv")
    x = widened(m, x, "final_conv", out, KERNEL)
    y = convolution(f, x, "se.fc1", out, out // SQUEEZED, bias=True)
    convolution(f, y, "se.fc2", out // SQUEEZED, out, bias=True)
    wide = c.optional("hidden_size")
    c.require(wide in (None, out), "hidden_size", f"{out}, as the encoder puts out")
    return Tower((Placed(prefix, b.block()),), out)


def folded(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    out: int,
    kernel: int = 1,
    *,
    depthwise: bool = False,
    shrunk: int = 1,
) -> Tensor:
    groups, inner = x.width if depthwise else 1, b.part(name)
    return convolution(
        inner, x, "reparam_conv", x.width, out, kernel, groups=groups, bias=True, shrunk=shrunk
    )


def widened(b: BlockBuilder, x: Tensor, name: str, out: int, kernel: int) -> Tensor:
    """Several maps out of each channel by itself."""
    inner = b.part(f"{name}.reparam_conv")
    weights = (inner.weight("weight", out, 1, kernel, kernel), inner.weight("bias", out))
    return inner.opaque("widened", out, weights, (x,))


def block(b: BlockBuilder, x: Tensor, expansion: int, shrunk: int, attends: bool) -> Tensor:
    width, f = x.width, b.part("mlp")
    if attends:
        y = b.layer_norm(x, "norm")
        q = b.linear(y, "token_mixer.qkv", 3 * width)
        q, _, _ = b.split(q, width, width, width)
        y = b.linear(q, "token_mixer.proj", width, bias=True, split="row")
        x = b.add(x, per_channel(b, y, "layer_scale_1.gamma", width, 1, 1))
    else:
        x = folded(b, x, "token_mixer", width, KERNEL, depthwise=True, shrunk=shrunk)
    y = convolution(f, x, "conv.conv", width, width, LARGE, groups=width, shrunk=shrunk)
    y = normalized(f, y, "conv.bn")
    y = convolution(f, y, "fc1", width, expansion * width, bias=True, shrunk=shrunk)
    y = convolution(f, y, "fc2", expansion * width, width, bias=True, shrunk=shrunk)
    scale = "layer_scale_2.gamma" if attends else "layer_scale.gamma"
    return b.add(x, per_channel(b, y, scale, width, 1, 1))
