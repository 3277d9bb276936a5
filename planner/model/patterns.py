"""Which layer is of which kind: the rules by which families spread sliding windows and experts."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.assemble import layer_types
from planner.model.config import Config

FULL, SLIDING = "full_attention", "sliding_attention"
REFERENCE = "reference_sliding_attention"
# Latent attention whose keys an indexer picks, or with the picks of the layer before.
INDEXED, SHARED_INDEX = "indexed_attention", "shared index"
Kinds = Callable[[Config, int], tuple[str, ...]]


def uniform(c: Config, layers: int) -> tuple[str, ...]:
    """Every layer slides if the config has a window (Mistral), else none."""
    window = c.optional("sliding_window") if c.knows("sliding_window") else None
    return (SLIDING if window else FULL,) * layers


def full(c: Config, layers: int) -> tuple[str, ...]:
    """No layer slides, whatever window the config has."""
    c.ignore("sliding_window")
    return (FULL,) * layers


def by_layer_types(c: Config, layers: int) -> tuple[str, ...]:
    """layer_types; else each sliding_window_pattern-th layer is full; else the family's pattern."""
    c.optional("sliding_window")
    period = c.raw("sliding_window_pattern")
    if isinstance(period, int) and not isinstance(period, bool) and period > 0:
        return layer_types(
            c, layers, lambda i: SLIDING if (i + 1) % period else FULL, known=(FULL, SLIDING)
        )
    c.require(
        period is None or c.words("layer_types") is not None,
        "sliding_window_pattern",
        "a whole number above 0, or layer_types beside it",
    )
    return layer_types(c, layers, known=(FULL, SLIDING))


def by_layer_types_with_window(c: Config, layers: int) -> tuple[str, ...]:
    """The same, but no layer slides where sliding_window is null (EXAONE 4)."""
    if c.is_null("sliding_window"):
        c.ignore("sliding_window", "sliding_window_pattern")
        return layer_types(c, layers, lambda i: FULL, known=(FULL, SLIDING))
    return by_layer_types(c, layers)


def switched(c: Config, layers: int) -> tuple[str, ...]:
    """All layers slide where use_sliding_window says so (Qwen3 MoE)."""
    c.ignore("max_window_layers", "sliding_window")
    return (SLIDING if c.flag("use_sliding_window") else FULL,) * layers


def switched_by_layer_types(c: Config, layers: int) -> tuple[str, ...]:
    """layer_types, of which the sliding ones slide where use_sliding_window is on (SmolLM3)."""
    if c.flag("use_sliding_window"):
        return by_layer_types(c, layers)
    c.ignore("sliding_window", "layer_types")
    return (FULL,) * layers


def all_sliding_by_reference(c: Config, layers: int) -> tuple[str, ...]:
    """Each token sees the prompt and a window of what follows it (Unlimited OCR)."""
    window = c.optional("sliding_window")
    c.require(window is not None, "sliding_window", "a whole number")
    words = layer_types(c, layers, lambda i: REFERENCE, known=(FULL, REFERENCE))
    return tuple(FULL if word == FULL else SLIDING for word in words)


def from_max_window_layers(c: Config, layers: int) -> tuple[str, ...]:
    """Full attention up to max_window_layers, then sliding, where it is switched on (Qwen2)."""
    c.ignore("sliding_window")
    slides = c.flag("use_sliding_window", True) if c.knows("use_sliding_window") else True
    window = c.optional("sliding_window") if slides else None
    first = c.count("max_window_layers", 0)
    return layer_types(
        c, layers, lambda i: SLIDING if window and i >= first else FULL, known=(FULL, SLIDING)
    )


def indexed(c: Config, layers: int) -> tuple[str, ...]:
    """Every layer's keys are picked by an indexer (DeepSeek-V3.2)."""
    return layer_types(c, layers, lambda i: INDEXED, known=(INDEXED,))


INDEXER_LETTERS = {"F": "full", "S": "shared"}


def picking(c: Config) -> Callable[[int], str]:
    """Which layers pick keys where indexer_types is left out: by index_topk_pattern, a word or a
    letter a layer, or one in index_topk_freq (GLM-5)."""
    given = c.raw("index_topk_pattern")
    step, offset = max(c.count("index_topk_freq", 1), 1), c.count("index_skip_topk_offset", 2)
    if given is None:
        return lambda i: "shared" if max(i - offset + 1, 0) % step else "full"
    c.require(isinstance(given, str | list), "index_topk_pattern", "a letter or a word a layer")
    words = [INDEXER_LETTERS.get(str(word), str(word)) for word in given]
    c.require(set(words) <= set(INDEXER_LETTERS.values()), "index_topk_pattern", "letters F and S")

    def word(i: int) -> str:
        c.require(i < len(words), "index_topk_pattern", "one letter per layer")
        return words[i]

    return word


def every_fourth_picks(c: Config) -> Callable[[int], str]:
    """The first layer picks, then one in four from the second on (Hunyuan 4)."""
    return lambda i: "full" if i == 0 or (i - 1) % 4 == 0 else "shared"


def indexer_types(default: Callable[[Config], Callable[[int], str]] = picking) -> Kinds:
    """indexer_types: a "full" layer picks keys, a "shared" one takes the picks before it."""

    def rule(c: Config, layers: int) -> tuple[str, ...]:
        indexed(c, layers)
        given = c.words("indexer_types")
        rule = default(c) if given is None else None
        words = layer_types(c, layers, rule, known=("full", "shared"), field="indexer_types")
        c.require(words[0] == "full", "indexer_types", "full in the first layer")
        return tuple(INDEXED if word == "full" else SHARED_INDEX for word in words)

    return rule
