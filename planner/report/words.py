"""How settings with parameters of their own are told, the same in JSON and in sentences."""

from __future__ import annotations

from planner.training.layout import Layout, Recompute


def recompute_words(layout: Layout) -> str:
    """As it is written in a flag: none, selective, full, full:8, or modules with commas between."""
    if layout.recompute_layers is not None:
        return f"full:{layout.recompute_layers}"
    if layout.recompute_modules:
        return ",".join(layout.recompute_modules)
    return Recompute(int(layout.recompute)).name
