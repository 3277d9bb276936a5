"""Follow every storage of a step that uses sharded parameters, with a category that may change.

Unlike PyTorch's MemTracker this knows FSDP2's and DDP's buffers: code labels what it allocates
(`labelled`) and may rename a storage later (`relabel`: a reduced output becomes a gradient). What
is live, and as what, is worked out afterwards from the order of events.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from planner.errors import unknown
from planner.validation.tracing.storage import Moment, Storage, saved_tensors

# Counted nowhere: what lies in the CPU's memory on a real GPU machine, and what the caller gave.
HOST, GIVEN = "Host", "Given"
UNCOUNTED = (HOST, GIVEN)


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """The plain storages under a tensor or a tensor subclass."""
    if isinstance(tensor, DTensor):
        return storages_of(tensor._local_tensor)
    inner = getattr(tensor, "elem", None)  # an asynchronous collective's result
    if isinstance(inner, torch.Tensor):
        return storages_of(inner)
    return [tensor.untyped_storage()]


class StorageTracker(TorchDispatchMode):
    """Records allocations, frees and renamings of storages, operator by operator."""

    def __init__(self, category: Callable[[StorageTracker], str]) -> None:
        super().__init__()
        self.phase = "outside"
        self.storages: list[Storage] = []
        self.moments: list[Moment] = []
        self.marks: dict[str, Moment] = {}
        self.total = 0
        self.paused = False  # while DTensor works out shapes, with operators that run nowhere
        self.modules: list[tuple[int, str]] = []  # modules whose forward pass is running
        self._category = category
        self._labels: list[str] = []
        self._events: list[tuple[int, int, str]] = []  # (storage, change in bytes, category)
        self._known: dict[int, tuple[int, Any]] = {}  # id of a live storage -> (number, weak ref)
        self._operator = ""
        self._forward_module: dict[int, str] = {}
        self._handles: list[Any] = []

    # what the code under trace tells

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """What is allocated inside belongs to this category."""
        self._labels.append(label)
        try:
            yield
        finally:
            self._labels.pop()

    def relabel(self, tensor: torch.Tensor | None, category: str) -> None:
        """Move a tensor's storage to a category from now on."""
        if tensor is None:
            return
        for storage in storages_of(tensor):
            number = self._number(storage)
            if number is not None:
                self._events.append((number, 0, category))

    def hold(self, tensor: torch.Tensor, category: str, name: str) -> None:
        """Count a tensor that was made before the trace."""
        for storage in storages_of(tensor):
            if self._number(storage) is None:
                self._add(storage, category, Storage(0, category, "outside", "", name))
                self.storages[-1].describe(tensor)

    # tracking

    def _number(self, storage: torch.UntypedStorage) -> int | None:
        found = self._known.get(id(storage))
        return None if found is None else found[0]

    def _add(self, storage: torch.UntypedStorage, category: str, description: Storage) -> None:
        number, size = len(self.storages), storage.nbytes()
        description.bytes = size
        self.storages.append(description)
        key = id(storage)

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self._change(number, -self.storages[number].bytes, "")

        self._known[key] = (number, weakref.ref(storage, gone))
        self._change(number, size, category)

    def _change(self, number: int, change: int, category: str) -> None:
        self._events.append((number, change, category))
        if self.storages[number].category not in UNCOUNTED:
            self.total += change

    def _resized(self, storage: torch.UntypedStorage) -> None:
        number = self._number(storage)
        if number is not None:
            change = storage.nbytes() - self.storages[number].bytes
            self.storages[number].bytes += change
            self._change(number, change, self._labels[-1] if self._labels else "")
            module = self.modules[-1][1] if self.modules else ""
            self.moments.append(
                Moment(len(self._events), "resize_", module, self.phase, self.total)
            )

    def __enter__(self) -> StorageTracker:
        original = self._original_resize = torch.UntypedStorage.resize_

        @wraps(original)
        def resize_(storage: torch.UntypedStorage, size: int) -> None:
            original(storage, size)
            self._resized(storage)

        torch.UntypedStorage.resize_ = resize_
        super().__enter__()
        return self

    def __exit__(self, *arguments: object) -> None:
        torch.UntypedStorage.resize_ = self._original_resize
        for handle in self._handles:
            handle.remove()
        super().__exit__(*arguments)

    def follow_modules(self, model: torch.nn.Module) -> None:
        """Know which module's forward pass is running."""
        for name, module in model.named_modules():

            def enter(_module: object, _inputs: object, name: str = name) -> None:
                self.modules.append((len(self.modules), name))

            def leave(_m: object, _i: object, _o: object, name: str = name) -> None:
                while self.modules and self.modules.pop()[1] != name:
                    pass  # a recomputation that stopped early left its modules behind

            self._handles.append(module.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(module.register_forward_hook(leave))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor turns itself into operators on local tensors
        if self.paused:
            return func(*args, **(kwargs or {}))
        # Of a functional collective's wait the fake version makes a copy where the real one gives
        # its input back; the reference cases count it, and it rarely lies at a peak.
        module = self._place(func)
        result = func(*args, **(kwargs or {}))
        self._track(result, module)
        self.moments.append(
            Moment(len(self._events), self._operator, module, self.phase, self.total)
        )
        return result

    def _place(self, func: Any) -> str:
        name = str(func).removeprefix("aten.").removesuffix(".default")
        node = torch._C._current_autograd_node()
        if node is not None and not torch.is_grad_enabled():
            self._operator = f"{name} in {node.name()}"
            return self._forward_module.get(node._sequence_nr(), "")
        self._operator = name
        module = self.modules[-1][1] if self.modules else ""
        if torch.is_grad_enabled():
            self._forward_module.setdefault(torch.autograd._get_sequence_nr() - 1, module)
        return module

    def _track(self, result: object, module: str) -> None:
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            for storage in storages_of(tensor):
                if self._number(storage) is None and storage.nbytes():
                    category = self._labels[-1] if self._labels else self._category(self)
                    made = Storage(0, category, self.phase, self._operator, module)
                    self._add(storage, category, made)
                    made.describe(tensor)

    # what it shows

    def mark(self, name: str) -> None:
        """Keep this moment under a name."""
        self.marks[name] = Moment(len(self._events), name, "", self.phase, self.total)

    def live_with_category(self, moment: Moment) -> list[tuple[Storage, int, str]]:
        """The storages alive at a moment: what each is, its bytes and its category then."""
        return [(self.storages[number], held, name) for number, held, name in self._live(moment)]

    def _live(self, moment: Moment) -> list[tuple[int, int, str]]:
        size: dict[int, int] = {}
        category: dict[int, str] = {}
        for number, change, name in self._events[: moment.events]:
            size[number] = size.get(number, 0) + change
            if name:
                category[number] = name
        return [
            (number, held, category[number])
            for number, held in size.items()
            if held > 0 and category[number] not in UNCOUNTED
        ]

    def live(self, moment: Moment) -> list[Storage]:
        """The storages alive at a moment, each with its bytes and category then."""
        return [
            Storage(
                held,
                category,
                one.phase,
                one.operator,
                one.module,
                one.shape,
                one.dtype,
                one.savers,
            )
            for one, held, category in self.live_with_category(moment)
        ]

    def by_category(self, moment: Moment, eventually: Sequence[str] = ()) -> dict[str, int]:
        """Bytes by category at a moment, and their total.

        eventually: what becomes one of these later in the step already counts as it
        """
        found: Counter[str] = Counter()
        becomes = {number: name for number, _, name in self._events if name in eventually}
        for number, held, category in self._live(moment):
            found[becomes.get(number, category)] += held
        return dict(found) | {"Total": sum(found.values())}

    def peak_moment(self, operator: str | None = None, phase: str | None = None) -> Moment:
        """The highest moment, of all or of one operator's or one phase's."""
        found = [
            m
            for m in self.moments
            if (operator is None or re.split(r"[ .]", m.operator)[0] == operator)
            and (phase is None or m.phase == phase)
        ]
        if not found:
            names = sorted({re.split(r"[ .]", m.operator)[0] for m in self.moments})
            raise unknown("operator", operator, names)
        return max(found, key=lambda m: m.total)

    def saved(
        self, root: torch.autograd.graph.Node, excluded: set[str], inputs: Iterable[torch.Tensor]
    ) -> list[Storage]:
        """The distinct storages that autograd holds, with their savers.

        Those of some categories and the step's inputs are left out.
        """
        given = {self._number(storage) for tensor in inputs for storage in storages_of(tensor)}
        now = {number: name for number, _, name in self._events if name}
        found: dict[int, Storage] = {}
        for node, tensor in saved_tensors(root):
            for storage in storages_of(tensor):
                number = self._number(storage)
                if number is None or number in given or now[number] in excluded:
                    continue
                one = found[number] = self.storages[number]
                saver = f"{node.name()} of {self._forward_module.get(node._sequence_nr(), '?')}"
                if saver not in one.savers:
                    one.savers.append(saver)
        return list(found.values())
