"""Phi-4 multimodal: Phi-3's decoder, a SigLIP tower and a conformer that hears."""

from __future__ import annotations

from dataclasses import replace

from planner.model import families
from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.nesting import taken_as
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.state_space import convolution_flops

PARTS = ("vision_config", "audio_config")
PREFIX = "model.embed_tokens_extend"
TAPS = 3


def build(c: Config) -> ModelSpec:
    text = taken_as(c, "phi3")
    for part in PARTS:
        text.given.pop(part, None)
    spec = families.build(text)
    width = spec.hidden_size
    built = tower(c.sub("vision_config"), f"{PREFIX}.image_embed.img_processor.")
    audio = c.sub("audio_config")
    places = (
        *built.places,
        Placed("", image_projection(built.width, width)),
        *conformer(audio, width),
        *spec.layers,
    )
    return replace(
        spec,
        name=c.model_type,
        model_type=c.model_type,
        layers=places,
        config=c.given,
        warnings=(*spec.warnings, *built.warnings, *audio.finish()),
        not_trainable_because=NOT_MODELLED,
    )


def two_linears(b: BlockBuilder, x: Tensor, names: tuple[str, str], width: int) -> None:
    y = b.activation(b.linear(x, names[0], width, bias=True), "gelu")
    b.linear(y, names[1], width, bias=True, split="row")


def image_projection(inside: int, width: int) -> Block:
    b = BlockBuilder("projector", inside, sequence="image")
    i = b.part(f"{PREFIX}.image_embed", "other")
    weights = (
        i.weight("global_img_feature_extensor", 1, 1, inside, kind="embedding"),
        i.weight("sub_img_feature_extensor", 1, 1, 1, inside, kind="embedding"),
    )
    x = i.opaque("extensors", inside, weights, (i.input,))
    two_linears(i, x, ("img_projection_up", "img_projection_down"), width)
    return b.block()


# ---- the conformer ------------------------------------------------------------------------------


def conformer(c: Config, width: int) -> list[Placed]:
    c.ignore("chunk_size", "left_chunk", "conv_activation", "conv_glu_type", "feature_layer")
    c.ignore("nemo_activation", "nemo_final_size")
    prefix = f"{PREFIX}.audio_embed."
    layer = conformer_layer(c)
    layers = [
        Placed(f"{prefix}encoder.encoders.{i}.", layer) for i in range(layers_of(c, "num_blocks"))
    ]
    return [Placed(prefix, subsampling(c)), *layers, Placed(prefix, projections(c, width))]


def subsampling(c: Config) -> Block:
    """Convolutions that halve time and bands until time_reduction is reached."""
    width, channels = c.size("hidden_size"), c.size("nemo_conv_channels")
    reduction, bands = c.size("time_reduction"), c.size("input_size")
    halvings = reduction.bit_length() - 1
    c.require(reduction == 2**halvings and halvings > 0, "time_reduction", "a power of 2")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("encoder.embed", "embedding")
    x, number = e.input, 0
    for step in range(halvings):
        bands = (bands - 1) // 2 + 1
        kinds = ((1, TAPS),) if step == 0 else ((1, TAPS), (channels, 1))
        for before, side in kinds:
            name = f"conv.{number}"
            weight = e.weight(f"{name}.weight", channels, before, side, side)
            bias = e.weight(f"{name}.bias", channels)
            flops = 2 * weight.elements * bands
            x = e.opaque(name, channels * bands, (weight, bias), (x,), flops_per_token=flops)
            number += 1
        number += 1  # the activation
    e.linear(x, "out", width, bias=True, split="whole")
    buckets = c.size("bias_max_distance") * (1 if c.flag("bias_symmetric") else 2)
    shape = (buckets, c.size("num_attention_heads"))
    name = "encoder.relative_attention_bias_layer.bias_values.weight"
    b.part("", "attention").opaque(
        "relative_attention_bias", 0, (b.weight(name, *shape, kind="embedding"),)
    )
    return b.block()


def conformer_layer(c: Config) -> Block:
    """Half a feed-forward part, attention, convolution, the other half."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    c.divides("hidden_size", "num_attention_heads")
    b = BlockBuilder("audio layer", width, sequence="audio")
    x = b.add(b.input, half_feed_forward(c, b.part("feed_forward_in", "feed_forward"), b.input))
    a = b.part("self_attn", "attention")
    y = b.layer_norm(x, "layer_norm_att")
    q, k, v = (a.linear(y, f"{name}_proj", width, bias=True) for name in "qkv")
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    x = b.add(x, a.linear(out, "o_proj", width, bias=True, split="row"))
    x = b.add(x, convolution(c, b.part("conv", "other"), x))
    y = half_feed_forward(c, b.part("feed_forward_out", "feed_forward"), x)
    b.layer_norm(b.add(x, y), "layer_norm")
    return b.block()


def half_feed_forward(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    inner, activation = c.size("intermediate_size"), c.word("activation")
    y = b.linear(b.layer_norm(x, "layer_norm"), "gate_up_proj", 2 * inner, bias=True)
    up, gate = b.split(y, inner, inner)
    y = b.multiply(up, b.activation(gate, activation))
    return b.scale(b.linear(y, "down_proj", x.width, bias=True, split="row"))


def convolution(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    width, out = x.width, c.size("ext_pw_out_channel")
    inside = width * c.size("depthwise_multiplier")
    separable, kernel = c.size("depthwise_separable_out_channel"), c.size("kernel_size")
    c.require(out == separable == width, "ext_pw_out_channel", f"hidden_size = {width}")

    def pointwise(x: Tensor, name: str, before: int, after: int, *more: str) -> Tensor:
        weights = [b.weight(f"{name}.weight", after, before, 1), b.weight(f"{name}.bias", after)]
        weights += [b.weight(extra, 1, out, 1, kind="vector") for extra in more]
        return b.opaque(name, after, weights, (x,), flops_per_token=2 * before * after)

    y = b.layer_norm(x, "layer_norm")
    y = pointwise(y, "glu.ext_pw_conv_1d", width, 2 * out, "glu.b1", "glu.b2")
    depthwise = "dw_sep_conv_1d.dw_conv"
    weights = (
        b.weight(f"{depthwise}.weight", inside, 1, kernel),
        b.weight(f"{depthwise}.bias", inside),
    )
    y = b.opaque(
        depthwise, inside, weights, (y,), flops_per_token=convolution_flops(inside, kernel)
    )
    y = pointwise(y, "dw_sep_conv_1d.pw_conv", inside, separable)
    return pointwise(y, "ext_pw_conv_1d", width, out)


def projections(c: Config, width: int) -> Block:
    """Two ways into the language model: for sound alone, and for sound beside images."""
    inside = c.size("hidden_size")
    b = BlockBuilder("projector", inside, sequence="audio")
    p = b.part("", "other")
    x = p.opaque("join", inside * c.size("downsample_rate"), (), (p.input,))
    for kind in ("speech", "vision_speech"):
        two_linears(p, x, (f"up_proj_for_{kind}", f"down_proj_for_{kind}"), width)
    return b.block()
