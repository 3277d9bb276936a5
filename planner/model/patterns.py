"""Which layer is of which kind: the rules by which families spread sliding windows and experts."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.assemble import layer_types
from planner.model.config import Config

FULL, SLIDING = "full_attention", "sliding_attention"
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
    """layer_types, or the family's own repeated pattern; without a window none slides."""
    kinds = layer_types(c, layers, known=(FULL, SLIDING))
    c.optional("sliding_window")
    return kinds


def switched(c: Config, layers: int) -> tuple[str, ...]:
    """All layers slide where use_sliding_window says so (Qwen3 MoE)."""
    c.ignore("max_window_layers")
    return (SLIDING if c.flag("use_sliding_window") else FULL,) * layers


def switched_by_layer_types(c: Config, layers: int) -> tuple[str, ...]:
    """layer_types, of which the sliding ones slide where use_sliding_window is on (SmolLM3)."""
    if c.flag("use_sliding_window"):
        return by_layer_types(c, layers)
    c.ignore("sliding_window", "layer_types")
    return (FULL,) * layers


def from_max_window_layers(c: Config, layers: int) -> tuple[str, ...]:
    """Full attention up to max_window_layers, then sliding, where it is switched on (Qwen2)."""
    slides = c.flag("use_sliding_window", True) if c.knows("use_sliding_window") else True
    window = c.optional("sliding_window") if slides else None
    first = c.count("max_window_layers", 0)
    return layer_types(
        c, layers, lambda i: SLIDING if window and i >= first else FULL, known=(FULL, SLIDING)
    )


def every(field: str) -> Kinds:
    """Each field-th layer has full attention, the others slide; layer_types overrides it."""

    def rule(c: Config, layers: int) -> tuple[str, ...]:
        period = c.optional(field)
        window = c.optional("sliding_window")
        return layer_types(
            c,
            layers,
            lambda i: SLIDING if window and period and (i + 1) % period else FULL,
            known=(FULL, SLIDING),
        )

    return rule
