"""Kernel sets: whose code runs the operations, and so which tensors they keep.

A set is imported when it is asked for: a question needs one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from planner.memory.player import Kernel
from planner.model.spec import ModelSpec

# Code base -> module of this package and the name of its table.
_SETS = {
    "transformers": ("eager", "KERNELS"),
    "transformers-2024": ("transformers_2024", "KERNELS"),
    "liger": ("liger", "KERNELS"),
    "litgpt": ("litgpt", "KERNELS"),
    "litgpt-2023": ("litgpt", "KERNELS_2023"),
    "own": ("own", "KERNELS"),
    "torchtitan": ("torchtitan", "KERNELS"),
    "torchtune": ("torchtune", "KERNELS"),
    "megatron": ("megatron", "KERNELS"),
}


class _KernelSets(Mapping[str, Mapping[str, Kernel]]):
    """The kernel sets by code base."""

    def __init__(self) -> None:
        self._loaded: dict[str, Mapping[str, Kernel]] = {}

    def __getitem__(self, code: str) -> Mapping[str, Kernel]:
        if code not in self._loaded:
            module, table = _SETS[code]
            self._loaded[code] = _with_losses(getattr(import_module(f"{__name__}.{module}"), table))
        return self._loaded[code]

    def __iter__(self) -> Iterator[str]:
        return iter(_SETS)

    def __len__(self) -> int:
        return len(_SETS)


KERNELS: Mapping[str, Mapping[str, Kernel]] = _KernelSets()


def _with_losses(kernels: Mapping[str, Kernel]) -> Mapping[str, Kernel]:
    """A code base's kernels with every cross-entropy that a recipe may choose."""
    from planner.memory.kernels.losses import with_choice

    return {**kernels, "cross_entropy": with_choice(kernels["cross_entropy"])}


def as_run(spec: ModelSpec, code: str, adapted: tuple[str, ...] = ()) -> ModelSpec:
    """The model with the operations that a code base runs: Megatron-Core joins linears, LitGPT
    shares no matrix between embedding and head.

    adapted: last names of the linears that have adapters; joined ones share one (NeMo's and
    Megatron-Bridge's LoRA on linear_qkv).
    """
    if code.startswith("litgpt"):
        from planner.memory.kernels.litgpt import untied

        return untied(spec)
    if code != "megatron":
        return spec
    from planner.memory.kernels.fusion import fused_model

    return fused_model(spec, adapted)
