"""Janus: an encoder to look with, and a codec of image tokens to draw with."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized
from planner.model.families.codec_towers import KERNEL, middle, pixel_attention, resnet
from planner.model.families.vision_layers import (
    Biases,
    Names,
    attention_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, ends_in, stacked, start
from planner.model.operations import Tensor
from planner.model.spec import Placed

UNUSED = ("num_patches", "projection_dim", "num_hidden_layers", "hidden_act")
UNUSED_BY_THE_CODEC = (*UNUSED, "image_token_embed_dim")


def vision(c: Config, prefix: str) -> Tower:
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("projection_dim", "depth", "num_image_tokens", "hidden_dropout_rate")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    x = patch_projection(e, "patch_embedding", width, c.size("num_channels"), *side)
    learned(e, x, "position_embedding.weight", patches(c), width)
    bias = c.flag("attention_bias")
    normed = ("self_attn.q_norm", "self_attn.k_norm") if c.flag("use_qk_norm") else None
    names = Names(
        ("layer_norm1", "layer_norm2"),
        *attention_names("self_attn", "projection_layer"),
        head_norms=normed,
        head_norms_rms=False,
        norms_all_heads=True,
    )
    layer = vision_layer(
        names,
        width,
        c.size("num_attention_heads"),
        int(width * c.number("mlp_ratio", 4)),
        c.word("hidden_act"),
        Biases(bias, bias, bias),
    )
    return stacked(c, prefix, width, b, layer, "encoder.layers.{}", ends_in("post_layernorm"))


def codec(c: Config) -> Placed:
    """Encoder, codebook and decoder (VQGAN) of images."""
    c.ignore(*UNUSED_BY_THE_CODEC)
    latent, width = c.size("latent_channels"), c.size("embed_dim")
    base = c.size("base_channels")
    b = BlockBuilder("image codec", base, sequence="image")
    v = b.part("model.vqmodel", "other")
    x = encoder(c, v.part("encoder"), base, latent)
    x = convolution(v, x, "quant_conv", latent, width, bias=True)
    x = learned(v, x, "quantize.embedding.weight", c.size("num_embeddings"), width)
    x = convolution(v, x, "post_quant_conv", width, latent, bias=True)
    decoder(c, v.part("decoder"), x, base)
    return Placed("", b.block())


def factors(c: Config) -> tuple[int, ...]:
    given = c.sizes("channel_multiplier") or ()
    c.require(bool(given) and min(given) > 0, "channel_multiplier", "sizes above 0")
    return given


def encoder(c: Config, e: BlockBuilder, base: int, latent: int) -> Tensor:
    """Attention is in the last stage alone."""
    latent *= 2 if c.flag("double_latent") else 1
    x = convolution(e, e.input, "conv_in", c.size("in_channels"), base, KERNEL, bias=True)
    stages = factors(c)
    for stage, factor in enumerate(stages):
        s, last = e.part(f"down.{stage}"), stage + 1 == len(stages)
        for i in range(c.size("num_res_blocks")):
            x = resnet(s.part(f"block.{i}"), x, base * factor)
            if last:
                x = pixel_attention(s.part(f"attn.{i}"), x)
        if not last:
            x = convolution(s, x, "downsample.conv", x.width, x.width, KERNEL, bias=True)
    x = normalized(e, middle(e.part("mid"), x), "norm_out")
    return convolution(e, x, "conv_out", x.width, latent, KERNEL, bias=True)


def decoder(c: Config, d: BlockBuilder, x: Tensor, base: int) -> None:
    """The encoder backwards, with a block more in each stage."""
    stages = factors(c)[::-1]
    x = convolution(d, x, "conv_in", x.width, base * stages[0], KERNEL, bias=True)
    x = middle(d.part("mid"), x)
    for stage, factor in enumerate(stages):
        s = d.part(f"up.{stage}")
        for i in range(c.size("num_res_blocks") + 1):
            x = resnet(s.part(f"block.{i}"), x, base * factor)
            if stage == 0:
                x = pixel_attention(s.part(f"attn.{i}"), x)
        if stage + 1 < len(stages):
            x = convolution(s, x, "upsample.conv", x.width, x.width, KERNEL, bias=True)
    x = normalized(d, x, "norm_out")
    convolution(d, x, "conv_out", x.width, c.size("out_channels"), KERNEL, bias=True)


def beside(c: Config, width: int) -> list[Placed]:
    """What brings drawn tokens into the language model and out of it again."""
    q = c.sub("vq_config")
    inside, out, words = q.size("embed_dim"), q.size("projection_dim"), q.size("num_embeddings")
    b = BlockBuilder("drawing", width, sequence="image")
    m = b.part("model", "other")
    x = m.embedding("generation_embeddings", words, inside, split="whole")
    a = m.part("generation_aligner")
    aligned(a, x, out, q.size("num_hidden_layers"), q.word("hidden_act"))
    h = m.part("generation_head")
    x = h.opaque("image tokens", q.size("image_token_embed_dim"), ())
    y = h.activation(h.linear(x, "proj_out", out, bias=True), q.word("hidden_act"))
    h.linear(y, "vision_head", words, bias=True)
    drawn = codec(q)
    q.finish()
    return [drawn, Placed("", b.block())]


def aligned(b: BlockBuilder, x: Tensor, out: int, depth: int, activation: str) -> Tensor:
    """`depth` linears, all but the first from `out` to `out`."""
    x = b.linear(x, "fc1", out, bias=True)
    for i in range(depth - 1):
        x = b.linear(b.activation(x, activation), f"hidden_layers.{i}", out, bias=True)
    return x
