"""The layers of BART and its kin, and what sets a family apart from BART."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.model import expert_operations
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.audio_towers import convolutions
from planner.model.operations import Block, Tensor, Weight


@dataclass(frozen=True)
class Kin:
    """What sets a family apart from BART.

    pre_norm          norms before each part, and one after the last layer
    offset            rows of the position tables beyond max_position_embeddings; None: no table
    embedding_norm    a norm after the embeddings
    final_norm        name of the norm after the last layer
    bias              biases of attention; "keys": all but the keys
    encoder           style of the encoder's attention where it is not BART's
    prefix            of the model's names; empty: its parts lie at the root
    stacks            names of the two stacks
    cross             of the cross-attention and its norm
    feed              module of the feed-forward part, and its norm
    width             field of the width
    routed            every few layers, experts in place of the feed-forward part
    global_tokens     tokens that stand for the whole text and have a norm of their own
    apart             a vocabulary for each stack, and positions counted from the padding token
    hears             what makes the encoder's tokens of sound; there is no table of words then
    """

    pre_norm: bool = False
    offset: int | None = 2
    embedding_norm: bool = True
    final_norm: str | None = None
    bias: bool | str = True
    encoder: str = "bart"
    prefix: str = "model"
    head: str = "lm_head"
    tied_alone: bool = True
    stacks: tuple[str, str] = ("encoder", "decoder")
    cross: tuple[str, str] = ("encoder_attn", "encoder_attn_layer_norm")
    feed: tuple[str, str] = ("", "final_layer_norm")
    width: str = "d_model"
    routed: bool = False
    global_tokens: bool = False
    apart: bool = False
    hears: Callable[[Config, BlockBuilder, int], Tensor] | None = None

    def inside(self, name: str) -> str:
        """The full name of a part of the model."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def stack(self, name: str) -> str:
        return self.inside(self.stacks[0] if name == "encoder" else self.stacks[1])


@dataclass(frozen=True)
class Stack:
    """One of the two stacks: name, layers, heads, inner width, rows of its position table."""

    name: str
    layers: int
    heads: int
    inner: int
    positions: int | None


Mixer = Callable[[BlockBuilder, Tensor, Stack, Kin], Tensor]


def encoder_layer(c: Config, kin: Kin, s: Stack, width: int, routed: bool) -> Block:
    b = BlockBuilder("encoder", width, sequence="encoder")
    if kin.global_tokens:
        b.layer_norm(b.input, "global_self_attn_layer_norm")
    styles = {"bart": attention, "bigbird": bigbird_attention, "longformer": longformer_attention}
    x = joined(b, kin, b.input, "self_attn_layer_norm", styles[kin.encoder], s, "self_attn")
    feed_forward(b, c, kin, s, x, routed)
    return b.block()


def decoder_layer(c: Config, kin: Kin, s: Stack, width: int, routed: bool) -> Block:
    b = BlockBuilder("decoder", width)
    x = joined(b, kin, b.input, "self_attn_layer_norm", attention, s, "self_attn")
    states = c.size("cross_attention_hidden_size", width)
    cross = cross_attention(states)
    x = joined(b, kin, x, kin.cross[1], cross, s, kin.cross[0])
    feed_forward(b, c, kin, s, x, routed)
    return b.block()


def joined(
    b: BlockBuilder, kin: Kin, x: Tensor, norm: str, mixer: Mixer, s: Stack, name: str
) -> Tensor:
    """Residual addition with the norm before the part or after it."""
    inner = b.part(name, "attention")
    y = b.layer_norm(x, norm) if kin.pre_norm else x
    y = b.add(x, mixer(inner, y, s, kin))
    return y if kin.pre_norm else b.layer_norm(y, norm)


def feed_forward(b: BlockBuilder, c: Config, kin: Kin, s: Stack, x: Tensor, routed: bool) -> Tensor:
    module, norm = kin.feed
    f = b.part(module, "experts" if routed else "feed_forward")
    y = b.layer_norm(x, norm) if kin.pre_norm else x
    if routed:
        y = experts(f, c, s, y)
    else:
        y = f.activation(f.linear(y, "fc1", s.inner, bias=True), c.word("activation_function"))
        y = f.linear(y, "fc2", x.width, bias=True, split="row")
    y = b.add(x, y)
    return y if kin.pre_norm else b.layer_norm(y, norm)


