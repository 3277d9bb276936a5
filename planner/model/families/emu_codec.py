"""Emu3's codec of images and films: tokens of a codebook, and pictures out of them again."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, fitted, normalized
from planner.model.families.codec_towers import KERNEL
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower
from planner.model.operations import Tensor
from planner.model.spec import Placed

Norm = Callable[[BlockBuilder, Tensor, str], Tensor]
# Kernels over frames, rows and columns (modeling_emu3.py).
CUBE, HALVING, ALONG = (3, 3, 3), (4, 3, 3), (3, 1, 1)


def told_by(codes: int) -> Norm:
    """A norm whose scale and shift come of the image's tokens, `codes` numbers each."""

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        inner = b.part(name)
        y = normalized(inner, x, "norm_layer")
        for way in ("conv_y", "conv_b"):
            made = convolution(inner, inner.make(codes), way, codes, x.width, bias=True)
            y = inner.opaque(f"{way} applied", x.width, (), (y, made))
        return y

    return norm


def resnet(b: BlockBuilder, x: Tensor, out: int, norm: Norm) -> Tensor:
    y = convolution(b, norm(b, x, "norm1"), "conv1", x.width, out, KERNEL, bias=True)
    y = convolution(b, norm(b, y, "norm2"), "conv2", out, out, KERNEL, bias=True)
    if x.width != out:
        x = convolution(b, x, "nin_shortcut", x.width, out, bias=True)
    return b.add(x, y)


def attention(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    c.runs_only_if(width == x.width, "hidden_size", f"{x.width}, the channels where it attends")
    c.divides("hidden_size", "num_attention_heads")
    out, x = x.width, fitted(b, x, width)
    q, k, v = (b.linear(x, f"{name}_proj", width, bias=True) for name in "qkv")
    y = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    return fitted(b, b.linear(y, "out_proj", width, bias=True, split="row"), out)


def attended(c: Config, b: BlockBuilder, x: Tensor, norm: Norm, module: str, normed: str) -> Tensor:
    return b.add(x, attention(c, b.part(module, "attention"), norm(b, x, normed)))


def middle(c: Config, b: BlockBuilder, x: Tensor, norm: Norm) -> Tensor:
    x = resnet(b.part("block_1"), x, x.width, norm)
    x = attended(c, b, x, norm, "attn_1", "attn_norm")
    return resnet(b.part("block_2"), x, x.width, norm)


def stage(c: Config, b: BlockBuilder, x: Tensor, out: int, level: int, norm: Norm) -> Tensor:
    """Residual blocks, each with attention where the level is one of attn_resolutions."""
    decoding = norm is not normalized
    for i in range(c.size("num_res_blocks") + decoding):
        x = resnet(b.part(f"block.{i}"), x, out, norm)
        if level in (c.sizes("attn_resolutions") or ()):
            x = attended(c, b, x, norm, f"attn.{i}", f"attn_norms.{i}")
    return x


def over_time(b: BlockBuilder, x: Tensor, name: str, kernel: tuple[int, int, int]) -> Tensor:
    return convolution(b, x, f"{name}.conv", x.width, x.width, kernel, bias=True)


def frames(c: Config, b: BlockBuilder, x: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Convolutions that halve (or double) the frames, and residual blocks over them."""
    factor = c.size("temporal_downsample_factor")
    for i in range(factor.bit_length() - 1):
        x = over_time(b, x, f"time_conv.{i}.conv", kernel)
    for i in range(c.size("num_res_blocks")):
        inner, y = b.part(f"time_res_stack.{i}"), x
        for j in (1, 2):
            y = over_time(inner, normalized(inner, y, f"norm{j}"), f"conv{j}", CUBE)
        x = inner.add(x, y)
    return x


def emu3(c: Config, prefix: str) -> Tower:
    base, latent, codes = (c.size(n) for n in ("base_channels", "latent_channels", "embed_dim"))
    factors = c.sizes("channel_multiplier") or ()
    c.require(bool(factors) and min(factors) > 0, "channel_multiplier", "sizes above 0")
    doubled = c.flag("double_latent")
    c.runs_only_if(not doubled, "double_latent", "false")
    c.ignore("attention_dropout")
    b = BlockBuilder("image codec", base, sequence="image")
    e = b.part("encoder", "other")
    x = convolution(e, e.input, "conv_in", c.size("in_channels"), base, KERNEL, bias=True)
    for level, factor in enumerate(factors):
        s = e.part(f"down_block.down.{level}")
        x = stage(c, s, x, base * factor, level, normalized)
        if level + 1 < len(factors):
            x = convolution(s, x, "downsample.conv", x.width, x.width, KERNEL, bias=True)
    x = normalized(e, middle(c, e.part("middle_block"), x, normalized), "norm_out")
    put_out = latent * (1 + doubled)
    x = frames(c, e, convolution(e, x, "conv_out", x.width, put_out, KERNEL, bias=True), HALVING)
    p, wide = b.part("", "other"), base * factors[-1]
    x = convolution(p, x, "quant_conv.conv", latent, codes, ALONG, bias=True)
    x = learned(p, x, "quantize.embedding.weight", c.size("codebook_size"), codes)
    x = convolution(p, x, "post_quant_conv.conv", codes, latent, ALONG, bias=True)
    d, norm = b.part("decoder", "other"), told_by(codes)
    x = convolution(d, frames(c, d, x, CUBE), "conv_in", latent, wide, KERNEL, bias=True)
    x = middle(c, d.part("middle_block"), x, norm)
    for level in reversed(range(len(factors))):
        s = d.part(f"up_block.up.{level}")
        x = stage(c, s, x, base * factors[level], level, norm)
        if level:
            x = convolution(s, x, "upsample.conv", x.width, x.width, KERNEL, bias=True)
    x = norm(d, x, "norm_out")
    convolution(d, x, "conv_out", x.width, c.size("out_channels"), KERNEL, bias=True)
    return Tower((Placed(prefix, b.block()),), codes)
