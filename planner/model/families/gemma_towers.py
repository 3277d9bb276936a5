"""What sees and hears in Gemma 3n and Gemma 4, and what brings it to the text's width."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks, wiring
from planner.model.assemble import layers_of, rms
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import COLOURS, Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

# Each feed-forward part of the conformer is four times as wide as the rest, its first part with
# the gate of the convolution twice (modeling_gemma3n.py, modeling_gemma4.py).
INNER = 4
AXES = 2
# The convolution that halves time and bands: 3 x 3, padded by 1 band at both ends.
HALVING_KERNEL, HALVING_STRIDE, PADDING = 3, 2, 1


def vision(c: Config, prefix: str) -> Tower:
    """Gemma 4: flattened patches, a table of positions for each axis, Gemma's four norms."""
    width, heads, kv_heads = (
        c.size(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    h = Heads(heads, kv_heads, c.size("head_dim"))
    c.require(heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads} query heads")
    c.ignore("attention_bias", "pooling_kernel_size", "use_clipped_linears", "standardize")
    c.ignore("max_position_embeddings", "default_output_length", "rope_parameters")
    inner, activation = c.size("intermediate_size"), c.word("hidden_activation")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("self_attn", "attention")
        q = a.linear(x, "q_proj.linear", h.q_width)
        k, v = (a.linear(x, f"{name}_proj.linear", h.kv_width) for name in "kv")
        q, k = a.rms_norm(q, "q_norm", heads=heads), a.rms_norm(k, "k_norm", heads=kv_heads)
        v = a.rms_norm(v, "v_norm", heads=kv_heads, weight=False)
        out = blocks.rotated_attention(a, q, k, v, h, causal=False)
        return a.linear(out, "o_proj.linear", width, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.gated_feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("gate_proj.linear", "up_proj.linear", "down_proj.linear"),
        )

    first = BlockBuilder("patch embedding", width, sequence="image")
    e, side = first.part("patch_embedder", "embedding"), c.size("patch_size")
    x = e.linear(e.opaque("pixels", COLOURS * side * side, ()), "input_proj", width)
    learned(e, x, "position_embedding_table", AXES, c.size("position_embedding_size"), width)
    b = BlockBuilder("image layer", width, sequence="image")
    wiring.sandwich(b, rms, attention, feed_forward)
    places = [Placed(prefix, first.block())]
    places += [Placed(f"{prefix}encoder.layers.{i}.", b.block()) for i in range(layers_of(c))]
    return Tower(tuple(places), width)


def patches(c: Config, prefix: str) -> Tower:
    """Gemma 4 unified: no encoder, but a linear over the pixels and a place for each axis."""
    side, width = c.size("patch_size") * c.size("pooling_kernel_size"), c.size("mm_embed_dim")
    c.require(c.raw("model_patch_size") in (None, side), "model_patch_size", str(side))
    c.ignore("num_soft_tokens")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    x = e.layer_norm(e.opaque("pixels", COLOURS * side * side, ()), "patch_ln1")
    x = e.layer_norm(e.linear(x, "patch_dense", width, bias=True), "patch_ln2")
    x = learned(e, x, "pos_embedding", c.size("mm_posemb_size"), AXES, width)
    e.layer_norm(x, "pos_norm")
    return Tower((Placed(prefix, b.block()),), c.size("output_proj_dims"))


def samples(c: Config, prefix: str) -> Tower:
    """Gemma 4 unified: bare samples of the sound."""
    c.ignore("audio_samples_per_token")
    return Tower((), c.size("audio_embed_dim"))


# ---- sound --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """Where a conformer layer keeps its parts.

    feeds      the feed-forward parts before and after
    norms      before and after the attention, and after the layer
    attention  queries, keys, values; where its last linear lies
    relative   the linear over relative positions
    linear     ends the names of linears whose values may be clipped
    """

    feeds: tuple[str, str]
    norms: tuple[str, str, str]
    attention: tuple[str, str]
    relative: str
    linear: str


THIRD = Names(
    ("ffw_layer_start", "ffw_layer_end"),
    ("attention.pre_attn_norm", "attention.post_norm", "norm"),
    ("attention.attn", "attention.post"),
    "relative_position_embedding.pos_proj",
    "",
)
FOURTH = Names(
    ("feed_forward1", "feed_forward2"),
    ("norm_pre_attn", "norm_post_attn", "norm_out"),
    ("self_attn", "self_attn.post"),
    "relative_k_proj",
    ".linear",
)


def conformer_layer(n: Names, width: int, heads: int, kernel: int, window: int) -> Block:
    """Half a feed-forward part, attention, a convolution along time, the other half."""
    b = BlockBuilder("audio layer", width, sequence="audio")

    def feed(x: Tensor, name: str) -> Tensor:
        f = b.part(name, "feed_forward")
        y = f.linear(f.rms_norm(x, "pre_layer_norm"), f"ffw_layer_1{n.linear}", INNER * width)
        y = f.linear(f.activation(y, "silu"), f"ffw_layer_2{n.linear}", width, split="row")
        return b.add(x, b.scale(f.rms_norm(y, "post_layer_norm")))

    x = feed(b.input, n.feeds[0])
    y = b.rms_norm(x, n.norms[0])
    a = b.part(n.attention[0], "attention")
    q, k, v = (a.linear(y, f"{name}_proj{n.linear}", width) for name in "qkv")
    weights = (
        a.weight(f"{n.relative}.weight", width, width, split="column"),
        a.weight("per_dim_scale", width // heads, kind="vector"),
    )
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, window=window, weights=weights)
    y = b.linear(out, f"{n.attention[1]}{n.linear}", width, split="row")
    x = b.add(x, b.rms_norm(y, n.norms[1]))
    light = b.part("lconv1d", "other")
    y = light.linear(light.rms_norm(x, "pre_layer_norm"), f"linear_start{n.linear}", 2 * width)
    y, gate = light.split(y, width, width)
    y = light.multiply(y, light.activation(gate, "sigmoid"))
    y = convolution(light, y, "depthwise_conv1d", width, width, (kernel,), groups=width)
    y = light.activation(light.rms_norm(y, "conv_norm"), "silu")
    x = b.add(x, light.linear(y, f"linear_end{n.linear}", width, split="row"))
    b.rms_norm(feed(x, n.feeds[1]), n.norms[2])
    return b.block()


def sound(c: Config, prefix: str) -> Tower:
    """Gemma 4: two convolutions halve time and bands, conformer layers, a linear."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    c.divides("hidden_size", "num_attention_heads")
    c.ignore("attention_chunk_size", "attention_logit_cap", "attention_invalid_logits_value")
    c.ignore("use_clipped_linears", "gradient_clipping", "residual_weight", "hidden_act")
    channels = c.sizes("subsampling_conv_channels") or ()
    c.require(len(channels) == AXES, "subsampling_conv_channels", "two sizes")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("subsample_conv_projection", "embedding")
    x, before = e.input, 1
    for i, out in enumerate(channels):
        x = convolution(e, x, f"layer{i}.conv", before, out, HALVING_KERNEL)
        x, before = e.layer_norm(x, f"layer{i}.norm", bias=False), out
    joined = e.opaque("join", channels[0] // 4 * channels[1], (), (x,))
    e.linear(joined, "input_proj_linear", width)
    window = c.size("attention_context_left") + c.count("attention_context_right")
    layer = conformer_layer(FOURTH, width, heads, c.size("conv_kernel_size"), window)
    places = [Placed(prefix, b.block())]
    places += [Placed(f"{prefix}layers.{i}.", layer) for i in range(layers_of(c))]
    last = BlockBuilder("audio end", width, sequence="audio")
    last.part("", "other").linear(last.input, "output_proj", c.size("output_proj_dims"), bias=True)
    return Tower((*places, Placed(prefix, last.block())), c.size("output_proj_dims"))


def sound_3n(c: Config, prefix: str) -> Tower:
    """Gemma 3n: the same with its own names, kernels and strides, and no linear at the end."""
    width, heads = c.size("hidden_size"), c.size("conf_num_attention_heads")
    c.divides("hidden_size", "conf_num_attention_heads")
    c.ignore("conf_attention_chunk_size", "conf_attention_logit_cap", "conf_reduction_factor")
    c.ignore("gradient_clipping", "conf_residual_weight", "vocab_size", "vocab_offset")
    channels = c.sizes("sscp_conv_channel_size") or ()
    kernels, strides = (sides(c, f"sscp_conv_{name}_size") for name in ("kernel", "stride"))
    c.require(len(channels) == AXES, "sscp_conv_channel_size", "two sizes")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("subsample_conv_projection", "embedding")
    x, before, bands = e.input, 1, c.size("input_feat_size")
    for i, (out, kernel, stride) in enumerate(zip(channels, kernels, strides, strict=True)):
        x = convolution(e, x, f"conv_{i}.conv", before, out, kernel)
        x, before = e.layer_norm(x, f"conv_{i}.norm", bias=False), out
        bands = (bands + 2 * PADDING - kernel[1]) // stride[1] + 1
    e.linear(e.opaque("join", channels[1] * bands, (), (x,)), "input_proj_linear", width)
    window = c.size("conf_attention_context_left") + c.count("conf_attention_context_right")
    layer = conformer_layer(THIRD, width, heads, c.size("conf_conv_kernel_size"), window)
    places = [Placed(prefix, b.block())]
    layers = layers_of(c, "conf_num_hidden_layers")
    places += [Placed(f"{prefix}conformer.{i}.", layer) for i in range(layers)]
    return Tower(tuple(places), width)


def sides(c: Config, name: str) -> list[tuple[int, int]]:
    """Time and bands of each of the two convolutions."""
    value = c.raw(name)
    pairs = isinstance(value, list | tuple) and len(value) == AXES
    good = pairs and all(
        isinstance(p, list | tuple) and len(p) == AXES and all(type(n) is int and n > 0 for n in p)
        for p in value
    )
    c.require(good, name, "two pairs of sizes")
    return [(p[0], p[1]) for p in value]


# ---- to the text's width ------------------------------------------------------------------------

EMBEDDERS = {"vision_config": "embed_vision", "audio_config": "embed_audio"}


def embedders(c: Config, width: int) -> list[Placed]:
    """A norm without weight and a linear; in Gemma 3n also a table of tokens of its own."""
    made = []
    for field, name in EMBEDDERS.items():
        if c.left_out(field):
            continue
        part, text = c.sub(field), f"model.{name}"
        if part.model_type == "gemma4_unified_vision":
            text += ".multimodal_embedder"
        out = next(part.size(field) for field in WIDTHS if part.knows(field))
        b = BlockBuilder(name, out, sequence=field.removesuffix("_config"))
        p = b.part(text, "other")
        x = p.input
        if c.model_type == "gemma3n":
            x = learned(p, x, "embedding.weight", part.size("vocab_size"), out)
            x = p.rms_norm(p.rms_norm(x, "hard_embedding_norm"), "soft_embedding_norm")
        else:
            x = p.rms_norm(x, "embedding_pre_projection_norm", weight=False)
        p.linear(x, "embedding_projection", width, split="whole")
        made.append(Placed("", b.block()))
    return made


# What a part puts out, by the first of these fields that its class has.
WIDTHS = ("output_proj_dims", "audio_embed_dim", "hidden_size")
