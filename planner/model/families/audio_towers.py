"""Encoders of sound beside a language model: Whisper's, with learned or rotary positions."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
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
        weights = (
            b.weight(f"{name}.weight", width, channels, TAPS),
            b.weight(f"{name}.bias", width),
        )
        x = b.opaque(name, width, weights, (x,), flops_per_token=2 * width * channels * TAPS)
    return x


def whisper(c: Config, prefix: str) -> Tower:
    c.ignore(*UNUSED)
    width = c.size("hidden_size")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("", "embedding")
    x = convolutions(e, width, c.size("num_mel_bins"))
    learned(e, x, "embed_positions.weight", c.size("max_source_positions"), width)
    return _stack(c, prefix, width, b, _layer(c, width, WHISPER_NAMES, Biases(key=False)))


def qwen2_5_omni(c: Config, prefix: str) -> Tower:
    """Positions are sines and no parameters; the end brings it to the language model's width."""
    c.ignore(*UNUSED, "max_source_positions")
    width, out = c.size("hidden_size"), c.size("output_dim")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    convolutions(b.part("", "embedding"), width, c.size("num_mel_bins"))
    layer = _layer(c, width, WHISPER_NAMES, Biases(key=False))
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
    width = c.size("hidden_size")
    same = c.size("num_key_value_heads", c.size("num_attention_heads"))
    c.require(same == c.size("num_attention_heads"), "num_key_value_heads", "as many as heads")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    convolutions(b.part("", "embedding"), width, c.size("num_mel_bins"))
    activation = c.word("hidden_act")
    layer = _layer(c, width, GLM_NAMES, Biases(key=False), activation, rotary=True)
    return _stack(c, prefix, width, b, layer, "norm")


def qwen3_asr(c: Config, prefix: str) -> Tower:
    """Three convolutions over time and bands, each halving both; a linear joins what is left."""
    c.ignore(*UNUSED)
    width, channels = c.size("hidden_size"), c.size("downsample_hidden_size")
    bands = c.size("num_mel_bins")
    b = BlockBuilder("spectrogram", width, sequence="audio")
    e = b.part("", "embedding")
    x = e.input
    for i, before in ((1, 1), (2, channels), (3, channels)):
        weights = (
            e.weight(f"conv2d{i}.weight", channels, before, TAPS, TAPS),
            e.weight(f"conv2d{i}.bias", channels),
        )
        bands = (bands + 1) // 2
        x = e.opaque(
            f"conv2d{i}",
            channels * bands,
            weights,
            (x,),
            flops_per_token=2 * channels * bands * before * TAPS * TAPS,
        )
    e.linear(x, "conv_out", width, split="whole")
    return _stack(c, prefix, width, b, _layer(c, width, WHISPER_NAMES, Biases()), "ln_post")


def _layer(
    c: Config,
    width: int,
    names: Names,
    biases: Biases,
    activation: str | None = None,
    *,
    rotary: bool = False,
) -> Block:
    heads = c.size("num_attention_heads")
    c.require(width % heads == 0, "num_attention_heads", f"a divisor of {width}")
    activation = activation or c.word("activation_function")
    inner = c.size("intermediate_size")
    return vision_layer(
        names, width, heads, inner, activation, biases, rotary=rotary, sequence="audio"
    )


def _stack(
    c: Config, prefix: str, width: int, b: BlockBuilder, layer: Block, norm: str = "layer_norm"
) -> Tower:
    end = BlockBuilder("audio end", width, sequence="audio")
    end.layer_norm(end.input, norm)
    layers = [
        Placed(f"{prefix}layers.{i}.", layer) for i in range(layers_of(c, "num_hidden_layers"))
    ]
    return Tower((Placed(prefix, b.block()), *layers, Placed(prefix, end.block())), width)
