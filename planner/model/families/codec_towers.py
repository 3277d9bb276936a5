"""Encoders that turn an image or a sound into tokens of a codebook: Apertus 1.5, Chameleon."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower
from planner.model.operations import Tensor, Weight
from planner.model.spec import Placed

KERNEL = 3


def resnet(b: BlockBuilder, x: Tensor, out: int) -> Tensor:
    """Norm and convolution twice; a pointwise convolution where the channels change."""
    y = convolution(b, normalized(b, x, "norm1"), "conv1", x.width, out, KERNEL, bias=True)
    y = convolution(b, normalized(b, y, "norm2"), "conv2", out, out, KERNEL, bias=True)
    if x.width != out:
        x = convolution(b, x, "nin_shortcut", x.width, out, bias=True)
    return b.add(x, y)


def pixel_attention(b: BlockBuilder, x: Tensor) -> Tensor:
    """Every position sees every other one; projections are pointwise convolutions."""
    y = normalized(b, x, "norm")
    q, k, v = (convolution(b, y, name, x.width, x.width, bias=True) for name in "qkv")
    out = b.attention(q, k, v, heads=1, kv_heads=1, causal=False)
    return b.add(x, convolution(b, out, "proj_out", x.width, x.width, bias=True))


def middle(b: BlockBuilder, x: Tensor, attends: bool = True) -> Tensor:
    x = resnet(b.part("block_1"), x, x.width)
    if attends:
        x = pixel_attention(b.part("attn_1"), x)
    return resnet(b.part("block_2"), x, x.width)


def apertus(c: Config, prefix: str) -> Tower:
    """Stages of residual blocks, each of half the side; attention at some resolutions."""
    base, latent = c.size("base_channels"), c.size("latent_channels")
    factors, size = c.sizes("channel_multiplier") or (), c.size("resolution")
    c.require(bool(factors) and min(factors) > 0, "channel_multiplier", "sizes above 0")
    seen = c.sizes("attn_resolutions") or ()
    c.ignore("spatial_scale_factor")
    b = BlockBuilder("image tokenizer", base, sequence="image")
    e = b.part("encoder", "other")
    x = convolution(e, e.input, "conv_in", c.size("in_channels"), base, KERNEL, bias=True)
    for stage, factor in enumerate(factors):
        s = e.part(f"stages.{stage}")
        for i in range(c.size("num_res_blocks")):
            inner = s.part(f"layers.{i}")
            x = resnet(inner.part("resnet"), x, base * factor)
            if size // 2**stage in seen:
                x = pixel_attention(inner.part("attention"), x)
        if stage + 1 < len(factors):
            x = convolution(s, x, "downsample.conv", x.width, x.width, KERNEL, bias=True)
    x = normalized(e, middle(e.part("mid"), x), "norm_out")
    x = convolution(e, x, "conv_out", x.width, latent, KERNEL, bias=True)
    out, p = c.size("embed_dim"), b.part("", "other")
    x = convolution(p, x, "quant_conv", latent, out, bias=True)
    learned(p, x, "quantize.embedding.weight", c.size("codebook_size"), out)
    return Tower((Placed(prefix, b.block()),), out)


def chameleon(c: Config, prefix: str) -> Tower:
    """Chameleon's: the same under other names, with attention in the middle alone by default."""
    base, latent, out = (c.size(n) for n in ("base_channels", "latent_channels", "embed_dim"))
    factors, size = c.sizes("channel_multiplier") or (), c.size("resolution")
    c.require(bool(factors) and min(factors) > 0, "channel_multiplier", "sizes above 0")
    doubled = c.flag("double_latent")
    c.runs_only_if(not doubled, "double_latent", "false")
    attends = c.word("attn_type") == "vanilla"
    seen = (c.sizes("attn_resolutions") or ()) if attends else ()
    c.ignore("dropout", "attn_resolutions")
    b = BlockBuilder("image tokenizer", base, sequence="image")
    e = b.part("encoder", "other")
    x = convolution(e, e.input, "conv_in", c.size("in_channels"), base, KERNEL, bias=True)
    for stage, factor in enumerate(factors):
        s = e.part(f"down.{stage}")
        for i in range(c.size("num_res_blocks")):
            x = resnet(s.part(f"block.{i}"), x, base * factor)
            if size // 2**stage in seen:
                x = pixel_attention(s.part(f"attn.{i}"), x)
        if stage + 1 < len(factors):
            x = convolution(s, x, "downsample.conv", x.width, x.width, KERNEL, bias=True)
    x = normalized(e, middle(e.part("mid"), x, attends), "norm_out")
    x = convolution(e, x, "conv_out", x.width, latent * (1 + doubled), KERNEL, bias=True)
    p = b.part("", "other")
    x = convolution(p, x, "quant_conv", latent, out, bias=True)
    x = learned(p, x, "quantize.embedding.weight", c.size("num_embeddings"), out)
    convolution(p, x, "post_quant_conv", out, latent, bias=True)
    return Tower((Placed(prefix, b.block()),), out)


