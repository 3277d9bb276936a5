"""Kernel sets: whose code runs the operations, and so which tensors they keep."""

from __future__ import annotations

from collections.abc import Mapping

from planner.memory.kernels import eager, losses, torchtitan
from planner.memory.player import Kernel


def _with_losses(kernels: Mapping[str, Kernel]) -> Mapping[str, Kernel]:
    """A code base's kernels with every cross-entropy that a recipe may choose."""
    return {**kernels, "cross_entropy": losses.with_choice(kernels["cross_entropy"])}


KERNELS: Mapping[str, Mapping[str, Kernel]] = {
    "transformers": _with_losses(eager.KERNELS),
    "torchtitan": _with_losses(torchtitan.KERNELS),
}
