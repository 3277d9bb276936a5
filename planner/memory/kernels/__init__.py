"""Kernel sets: whose code runs the operations, and so which tensors they keep."""

from __future__ import annotations

from collections.abc import Mapping

from planner.memory.kernels import eager, torchtitan
from planner.memory.player import Kernel

KERNELS: Mapping[str, Mapping[str, Kernel]] = {
    "transformers": eager.KERNELS,
    "torchtitan": torchtitan.KERNELS,
}
