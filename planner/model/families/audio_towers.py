"""Encoders of sound beside a language model: Whisper's, with learned or rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.vision_layers import (
    Biases,
    Names,
    attention_names,
    learned,
    vision_layer,
)
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

WHISPER_NAMES = Names(
    ("self_attn_layer_norm", "final_layer_norm"),
    *attention_names("self_attn", "out_proj"),
    feed=("fc1", "fc2"),
)
GLM_NAMES = Names(
    ("input_layernorm", "post_attention_layernorm"), *attention_names("self_attn", "o_proj")
)
UNUSED = ("scale_embedding", "vocab_size", "n_window", "n_window_infer", "output_dim")
TAPS = 3


def convolutions(b: BlockBuilder, width: int, bands: int) -> Tensor:
    """Two convolutions along time over the mel bands, the second with stride 2."""
    x = b.input
    for name, channels in (("conv1", bands), ("conv2", width)):
        x = convolution(b, x, name, channels, width, (TAPS,), bias=True)
    return x


def whisper(c: Config, prefix: str) -> Tower:
    c.ignore(*UNUSED)
    width = c.size("hidden_size")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("", "embedding")
    x = convolutions(e, width, c.size("num_mel_bins"))
    learned(e, x, "embed_positions.weight", c.size("max_source_positions"), width)
    return _stack(c, prefix, width, b, _layer(c, width, Biases(key=False)))


def qwen2_5_omni(c: Config, prefix: str) -> Tower:
    """Positions are sines and no parameters; the end brings it to the language model's width."""
    c.ignore(*UNUSED, "max_source_positions")
    width, out = c.size("hidden_size"), c.size("output_dim")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    convolutions(b.part("", "embedding"), width, c.size("num_mel_bins"))
    layer = _layer(c, width, Biases(key=False))
    stacked = _stack(c, prefix, width, b, layer, "ln_post")
    end = BlockBuilder("projector", width, sequence="audio")
    p = end.part("", "other")
    x = p.linear(p.input, "proj", out, bias=True)
    learned(p, x, "audio_bos_eos_token.weight", 2, out)
    return Tower((*stacked.places, Placed(prefix, end.block())), out)


def qwen3_omni(c: Config, prefix: str) -> Tower:
    c.ignore("max_source_positions", "conv_chunksize")
    width, out = c.size("hidden_size"), c.size("output_dim")
    stacked = qwen3_asr(c, prefix)
    end = BlockBuilder("projector", width, sequence="audio")
    p = end.part("", "other")
    x = p.activation(p.linear(p.input, "proj1", width, bias=True), c.word("activation_function"))
    p.linear(x, "proj2", out, bias=True, split="row")
    return Tower((*stacked.places, Placed(prefix, end.block())), out)


