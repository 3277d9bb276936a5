"""Configs of checkpoints that were published before Transformers had their family.

Each function puts the fields of such a config where today's configuration class has them, as
that class does when it reads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.model.config import Config

NEMOTRON = {
    "llm_config": "text_config",
    "sound_config": "audio_config",
    "vit_hidden_size": "vision_hidden_size",
}


def nemotron_h_omni(c: Config) -> None:
    """A sound part that is given has no biases in its attention unless it says so."""
    c.modernize({old: new for old, new in NEMOTRON.items() if c.given.get(new) is None})
    if c.given.get("audio_config") is not None:
        c.given["audio_config"] = {"attention_bias": False, **mapping(c, "audio_config")}


def unlimited_ocr(c: Config) -> None:
    """The window may stand beside the text part."""
    if c.given.get("text_config") is None and c.given.get("language_config") is not None:
        window = c.given.pop("sliding_window", None)
        own = mapping(c, "language_config")
        c.given["text_config"] = {**own, **({} if window is None else {"sliding_window": window})}
        del c.given["language_config"]


def molmo2(c: Config) -> None:
    """Layers of the tower after the last one that is looked at are left out."""
    if c.given.get("vision_config") is not None or c.given.get("vit_config") is None:
        c.given.pop("vit_config", None)
        return
    c.modernize({"vit_config": "vision_config"})
    tower, adapter = c.sub("vision_config"), c.sub("adapter_config")
    adapter.modernize({"vit_layers": "vision_feature_layer"})
    layers = tower.size("num_hidden_layers")
    looked_at = adapter.resolved("vision_feature_layer")
    numbers = isinstance(looked_at, list) and all(isinstance(i, int) for i in looked_at)
    adapter.require(numbers and bool(looked_at), "vision_feature_layer", "a list of layer numbers")
    last = max(i % layers for i in looked_at)
    c.given["vision_config"] = {**mapping(c, "vision_config"), "num_hidden_layers": last + 1}


def inkling_mm_model(c: Config) -> None:
    """What sees and hears puts out the text's width, whatever its own config says."""
    width = c.sub("text_config").size("hidden_size")
    for name in ("vision_config", "audio_config"):
        own = mapping(c, name) if c.given.get(name) is not None else {}
        c.given[name] = {**own, "text_hidden_size": width}


def perception_lm(c: Config) -> None:
    """The text part says whether the head is tied, where the whole does not."""
    if c.given.get("tie_word_embeddings") is None:
        c.given["tie_word_embeddings"] = c.sub("text_config").flag("tie_word_embeddings")


def mapping(c: Config, name: str) -> Mapping[str, Any]:
    value = c.given[name]
    if not isinstance(value, Mapping):
        raise c.error(name, value, "a mapping of fields")
    return value
