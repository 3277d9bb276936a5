"""A memory tracker that also knows what each live byte is.

PyTorch's MemTracker counts bytes by category; `Recorder` adds, for every storage, which operator
of which module made it, with which shape and dtype, and keeps the order of allocations and frees,
so that the live storages at the peak or at any operator can be listed afterwards.
Works on real and on fake tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed._tools import mem_tracker
from torch.distributed._tools.mem_tracker import MemTracker


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
        module = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", self.module)
        savers = tuple(sorted({re.sub(r"(?<=\.)\d+(?=\.|$)", "*", s) for s in self.savers}))
        return (self.category, self.phase, self.operator, module, self.shape, self.dtype, savers)


def describe_tensor(storage: Storage, tensor: torch.Tensor) -> None:
    """Note the shape and dtype of the tensor that a storage was made for."""
    storage.shape = tuple(tensor.shape)
    storage.dtype = str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Moment:
    """The end of one operator: the events before it, and the bytes then live."""

    events: int
    operator: str
    module: str
    phase: str
    total: int


class Recorder(MemTracker):
    """MemTracker with the origin of every storage and the order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "outside"
        self.storages: dict[int, Storage] = {}
        self.moments: list[Moment] = []
        self.marks: dict[str, Moment] = {}
        self._keep: list[object] = []  # ids in `storages` stay unique while these live
        self._events: list[tuple[int, int, str]] = []  # (storage, change in bytes, category)
        self._operator, self._module = "", ""
        self._forward_module: dict[int, str] = {}  # autograd sequence number -> module

    def name_state(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let listings call parameters, buffers and optimizer states by their names."""
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._name(tensor, name, "before the step")
            for state, value in optimizer.state.get(tensor, {}).items():
                if isinstance(value, torch.Tensor):
                    self._name(value, name, state)

    def _name(self, tensor: torch.Tensor, name: str, operator: str) -> None:
        storage = self._find(tensor)
        if storage is not None and not storage.dtype:
            storage.module, storage.operator = name, operator
            describe_tensor(storage, tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if any(t == mem_tracker.DTensor for t in types):
            return NotImplemented
        self._operator, self._module = self._place(func)
        known = len(self._keep)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if len(self._keep) > known:
            self._describe(result)
        return result

    def _place(self, func: Any) -> tuple[str, str]:
        name = str(func).removeprefix("aten.").removesuffix(".default")
        parents = [p for p in self._mod_tracker.parents if p != "Global"]
        module = max(parents, key=len, default="")
        node = torch._C._current_autograd_node()
        if node is not None and not self._in_ac:
            made = self._forward_module.get(node._sequence_nr(), module)
            return f"{name} in {node.name()}", made
        if torch.is_grad_enabled():
            self._forward_module.setdefault(torch.autograd._get_sequence_nr() - 1, module)
        return name, module

    def _describe(self, result: object) -> None:
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                storage = self._find(tensor)
                if storage is not None and not storage.dtype:
                    describe_tensor(storage, tensor)

    def _find(self, tensor: torch.Tensor) -> Storage | None:
        info = self._WINFO.get(tensor.untyped_storage(), (None, None))[0]
        return self.storages.get(id(info))

    def _update_snap(self, u_type, winfo, old_mem_consumed=None, old_reftype=None):  # type: ignore[no-untyped-def]
        super()._update_snap(u_type, winfo, old_mem_consumed, old_reftype)
        key, category = id(winfo), winfo.reftype.value
        if key not in self.storages:
            self._keep.append(winfo)
            self.storages[key] = Storage(
                winfo.mem_consumed, category, self.phase, self._operator, self._module
            )
        kind = u_type.name
        if kind == "ADD":
            change = winfo.mem_consumed
        elif kind == "DEL":
            change = -winfo.mem_consumed
        elif kind == "SIZE":
            change = winfo.mem_consumed - old_mem_consumed
            self.storages[key].bytes = winfo.mem_consumed
        else:
            change = 0
        self.storages[key].category = category
        self._events.append((key, change, category))

    def _update_peak_stats(self, peak_state: Any) -> None:
        super()._update_peak_stats(peak_state)
        total = sum(snap[mem_tracker._TOTAL_KEY] for snap in self._curr_mem_snap.values())
        self.moments.append(
            Moment(len(self._events), self._operator, self._module, self.phase, total)
        )

    def snapshot(self, which: str = "current") -> dict[str, int]:
        """Bytes by category, as the cases have them."""
        total: Counter[str] = Counter()
        for device in self.get_tracker_snapshot(which).values():
            for key, value in device.items():
                total[getattr(key, "value", key)] += value
        return dict(total)

    def mark(self, name: str) -> dict[str, int]:
        """Keep this moment under a name; its bytes by category."""
        found = self.snapshot()
        total = found.get("Total", 0)
        self.marks[name] = Moment(len(self._events), name, "", self.phase, total)
        return found

    def peak_moment(self, operator: str | None = None, phase: str | None = None) -> Moment:
        """The highest moment, of all or of one operator's or one phase's."""
        found = [
            m
            for m in self.moments
            if (operator is None or m.operator.split(" ")[0].split(".")[0] == operator)
            and (phase is None or m.phase == phase)
        ]
        if not found:
            names = sorted({m.operator.split(" ")[0].split(".")[0] for m in self.moments})
            raise SystemExit(f"no operator {operator!r} in this trace; there are: {names}")
        return max(found, key=lambda m: m.total)

    def live(self, moment: Moment) -> list[Storage]:
        """The storages alive at a moment."""
        size: dict[int, int] = {}
        for key, change, _ in self._events[: moment.events]:
            size[key] = size.get(key, 0) + change
        found = [(self.storages[key], held) for key, held in size.items() if held > 0]
        return [storage for storage, _ in found]


def saved_tensors(root: torch.autograd.graph.Node) -> Iterator[tuple[object, torch.Tensor]]:
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


def saved_storages(
    recorder: Recorder, root: torch.autograd.graph.Node, weights: Iterable[torch.Tensor]
) -> list[Storage]:
    """The distinct storages that autograd holds, less the model's own, with who saved each."""
    excluded = {id(w.untyped_storage()) for w in weights}
    found: dict[int, Storage] = {}
    held: list[object] = []  # keeps the ids in `found` unique
    for node, tensor in saved_tensors(root):
        storage = tensor.untyped_storage()
        if id(storage) in excluded:
            continue
        module = recorder._forward_module.get(node._sequence_nr(), "?")
        known = recorder._find(tensor)
        if known is None and tensor.dim() == 0:  # a Python number in an operator, on no device
            continue
        if known is None:  # an input of the step, made before it
            known = found.get(id(storage)) or Storage(
                storage.nbytes(),
                "Other",
                "outside",
                "input",
                "",
                tuple(tensor.shape),
                str(tensor.dtype).removeprefix("torch."),
            )
        held.append(storage)
        found[id(storage)] = known
        saver = f"{node.name()} of {module}"
        if saver not in known.savers:
            known.savers.append(saver)
    return list(found.values())
