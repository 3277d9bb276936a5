"""Encoders of speech beside a language model that are not Whisper's kin.

Conformers (Granite Speech), wav2vec 2.0 (Omnilingual ASR), and stacks of rotated layers over
frames (Voxtral Realtime, Nemotron's transcription).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized
from planner.model.families.audio_towers import convolutions
from planner.model.families.vision_layers import (
    GATED_FEED,
    Biases,
    Names,
    attention_names,
    learned,
    vision_layer,
)
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed


def _block(name: str, width: int) -> BlockBuilder:
    return BlockBuilder(name, width, sequence="audio")


def _heads(c: Config, field: str = "num_attention_heads") -> int:
    """Heads that divide the width and have keys of their own."""
    heads = c.size(field)
    c.divides("hidden_size", field)
    same = c.size("num_key_value_heads", heads) == heads
    c.require(same, "num_key_value_heads", f"{heads}, as many as heads")
    return heads


def _layers(prefix: str, count: int, layer: Block) -> list[Placed]:
    return [Placed(f"{prefix}layers.{i}.", layer) for i in range(count)]


# ---- Granite Speech: a conformer that also spells what it hears ----------------------------------


def granite_speech(c: Config, prefix: str) -> Tower:
    """Block attention with relative positions; characters guessed half-way are fed back."""
    c.ignore("context_size", "cat_hidden_layers")
    width, count = c.size("hidden_dim"), layers_of(c, "num_layers")
    first = _block("spectrogram", c.size("input_dim"))
    first.part("", "embedding").linear(first.input, "input_linear", width, bias=True, split="whole")
    places = [Placed(prefix, first.block()), *_layers(prefix, count, _conformer(c, width))]
    end, letters = _block("characters", width), c.size("output_dim")
    x = end.linear(end.input, "out", letters, bias=True, split="whole")
    end.linear(x, "out_mid", width, bias=True, split="whole")
    return Tower((*places, Placed(prefix, end.block())), width)


def _conformer(c: Config, width: int) -> Block:
    """Half a feed-forward part, attention, a convolution module, the other half."""
    heads, inner = c.size("num_heads"), width * c.size("feedforward_mult")
    head = c.size("dim_head", width // heads)
    context, reach = c.size("context_size"), c.size("max_pos_emb")
    c.require(context <= reach, "context_size", f"at most max_pos_emb = {reach}")
    b = _block("conformer", width)

    def feed_forward(name: str) -> None:
        f = b.part(name, "feed_forward")
        y = f.linear(f.layer_norm(b.input, "pre_norm"), "up_proj", inner, bias=True)
        f.linear(f.activation(y, "silu"), "down_proj", width, bias=True, split="row")

    feed_forward("ff1")
    a = b.part("attn", "attention")
    x = a.layer_norm(b.input, "pre_norm")
    q, kv = a.linear(x, "to_q", heads * head), a.linear(x, "to_kv", 2 * heads * head)
    k, v = a.split(kv, heads * head, heads * head)
    # one row for each distance either way, shared by all heads
    rows = (a.weight("rel_pos_emb.weight", 2 * reach + 1, head, kind="embedding"),)
    facts = {"heads": heads, "kv_heads": heads, "window": context}
    out = a.attention(q, k, v, **facts, causal=False, weights=rows)
    a.linear(out, "to_out", width, bias=True, split="row")
    m, channels, taps = (
        b.part("conv"),
        width * c.size("conv_expansion_factor"),
        c.size("conv_kernel_size"),
    )
    x = m.layer_norm(b.input, "norm")
    x = convolution(m, x, "up_conv", width, 2 * channels, (1,), bias=True)
    x = m.split(x, channels, channels)[0]
    x = convolution(m, x, "depth_conv.conv", channels, channels, (taps,), groups=channels)
    x = normalized(m, x, "batch_norm")
    convolution(m, x, "down_conv", channels, width, (1,), bias=True)
    feed_forward("ff2")
    b.layer_norm(b.input, "post_norm")
    return b.block()


# ---- Omnilingual ASR: wav2vec 2.0 over the waveform ----------------------------------------------

WAV2VEC2_NAMES = Names(
    ("layer_norm", "final_layer_norm"),
    *attention_names("attention", "out_proj"),
    feed=("feed_forward.intermediate_dense", "feed_forward.output_dense"),
)


def waveform(c: Config, b: BlockBuilder, normed: Callable[[int], bool]) -> Tensor:
    """Convolutions along time over the samples; normed: whether the i-th has a norm."""
    lists = [c.sizes(name) or () for name in ("conv_dim", "conv_kernel", "conv_stride")]
    channels, kernels, strides = lists
    same = bool(channels) and len(channels) == len(kernels) == len(strides)
    c.require(same and min(map(min, lists)) > 0, "conv_dim", "as many as conv_kernel, conv_stride")
    x, before, bias = b.input, 1, c.flag("conv_bias")
    for i, (after, taps) in enumerate(zip(channels, kernels, strict=True)):
        inner = b.part(f"conv_layers.{i}")
        x = convolution(inner, x, "conv", before, after, (taps,), bias=bias)
        x, before = inner.layer_norm(x, "layer_norm") if normed(i) else x, after
    return x


def position_groups(c: Config, width: int) -> int:
    """Groups of the convolution that tells positions."""
    groups = c.size("num_conv_pos_embedding_groups")
    c.require(width % groups == 0, "num_conv_pos_embedding_groups", f"a divisor of {width}")
    return groups


def omniasr(c: Config, prefix: str) -> Tower:
    width = c.size("hidden_size")
    groups = position_groups(c, width)
    first = _block("waveform", 1)
    s = first.part("subsampling", "embedding")
    x = waveform(c, s, lambda i: True)
    x = s.linear(s.layer_norm(x, "layer_norm"), "projection", width, bias=True, split="whole")
    e, reach = first.part("encode_positions", "embedding"), (c.size("num_conv_pos_embeddings"),)
    convolution(e, x, "conv", width, width, reach, groups=groups, bias=True)
    layer = vision_layer(
        WAV2VEC2_NAMES,
        width,
        _heads(c),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        sequence="audio",
    )
    end = _block("audio end", width)
    end.layer_norm(end.input, "layer_norm")
    places = [Placed(prefix, first.block()), *_layers(prefix, layers_of(c), layer)]
    return Tower((*places, Placed(prefix, end.block())), width)


# ---- Voxtral Realtime: causal, so that it can listen while it writes -----------------------------

VOXTRAL_NAMES = Names(
    ("self_attn_layer_norm", "final_layer_norm"),
    *attention_names("self_attn", "o_proj"),
    feed=GATED_FEED,
    rms=True,
    gated=True,
)


def voxtral_realtime(c: Config, prefix: str) -> Tower:
    """Rotary positions and windows; biases but on keys, gate and up."""
    c.ignore("vocab_size", "activation_function")
    width, bands = c.size("hidden_size"), c.size("num_mel_bins")
    heads = c.size("num_attention_heads")
    first = _block("spectrogram", bands)
    convolutions(first.part("embedder", "embedding"), width, bands)
    layer = vision_layer(
        VOXTRAL_NAMES,
        width,
        heads,
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(key=False, feed=False, down=True),
        rotary=True,
        sequence="audio",
        causal=True,
        head_dim=c.size("head_dim", width // heads),
        window=c.optional("sliding_window"),
    )
    end = _block("audio end", width)
    end.rms_norm(end.input, "norm")
    places = [Placed(prefix, first.block()), *_layers(prefix, layers_of(c), layer)]
    return Tower((*places, Placed(prefix, end.block())), width)


# ---- Nemotron's transcription: who speaks, what, and when each word ------------------------------

FRAME_NAMES = Names(("layer_norm1", "layer_norm2"), *attention_names("self_attn", "o_proj"))
NORMED_FRAME_NAMES = replace(
    FRAME_NAMES, head_norms=("self_attn.q_norm", "self_attn.k_norm"), head_norms_rms=False
)
UPSAMPLER_TAPS = 3


def nemotron_audio(c: Config, prefix: str) -> Tower:
    """The encoder of speech, and beside it a whole model that tells speakers apart."""
    c.ignore("speaker_activity_threshold")
    speech, diarization = c.sub("asr_config"), c.sub("diarization_config")
    heard = _frames(speech, f"{prefix}asr_encoder.", NORMED_FRAME_NAMES)
    told, speakers = _diarization(diarization, f"{prefix}diarization_model.")
    end = _block("audio end", heard.width)
    end.layer_norm(end.input, "asr_norm")
    end.layer_norm(end.make(speakers), "speaker_norm")
    warnings = heard.warnings + told.warnings
    places = (*heard.places, *told.places, Placed(prefix, end.block()))
    return Tower(places, heard.width, warnings)


def _frames(c: Config, prefix: str, names: Names) -> Tower:
    """Frames side by side, brought to the width, then equal layers."""
    width = c.size("hidden_size")
    first = _block("frames", c.size("subsampling_factor") * c.size("num_mel_bins"))
    e = first.part("", "embedding")
    x = e.linear(first.input, "embedder.projection", width, split="whole")
    e.layer_norm(x, "input_layer_norm")
    return _stacked(c, prefix, width, first, names)


def _stacked(c: Config, prefix: str, width: int, first: BlockBuilder, names: Names) -> Tower:
    layer = vision_layer(
        names,
        width,
        _heads(c),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(query=False, key=False, value=False),
        rotary=True,
        sequence="audio",
    )
    end = _block("audio end", width)
    end.layer_norm(end.input, "layer_norm")
    places = [Placed(prefix, first.block()), *_layers(prefix, layers_of(c), layer)]
    return Tower((*places, Placed(prefix, end.block())), width, c.finish())


def _diarization(c: Config, prefix: str) -> tuple[Tower, int]:
    """The model that tells speakers apart, and how many it knows."""
    c.ignore("streaming_config", "chunk_length", "chunk_left_context", "chunk_right_context")
    c.ignore("fifo_length", "speaker_cache_update_period")
    head = c.sub("head_config", "nemotron3_diarization_head", fill=True)
    tower = _frames(c.sub("audio_config"), f"{prefix}model.audio_tower.", FRAME_NAMES)
    inner, speakers = head.size("hidden_size"), head.size("num_speakers")
    same = head.size("audio_hidden_size") == tower.width
    head.require(same, "audio_hidden_size", f"{tower.width}, as the encoder's hidden_size")
    end, times = _block("speakers", tower.width), head.size("subsampling_factor")
    learned(end, end.input, "silence_embeds", tower.width)
    x = end.linear(end.input, "model.proj", inner, bias=True, split="whole")
    wide = inner * times
    name = "model.upsampler.conv"
    convolution(end, x, name, inner, wide, (UPSAMPLER_TAPS,), bias=True)
    x = end.linear(x, "classifier.dense", inner, bias=True, split="whole")
    end.linear(x, "classifier.out_proj", speakers, bias=True, split="whole")
    warnings = (*tower.warnings, *head.finish(), *c.finish())
    places = (*tower.places, Placed(prefix, end.block()))
    return Tower(places, tower.width, warnings), speakers


def word_timestamps(c: Config, prefix: str) -> Tower:
    """Layers over upsampled frames, and a head of its own that guesses the next piece of text."""
    c.ignore("blank_token_id", "residual_scale")
    width, times = c.size("hidden_size"), c.size("upsampling_factor")
    first = _block("upsampler", width)
    e = first.part("", "embedding")
    # a transposed convolution: its weight has the inputs first
    x = convolution(e, first.input, "upsampler", width, width, (times,), bias=True)
    e.layer_norm(x, "input_layer_norm")
    stack = _stacked(c, prefix, width, first, NORMED_FRAME_NAMES)
    head, vocab = _block("word head", width), c.size("vocab_size")
    # "/": the head lies beside the model, not in the encoder
    h, name = head.part("", "output_head"), "word_timestamp_head"
    shape = (h.weight(f"/{name}.weight", vocab, width, 1), h.weight(f"/{name}.bias", vocab))
    h.opaque(name, vocab, shape, (h.input,), flops_per_token=2 * vocab * width)
    return Tower((*stack.places, Placed("", head.block())), width, stack.warnings)
