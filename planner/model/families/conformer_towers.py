"""Parakeet's encoder of sound (FastConformer): attention and a convolution in every layer."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import normalized
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

# Modules between two halvings: depthwise convolution, pointwise one, activation.
MODULES_PER_HALVING = 3


def parakeet(c: Config, prefix: str) -> Tower:
    c.ignore("scale_input", "num_key_value_heads", "projection_hidden_size", "projection_bias")
    width = c.size("hidden_size")
    c.divides("hidden_size", "num_attention_heads")
    layer = conformer_layer(c, width)
    places = [Placed(prefix, subsampling(c, width))]
    places += [Placed(f"{prefix}layers.{i}.", layer) for i in range(layers_of(c))]
    return Tower(tuple(places), width)


def subsampling(c: Config, width: int) -> Block:
    """Convolutions over time and bands, each of which halves both; later ones are separable."""
    factor, stride = c.size("subsampling_factor"), c.size("subsampling_conv_stride")
    channels, kernel = c.size("subsampling_conv_channels"), c.size("subsampling_conv_kernel_size")
    halvings = factor.bit_length() - 1
    c.require(halvings > 0, "subsampling_factor", "at least 2")
    bands = c.size("num_mel_bins")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("subsampling", "embedding")
    x, number = e.input, 0
    for i in range(halvings):
        left = channels * (bands // stride ** (i + 1))
        x = plane(e, x, f"layers.{number}", (channels, 1, kernel, kernel), left)
        if i:
            x = plane(e, x, f"layers.{number + 1}", (channels, channels, 1, 1), left)
        number += MODULES_PER_HALVING if i else MODULES_PER_HALVING - 1
    e.linear(x, "linear", width, bias=True, split="whole")
    return b.block()


def plane(
    b: BlockBuilder, x: Tensor, name: str, kernel: tuple[int, int, int, int], out: int
) -> Tensor:
    """A convolution over time and bands that makes `out` numbers a token."""
    weight = b.weight(f"{name}.weight", *kernel)
    flops = 2 * weight.elements * out // kernel[0]
    weights = (weight, b.weight(f"{name}.bias", kernel[0]))
    return b.opaque(name, out, weights, (x,), flops_per_token=flops)


def conformer_layer(c: Config, width: int) -> Block:
    """Half a feed-forward part, attention, convolution, the other half; each normed before."""
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    bias, activation = c.flag("attention_bias"), c.word("hidden_act")
    b = BlockBuilder("audio layer", width, sequence="audio")

    def half(x: Tensor, number: int) -> Tensor:
        f = b.part(f"feed_forward{number}", "feed_forward")
        y = b.layer_norm(x, f"norm_feed_forward{number}")
        y = f.activation(f.linear(y, "linear1", inner, bias=bias), activation)
        return b.add(x, b.scale(f.linear(y, "linear2", width, bias=bias, split="row")))

    x = half(b.input, 1)
    a = b.part("self_attn", "attention")
    y = b.layer_norm(x, "norm_self_att")
    q, k, v = (a.linear(y, f"{name}_proj", width, bias=bias) for name in "qkv")
    positions = [a.weight("relative_k_proj.weight", width, width, split="column")]
    positions += [a.weight(f"bias_{name}", heads, width // heads, kind="vector") for name in "uv"]
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False, weights=positions)
    x = b.add(x, a.linear(out, "o_proj", width, bias=bias, split="row"))
    x = b.add(x, convolution(c, b.part("conv", "other"), b.layer_norm(x, "norm_conv")))
    b.layer_norm(half(x, 2), "norm_out")
    return b.block()


def convolution(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """Gated pointwise, depthwise along time, batch norm, pointwise."""
    width, kernel, bias = x.width, c.size("conv_kernel_size"), c.flag("convolution_bias")

    def step(x: Tensor, name: str, out: int, inputs: int, taps: int) -> Tensor:
        weights = [b.weight(f"{name}.weight", out, inputs, taps)]
        flops = 2 * weights[0].elements
        if bias:
            weights.append(b.weight(f"{name}.bias", out))
        return b.opaque(name, out, weights, (x,), flops_per_token=flops)

    y, gate = b.split(step(x, "pointwise_conv1", 2 * width, width, 1), width, width)
    y = step(b.multiply(y, b.activation(gate, "sigmoid")), "depthwise_conv", width, 1, kernel)
    y = b.activation(normalized(b, y, "norm"), c.word("hidden_act"))
    return step(y, "pointwise_conv2", width, width, 1)
