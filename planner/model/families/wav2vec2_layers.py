"""Conformer layers of wav2vec 2.0's later kin, and the adapters that shorten what they put out."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized
from planner.model.operations import Block, Tensor, Weight


def conformer(c: Config, width: int, norm: str) -> Block:
    """Half a feed-forward part, attention, convolutions, the other half; each after a norm.

    norm   of the depthwise convolution: "batch_norm" or "depthwise_layer_norm"
    """
    b = BlockBuilder("conformer", width, sequence="audio")
    activation, taps = c.word("hidden_act"), c.size("conv_depthwise_kernel_size")
    c.require(taps % 2 == 1, "conv_depthwise_kernel_size", "an odd number")
    feed_forward(c, b, b.layer_norm(b.input, "ffn1_layer_norm"), "ffn1", activation)
    attention(c, b, b.layer_norm(b.input, "self_attn_layer_norm"), positions=True)
    m = b.part("conv_module")
    x = m.layer_norm(b.input, "layer_norm")
    x = convolution(m, x, "pointwise_conv1", width, 2 * width, (1,))
    x = m.split(x, width, width)[0]
    x = convolution(m, x, "depthwise_conv", width, width, (taps,), groups=width)
    convolution(m, normalized(m, x, norm), "pointwise_conv2", width, width, (1,))
    feed_forward(c, b, b.layer_norm(b.input, "ffn2_layer_norm"), "ffn2", activation)
    b.layer_norm(b.input, "final_layer_norm")
    return b.block()


def feed_forward(c: Config, b: BlockBuilder, x: Tensor, name: str, activation: str) -> Tensor:
    f, inner = b.part(name, "feed_forward"), c.size("intermediate_size")
    y = f.activation(f.linear(x, "intermediate_dense", inner, bias=True), activation)
    return f.linear(y, "output_dense", x.width, bias=True, split="row")


def attention(c: Config, b: BlockBuilder, x: Tensor, *, positions: bool) -> Tensor:
    """position_embeddings_type: rotary (no weights), relative, relative_key, or null: none."""
    a, heads, width = b.part("self_attn", "attention"), c.size("num_attention_heads"), x.width
    c.require(width % heads == 0, "num_attention_heads", f"a divisor of {width}")
    head, weights = width // heads, list[Weight]()
    known = ("rotary", "relative", "relative_key", None)
    kind = None
    if positions and not c.is_null("position_embeddings_type"):
        kind = c.one_of("position_embeddings_type", known)
    if kind == "relative":
        weights.append(a.weight("linear_pos.weight", width, width))
        weights += [a.weight(f"pos_bias_{n}", heads, head, kind="vector") for n in "uv"]
    elif kind == "relative_key" and c.model_type == "wav2vec2-bert":
        left, right = (c.size(f"{side}_max_position_embeddings") for side in ("left", "right"))
        rows = left + right + 1
        weights.append(a.weight("distance_embedding.weight", rows, head, kind="embedding"))
    q, k, v = (a.linear(x, f"linear_{n}", width, bias=True) for n in "qkv")
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False, weights=weights)
    return a.linear(out, "linear_out", width, bias=True, split="row")


def projected(c: Config, p: BlockBuilder, x: Tensor) -> Tensor:
    """The adapter's own width, where output_hidden_size is not hidden_size."""
    out = c.size("output_hidden_size", x.width)
    if out == x.width:
        return x
    x = p.linear(x, "adapter.proj", out, bias=True, split="whole")
    return p.layer_norm(x, "adapter.proj_layer_norm")


def convolutions(c: Config, p: BlockBuilder, x: Tensor) -> Tensor:
    """Gated convolutions, each of which shortens the sequence."""
    x, taps = projected(c, p, x), (c.size("adapter_kernel_size"),)
    for i in range(c.size("num_adapter_layers")):
        y = convolution(p, x, f"adapter.layers.{i}.conv", x.width, 2 * x.width, taps, bias=True)
        x = p.split(y, x.width, x.width)[0]
    return x


def layers(c: Config, p: BlockBuilder, x: Tensor) -> Tensor:
    """wav2vec 2.0 BERT: whole layers, whose attention and residual are both shortened."""
    if c.flag("use_intermediate_ffn_before_adapter"):
        feed_forward(c, p, x, "intermediate_ffn", "relu")
    x, taps = projected(c, p, x), (c.size("adapter_kernel_size"),)
    width = x.width
    for i in range(c.size("num_adapter_layers")):
        b = p.part(f"adapter.layers.{i}")
        for name in ("residual", "self_attn"):
            y = b.layer_norm(x, f"{name}_layer_norm")
            convolution(b, y, f"{name}_conv", width, 2 * width, taps, bias=True)
        x = attention(c, b, x, positions=False)
        x = feed_forward(c, b, b.layer_norm(x, "ffn_layer_norm"), "ffn", c.word("adapter_act"))
    return x
