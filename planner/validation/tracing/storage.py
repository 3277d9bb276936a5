"""Storages that a trace follows, the moments of a step, and what autograd's graph holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Storage:
    """One storage: where it came from, and what holds it."""

    bytes: int
    category: str
    phase: str
    operator: str
    module: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    savers: list[str] = field(default_factory=list)

    def key(self) -> tuple[object, ...]:
        """What equal storages of equal layers share: the layer's number is left out."""
        savers = tuple(sorted({_any_layer(saver) for saver in self.savers}))
        module = _any_layer(self.module)
        return (self.category, self.phase, self.operator, module, self.shape, self.dtype, savers)

    def describe(self, tensor: Any) -> None:
        """Note the shape and dtype of the tensor that the storage was made for."""
        self.shape = tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")


def _any_layer(module: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)


@dataclass(frozen=True)
class Moment:
    """The end of one operator: the events before it, and the bytes then live."""

    events: int
    operator: str
    module: str
    phase: str
    total: int


def saved_tensors(root: Any) -> Iterator[tuple[Any, Any]]:
    """Each tensor that the graph below a node holds, with the node that saved it."""
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        names = [n for n in dir(node) if n.startswith("_saved_")]
        held = [getattr(node, n) for n in names]
        held += list(getattr(node, "saved_tensors", ()))
        for tensor in torch.utils._pytree.tree_leaves(held):
            if isinstance(tensor, torch.Tensor):
                yield node, tensor
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
