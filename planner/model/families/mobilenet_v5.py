"""MobileNet-V5's encoder of 300 million parameters, which sees for Gemma 3n.

Source: timm's models/mobilenetv5.py, mobilenetv5_300m_enc. Norms are RMS norms over channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, per_channel
from planner.model.families.vision_towers import COLOURS, Tower
from planner.model.operations import Tensor
from planner.model.spec import Placed

KERNEL = 3
STEM = 64
# What joins the last two stages: how much wider it is inside, and what it puts out.
FUSED_EXPANSION, FUSED = 2, 2048


@dataclass(frozen=True)
class Edge:
    """A full convolution to `expansion` times the channels and a pointwise one back."""

    expansion: int = 4


@dataclass(frozen=True)
class Inverted:
    """A pointwise convolution to `expansion` times the channels and one back.

    start, middle: sides of depthwise convolutions before and between them; 0: none
    """

    expansion: int
    start: int = 0
    middle: int = 0


@dataclass(frozen=True)
class Attention:
    """All heads share one key and one value, over a map that may first be halved."""

    heads: int
    head_dim: int
    halved: bool = False


Step = Edge | Inverted | Attention
NARROW: tuple[Step, ...] = (Attention(12, 64, halved=True), Inverted(2))
WIDE: tuple[Step, ...] = (Attention(16, 96), Inverted(2))
# Channels of each stage and its blocks; each stage halves both sides of the map.
STAGES: tuple[tuple[int, tuple[Step, ...]], ...] = (
    (128, (Edge(),) * 3),
    (
        256,
        (Inverted(6, 3, 5), Inverted(4, 5), Inverted(4, 3), Inverted(4, 5), Inverted(4, 3)),
    ),
    (640, (Inverted(6, 5, 5), *(Inverted(4, 5),) * 7, Inverted(1), *NARROW * 14)),
    (1280, (Inverted(6, 5, 5), *WIDE * 19)),
)


def encoder(c: Config, prefix: str) -> Tower:
    c.one_of("architecture", ("mobilenetv5_300m_enc",))
    c.require(not c.raw("model_args"), "model_args", "null")
    c.ignore("do_pooling", "vocab_size", "vocab_offset", "num_classes", "label_names")
    width = c.size("hidden_size")
    c.require(width == FUSED, "hidden_size", f"{FUSED}, as the encoder puts out")
    b = BlockBuilder("image encoder", STEM, sequence="image")
    m = b.part("timm_model", "other")
    x = convolution(m, m.input, "conv_stem.conv", COLOURS, STEM, KERNEL, bias=True)
    x = m.rms_norm(x, "conv_stem.bn")
    for stage, (channels, steps) in enumerate(STAGES):
        for i, step in enumerate(steps):
            x = block(m.part(f"blocks.{stage}.{i}"), x, channels, step, 2 ** (stage + 1))
    f, shrunk = m.part("msfa"), 2 ** len(STAGES)
    x = f.opaque("join", sum(channels for channels, _ in STAGES[-2:]), (), (x,))
    inner = f.part("ffn")
    y = normed_convolution(inner, x, "pw_exp", x.width * FUSED_EXPANSION, shrunk=shrunk)
    f.rms_norm(normed_convolution(inner, y, "pw_proj", FUSED, shrunk=shrunk), "norm")
    return Tower((Placed(prefix, b.block()),), FUSED)


def block(b: BlockBuilder, x: Tensor, out: int, step: Step, shrunk: int) -> Tensor:
    if isinstance(step, Edge):
        wide = x.width * step.expansion
        y = convolution(b, x, "conv_exp", x.width, wide, KERNEL, shrunk=shrunk)
        y = b.activation(b.rms_norm(y, "bn1"), "gelu")
        return b.rms_norm(convolution(b, y, "conv_pwl", wide, out, shrunk=shrunk), "bn2")
    if isinstance(step, Attention):
        y = attention(b.part("attn", "attention"), b.rms_norm(x, "norm"), step, shrunk)
        return b.add(x, per_channel(b, y, "layer_scale.gamma"))
    y = x
    if step.start:
        y = normed_convolution(b, y, "dw_start", y.width, step.start, depthwise=True, shrunk=shrunk)
    y = normed_convolution(b, y, "pw_exp", x.width * step.expansion, shrunk=shrunk)
    if step.middle:
        y = normed_convolution(b, y, "dw_mid", y.width, step.middle, depthwise=True, shrunk=shrunk)
    y = per_channel(b, normed_convolution(b, y, "pw_proj", out, shrunk=shrunk), "layer_scale.gamma")
    return b.add(x, y) if x.width == out else y


def normed_convolution(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    out: int,
    kernel: int = 1,
    *,
    depthwise: bool = False,
    shrunk: int,
) -> Tensor:
    inner, groups = b.part(name), x.width if depthwise else 1
    y = convolution(inner, x, "conv", x.width, out, kernel, groups=groups, shrunk=shrunk)
    return inner.rms_norm(y, "bn")


def attention(a: BlockBuilder, x: Tensor, step: Attention, shrunk: int) -> Tensor:
    """Its scores, a share of a few per cent, are not counted."""
    wide = step.heads * step.head_dim
    q = convolution(a, x, "query.proj", x.width, wide, shrunk=shrunk)
    made = []
    for name in ("key", "value"):
        inner, y, at = a.part(name), x, shrunk
        if step.halved:
            at = 2 * shrunk
            y = convolution(inner, y, "down_conv", y.width, y.width, KERNEL, groups=y.width)
            y = inner.rms_norm(y, "norm")
        made.append(convolution(inner, y, "proj", y.width, step.head_dim, shrunk=at))
    out = a.opaque("attention", wide, (), (q, *made))
    return convolution(a, out, "output.proj", wide, x.width, shrunk=shrunk)