# ---- WavTokenizer -------------------------------------------------------------------------------

# Gates of a long short-term memory: input, forget, cell, output.
LSTM_GATES = 4
UNUSED_BY_THE_ENCODER = (
    *("sampling_rate", "dilation_growth_rate", "use_causal_conv", "pad_mode", "norm_eps"),
    *("decoder_hidden_size", "decoder_intermediate_size", "decoder_num_layers"),
    *("adanorm_num_embeddings", "decoder_attention_num_groups", "codebook_size", "codebook_dim"),
)


def wavtokenizer(c: Config, prefix: str) -> Tower:
    """Strided convolutions with residual blocks, then a recurrent layer; no codebook is learned."""
    c.ignore(*UNUSED_BY_THE_ENCODER)
    filters, out, compress = c.size("num_filters"), c.size("hidden_size"), c.size("compress")
    style = c.one_of("norm_type", ("weight_norm", "time_group_norm"))
    b = BlockBuilder("sound tokenizer", filters, sequence="audio")
    e, number = b.part("encoder", "other"), 0

    def step(x: Tensor, name: str, after: int, kernel: int) -> Tensor:
        return sound_convolution(e, x, f"layers.{name}", after, kernel, style)

    x = e.opaque("sound", c.size("audio_channels"), ())
    x = step(x, "0", filters, c.size("kernel_size"))
    for ratio in reversed(c.sizes("upsampling_ratios") or ()):
        for _ in range(c.count("num_residual_layers")):
            number += 1
            y = step(x, f"{number}.block.1", x.width // compress, c.size("residual_kernel_size"))
            y = step(y, f"{number}.block.3", x.width, 1)
            if c.flag("use_conv_shortcut"):
                x = step(x, f"{number}.shortcut", x.width, 1)
            x = e.add(x, y)
        number += 2  # the activation, and what follows
        x = step(x, str(number), 2 * x.width, 2 * ratio)
    number += 1
    x = recurrent(e, x, f"layers.{number}.lstm", c.count("num_lstm_layers"))
    step(x, str(number + 2), out, c.size("last_kernel_size"))
    c.ignore("use_conv_shortcut", "residual_kernel_size")
    return Tower((Placed(prefix, b.block()),), out)


def sound_convolution(
    b: BlockBuilder, x: Tensor, name: str, out: int, kernel: int, style: str
) -> Tensor:
    """Along time; the weight is stored as length and direction, or a norm follows."""
    inner = b.part(name)
    kernel_shape = (out, x.width, kernel)
    weights: list[Weight] = [inner.weight("conv.bias", out)]
    if style == "weight_norm":
        parts = "conv.parametrizations.weight"
        weights.append(inner.weight(f"{parts}.original0", out, 1, 1, kind="vector"))
        weights.append(inner.weight(f"{parts}.original1", *kernel_shape))
    else:
        weights.append(inner.weight("conv.weight", *kernel_shape))
        weights += [inner.weight("norm.weight", out), inner.weight("norm.bias", out)]
    return inner.opaque("conv", out, weights, (x,), flops_per_token=2 * out * x.width * kernel)


def recurrent(b: BlockBuilder, x: Tensor, name: str, layers: int) -> Tensor:
    inner, gates = b.part(name), LSTM_GATES * x.width
    for i in range(layers):
        weights = [inner.weight(f"weight_{way}_l{i}", gates, x.width) for way in ("ih", "hh")]
        weights += [inner.weight(f"bias_{way}_l{i}", gates) for way in ("ih", "hh")]
        x = inner.opaque(f"l{i}", x.width, weights, (x,), flops_per_token=4 * gates * x.width)
    return x