# Experts of each token in NLLB (arXiv 2207.04672, section 6.2): its router is no other's.
TOP_K = 2


def experts(b: BlockBuilder, c: Config, s: Stack, x: Tensor) -> Tensor:
    """Each token through two of the experts, whose matrices lie one by one."""
    count, bias, width = c.size("num_experts"), c.flag("router_bias"), x.width
    used = (min(TOP_K, count), count)
    expert_operations.router(b, x, "router.classifier", experts=count, top_k=TOP_K, bias=bias)
    weights = [
        b.weight(f"experts.expert_{i}.{name}", *dims, split="expert", used=used)
        for i in range(count)
        for name, dims in (
            ("fc1.weight", (s.inner, width)),
            ("fc1.bias", (s.inner,)),
            ("fc2.weight", (width, s.inner)),
            ("fc2.bias", (width,)),
        )
    ]
    flops = 2 * TOP_K * 2 * width * s.inner
    return b.opaque("experts", width, weights, (x,), flops_per_token=flops)


def attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    bias = bool(kin.bias)
    k = b.linear(x, "k_proj", x.width, bias=kin.bias is True)
    v = b.linear(x, "v_proj", x.width, bias=bias)
    q = b.linear(x, "q_proj", x.width, bias=bias)
    causal = s.name == "decoder"
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=causal)
    return b.linear(out, "out_proj", x.width, bias=bias, split="row")


def cross_attention(states: int) -> Mixer:
    """Keys and values from the encoder's output, priced as if it were as long as the text."""

    def part(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
        bias = bool(kin.bias)
        encoded = b.opaque("encoder_hidden_states", states, ())
        k = b.linear(encoded, "k_proj", x.width, bias=kin.bias is True)
        v = b.linear(encoded, "v_proj", x.width, bias=bias)
        q = b.linear(x, "q_proj", x.width, bias=bias)
        out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
        return b.linear(out, "out_proj", x.width, bias=bias, split="row")

    return part


def bigbird_attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    names, bias = ("query", "key", "value"), bool(kin.bias)
    q, k, v = (b.linear(x, f"self.{name}", x.width, bias=bias) for name in names)
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
    return b.linear(out, "output", x.width, bias=bias, split="row")


def longformer_attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    """Local attention, and matrices of their own for the tokens that see everything."""
    width, inner = x.width, b.part("longformer_self_attn")
    names = ("query", "key", "value")
    q, k, v = (inner.linear(x, name, width, bias=True) for name in names)
    weights: list[Weight] = []
    for name in names:
        weights.append(inner.weight(f"{name}_global.weight", width, width, split="column"))
        weights.append(inner.weight(f"{name}_global.bias", width, split="column"))
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False, weights=weights)
    return b.linear(out, "output", width, bias=True, split="row")


# ---- sound --------------------------------------------------------------------------------------


def spectrogram(c: Config, b: BlockBuilder, width: int) -> Tensor:
    """Whisper's two convolutions over the mel bands of the sound."""
    return convolutions(b, width, c.size("num_mel_bins"))


def subsampled(c: Config, b: BlockBuilder, width: int) -> Tensor:
    """Speech2Text's gated convolutions, each of which halves the number of frames."""
    kernels, middle = c.sizes("conv_kernel_sizes") or (), c.size("conv_channels")
    count = c.size("num_conv_layers")
    c.require(len(kernels) == count, "conv_kernel_sizes", f"{count}, as num_conv_layers says")
    x, before = b.input, c.size("input_feat_per_channel") * c.size("input_channels")
    for i, taps in enumerate(kernels):
        after = 2 * width if i == count - 1 else middle
        x = convolution(b, x, f"conv.conv_layers.{i}", before, after, (taps,), bias=True)
        x, before = b.split(x, after // 2, after - after // 2)[0], after // 2
    return x
