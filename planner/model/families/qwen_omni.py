"""Qwen2.5-Omni and Qwen3-Omni: a thinker that sees, hears and writes, a talker, a waveform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.model import families
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.speech_makers import code2wav, token2wav
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.families.vision_towers import Tower
from planner.model.heads import main_class
from planner.model.nesting import prefix_changed, renamed, taken_as, without_logits
from planner.model.spec import ModelSpec, Placed

TALKER = "talker."
UNUSED = (
    *("spatial_merge_size", "position_id_per_seconds", "seconds_per_chunk", "speaker_id"),
    *("accept_hidden_layer", "codec_nothink_id", "codec_think_bos_id", "codec_think_eos_id"),
    *("codec_pad_id", "codec_bos_id", "output_router_logits", "num_code_groups"),
)


def build(c: Config) -> ModelSpec:
    thinker = c.sub("thinker_config")
    thinker.given["architectures"] = [main_class(thinker, "image-text")]
    spec, rename = families.build(thinker), prefix_changed("", "thinker.")
    spoken = Tower((), 0)
    if c.flag("enable_audio_output"):
        spoken = third(c) if c.model_type == "qwen3_omni_moe" else second(c)
    c.ignore("talker_config", "token2wav_config", "code2wav_config", "tie_word_embeddings")
    layers = (*(renamed(place, rename) for place in spec.layers), *spoken.places)
    return replace(
        spec,
        name=c.model_type,
        model_type=c.model_type,
        embedding=renamed(spec.embedding, rename),
        layers=layers,
        head=renamed(spec.head, rename),
        config=c.given,
        warnings=tuple(dict.fromkeys((*spec.warnings, *spoken.warnings, *c.finish()))),
        not_trainable_because=NOT_MODELLED,
    )


def inner_layers(spec: ModelSpec, prefix: str) -> list[Placed]:
    """A language model's layers and last norm, without its words."""
    places = (*spec.layers, without_logits(spec.head))
    return [renamed(place, prefix_changed("model.", f"{prefix}model.")) for place in places]


def second(c: Config) -> Tower:
    """Qwen2.5-Omni: the thinker's embeddings and states come through a linear."""
    talker = c.sub("talker_config")
    text = taken_as(talker, "qwen2")
    text.ignore("embedding_size", "tie_word_embeddings", *UNUSED)
    text.given["tie_word_embeddings"] = False  # its class ties nothing
    spec = families.build(text)
    wide, vocab = talker.size("embedding_size"), talker.size("vocab_size")
    b = BlockBuilder("speech tokens", wide, sequence="audio")
    e = b.part(TALKER[:-1], "embedding")
    x = e.embedding("model.embed_tokens", vocab, wide)
    x = e.linear(x, "thinker_to_talker_proj", spec.hidden_size, bias=True, split="whole")
    wave = token2wav(c.sub("token2wav_config"), "token2wav.")
    places = (Placed("", b.block()), *inner_layers(spec, TALKER), speech_head(spec, vocab))
    return Tower((*places, *wave.places), 1, (*spec.warnings, *wave.warnings))


def speech_head(spec: ModelSpec, vocab: int) -> Placed:
    b = BlockBuilder("speech head", spec.hidden_size, sequence="audio")
    b.part(TALKER[:-1], "other").linear(b.input, "codec_head", vocab, split="vocabulary")
    return Placed("", b.block())


def third(c: Config) -> Tower:
    """Qwen3-Omni: experts in the talker, a second decoder for all but a frame's first code."""
    talker = c.sub("talker_config", "qwen3_omni_moe_talker", fill=True)
    text = talker.sub("text_config", "qwen3_omni_moe_talker_text")
    predictor = talker.sub("code_predictor_config", "qwen3_omni_moe_talker_code_predictor")
    for part in (talker, text, predictor):
        part.require(not part.flag("tie_word_embeddings"), "tie_word_embeddings", "false")
    spec, vocab = families.build(text), text.size("vocab_size")
    b = BlockBuilder("speech tokens", talker.size("thinker_hidden_size"), sequence="audio")
    e, inner = b.part(TALKER[:-1], "embedding"), text.size("intermediate_size")
    e.embedding("model.codec_embedding", vocab, spec.hidden_size)
    for name in ("text_projection", "hidden_projection"):
        p = b.part(f"{TALKER}{name}", "other")
        y = p.activation(p.linear(b.input, "linear_fc1", inner, bias=True), "silu")
        p.linear(y, "linear_fc2", spec.hidden_size, bias=True, split="row")
    talker.ignore(*UNUSED)
    codes = further_codes(predictor, f"{TALKER}code_predictor.")
    waveform = c.sub("code2wav_config", "qwen3_omni_moe_code2wav", fill=True)
    wave = code2wav(waveform, "code2wav.")
    places = (Placed("", b.block()), *inner_layers(spec, TALKER), speech_head(spec, vocab))
    warnings = (*spec.warnings, *talker.finish(), *wave.warnings)
    return Tower((*places, *codes, *wave.places), 1, warnings)


def further_codes(c: Config, prefix: str) -> Sequence[Placed]:
    """Qwen3's layers, with a table and a head for each code after the first."""
    text, number = taken_as(c, "qwen3"), c.size("num_code_groups") - 1
    text.ignore(*UNUSED)
    spec, vocab = families.build(text), c.size("vocab_size")
    b = BlockBuilder("further codes", spec.hidden_size, sequence="audio")
    h = BlockBuilder("further heads", spec.hidden_size, sequence="audio")
    for i in range(number):
        b.part(f"{prefix}model", "embedding").embedding(
            f"codec_embedding.{i}", vocab, spec.hidden_size
        )
        h.part(prefix[:-1], "other").linear(h.input, f"lm_head.{i}", vocab, split="vocabulary")
    return (Placed("", b.block()), *inner_layers(spec, prefix), Placed("", h.block()))
