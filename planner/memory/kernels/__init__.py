"""Kernel sets: whose code runs the operations, and so which tensors they keep."""

from __future__ import annotations

from collections.abc import Mapping

from planner.memory.kernels import eager, liger, litgpt, losses, megatron, own, torchtitan
from planner.memory.kernels.fusion import fused_model
from planner.memory.player import Kernel
from planner.model.spec import ModelSpec


def _with_losses(kernels: Mapping[str, Kernel]) -> Mapping[str, Kernel]:
    """A code base's kernels with every cross-entropy that a recipe may choose."""
    return {**kernels, "cross_entropy": losses.with_choice(kernels["cross_entropy"])}


KERNELS: Mapping[str, Mapping[str, Kernel]] = {
    "transformers": _with_losses(eager.KERNELS),
    "liger": _with_losses(liger.KERNELS),
    "litgpt": _with_losses(litgpt.KERNELS),
    "litgpt-2023": _with_losses(litgpt.KERNELS_2023),
    "own": _with_losses(own.KERNELS),
    "torchtitan": _with_losses(torchtitan.KERNELS),
    "megatron": megatron.KERNELS,
}


def as_run(spec: ModelSpec, code: str, adapters: bool) -> ModelSpec:
    """The model with the operations that a code base runs: Megatron-Core joins linears.

    adapters: they belong to the separate linears, so that these stay.
    """
    return fused_model(spec) if code == "megatron" and not adapters else spec