def glmasr(c: Config, prefix: str) -> Tower:
    """Rotary positions in place of learned ones."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    keys = c.size("num_key_value_heads", heads)
    c.require(heads % keys == 0, "num_key_value_heads", f"a divisor of {heads} heads")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    convolutions(b.part("", "embedding"), width, c.size("num_mel_bins"))
    layer = vision_layer(
        GLM_NAMES,
        width,
        heads,
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(key=False),
        rotary=True,
        sequence="audio",
        kv_heads=keys,
    )
    return _stack(c, prefix, width, b, layer, "norm")


def qwen3_asr(c: Config, prefix: str) -> Tower:
    """Three convolutions over time and bands, each halving both; a linear joins what is left."""
    c.ignore(*UNUSED)
    width, channels = c.size("hidden_size"), c.size("downsample_hidden_size")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("", "embedding")
    names = tuple(f"conv2d{i}" for i in (1, 2, 3))
    x = halving_convolutions(e, names, channels, c.size("num_mel_bins"))
    e.linear(x, "conv_out", width, split="whole")
    return _stack(c, prefix, width, b, _layer(c, width, Biases()), "ln_post")


def halving_convolutions(
    b: BlockBuilder, names: tuple[str, ...], channels: int, bands: int
) -> Tensor:
    """Convolutions over time and bands, each of which halves both."""
    x, before = b.input, 1
    for name in names:
        weights = (
            b.weight(f"{name}.weight", channels, before, TAPS, TAPS),
            b.weight(f"{name}.bias", channels),
        )
        bands = (bands + 1) // 2
        flops = 2 * channels * bands * before * TAPS * TAPS
        x = b.opaque(name, channels * bands, weights, (x,), flops_per_token=flops)
        before = channels
    return x


# Names in the configs of checkpoints -> in Transformers' class (configuration_dots3_note.py).
DOTS3_WHISPER = {
    "d_model": "hidden_size",
    "encoder_attention_heads": "num_attention_heads",
    "encoder_layers": "num_hidden_layers",
    "encoder_ffn_dim": "intermediate_size",
    "num_mel_bins": "feature_size",
}
DOTS3_ADAPTER = {
    "whisper_adapter_in_dim": "adapter_input_size",
    "adapter_output_size": "adapter_out_dim",
    "whisper_adapter_out_dim": "adapter_out_dim",
}


def dots3(c: Config, prefix: str) -> Tower:
    """Rotary positions, RMS norms and a gated feed-forward part; two linears at the end."""
    c.modernize(DOTS3_ADAPTER)
    older = c.raw("whisper_config") or {}
    c.require(isinstance(older, Mapping), "whisper_config", "a mapping of fields")
    c.given.update({name: older[old] for old, name in DOTS3_WHISPER.items() if old in older})
    c.ignore("num_key_value_heads", "head_dim", "sampling_rate", "hop_length")
    c.ignore("conv_output_size", "samples_per_token")
    width, channels = c.size("hidden_size"), c.size("downsample_hidden_size")
    out, bias = c.size("adapter_out_dim"), c.flag("attention_bias")
    c.divides("hidden_size", "num_attention_heads")
    c.require(c.size("adapter_input_size") == width, "adapter_input_size", f"{width}")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("conv_stem", "embedding")
    names = tuple(f"convs.{i}" for i in range(3))
    x = halving_convolutions(e, names, channels, c.size("feature_size"))
    e.linear(x, "conv_out", width, split="whole")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        f = b.part("mlp", "feed_forward")
        gate, up = f.split(f.linear(x, "gate_up_proj", 2 * inner, bias=True), inner, inner)
        y = f.multiply(up, f.activation(gate, activation))
        return f.linear(y, "down_proj", x.width, bias=True, split="row")

    layer = vision_layer(
        replace(GLM_NAMES, rms=True),
        width,
        c.size("num_attention_heads"),
        inner,
        activation,
        Biases(query=bias, key=False, value=bias, output=bias),
        rotary=True,
        sequence="audio",
        feed=feed,
    )
    end = BlockBuilder("projector", width, sequence="audio")
    a = end.part("adapter", "other")
    x = a.layer_norm(end.rms_norm(end.input, "layer_norm"), "norm")
    a.linear(a.activation(a.linear(x, "fc1", out, bias=True), "gelu"), "fc2", out, bias=True)
    layers = [Placed(f"{prefix}layers.{i}.", layer) for i in range(layers_of(c))]
    return Tower((Placed(prefix, b.block()), *layers, Placed(prefix, end.block())), out)


def _layer(c: Config, width: int, biases: Biases) -> Block:
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    c.require(width % heads == 0, "num_attention_heads", f"a divisor of {width}")
    activation = c.word("activation_function")
    return vision_layer(WHISPER_NAMES, width, heads, inner, activation, biases, sequence="audio")


def _stack(
    c: Config, prefix: str, width: int, b: BlockBuilder, layer: Block, norm: str = "layer_norm"
) -> Tower:
    end = BlockBuilder("audio end", width, sequence="audio")
    end.layer_norm(end.input, norm)
    layers = [
        Placed(f"{prefix}layers.{i}.", layer) for i in range(layers_of(c, "num_hidden_layers"))
    ]
    return Tower((Placed(prefix, b.block()), *layers, Placed(prefix, end.block())), width)
