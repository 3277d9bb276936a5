"""A symbolic autograd tape: which tensors one block holds at each moment of a training step.

Kernels (memory/kernels/) play a block's operations onto a tape as the primitive steps that a
framework really runs. Each step says which storages it keeps for the backward pass, which gradients
it makes, and what lives only while it runs. From that the tape tells, step by step, what is live,
forward and backward. Nothing is measured or fitted here: the rules are those of PyTorch's autograd
engine (a saved storage counts once however many steps save it; a step's saved tensors are freed
when its backward has run; a gradient lives until its consumer has run).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from planner.memory.sizes import ZERO, Size, plus, size


class Storage:
    """One allocation. Identity is what counts: two values may share it.

    weight_copy: a weight in the compute dtype (autocast), which is no activation
    """

    __slots__ = ("size", "weight_copy")

    def __init__(self, size: Size, weight_copy: bool = False) -> None:
        self.size = size
        self.weight_copy = weight_copy


@dataclass(eq=False, slots=True)
class Value:
    """A tensor: a view of a storage with a width per token, an element size and a split."""

    storage: Storage
    width: float
    itemsize: int
    column: str
    requires_grad: bool = True


@dataclass(slots=True)
class Step:
    """One primitive: what it reads and makes, keeps, and needs while it runs."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    saves: tuple[Storage, ...]
    # per input: "new", "same" (the output's gradient), "kept" (over the input itself), "none"
    gradients: tuple[str, ...]
    weight_gradient: Size
    forward_scratch: Size
    backward_scratch: Size
    cast_scratch: Size
    operation: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What is live at one step: bytes by column, the step's name, and its operation's number.

    added: the size where each gradient is added to an earlier pass's as soon as it is made, so that
    only the step's own is there; None: as `size`
    """

    name: str
    size: Size
    operation: int = 0
    added: Size | None = None


@dataclass(frozen=True, slots=True)
class BlockProfile:
    """What one block needs, as vectors over BASIS.

    kept       stays from its forward to its backward pass (its input is the previous block's),
               without autocast's copies of weights
    input      its input alone: what full recompute keeps
    forward    moments of the forward pass, without what earlier blocks keep
    passing    the same under full recompute, where nothing but the input is kept
    backward   moments of the backward pass, its own kept tensors included
    again      the same under full recompute, the input and the second forward pass included
    moved      what the elementwise steps read and write, forward and backward (matrix products and
               attention are priced by their shapes)
    moved_again   of the forward pass's, what operations that are computed again move once more
    launches   kernels started, forward and backward
    launches_again   of the forward pass's, those of operations that are computed again
    """

    kept: Size
    input: Size
    forward: tuple[Moment, ...]
    passing: tuple[Moment, ...]
    backward: tuple[Moment, ...]
    again: tuple[Moment, ...]
    moved: tuple[Size, Size] = (ZERO, ZERO)
    moved_again: Size = ZERO
    launches: tuple[int, int] = (0, 0)
    launches_again: int = 0


# Autocast's copy of a weight: not priced, as little as the weights' own traffic is.
WEIGHT_COPY = "copy_weight"
# Steps that start no kernel, and steps whose kernel is priced by its shape.
VIEWS = ("view", "split", WEIGHT_COPY)
PRODUCTS = ("linear", "bmm", "flash_attention", "grouped_mm")
# Beside products, what torchtitan's checkpointing by operator never computes again.
KEPT_OUTPUTS = ("flash_attention", "reduce_scatter")


@dataclass(frozen=True, slots=True)
class Again:
    """Operations of a block that the backward pass computes again from their inputs.

    drops_output: what they make for others is not kept either (Megatron-Core frees it and makes it
    again just before its consumer's backward).
    keeps_products: not all is dropped: attention's outputs and those of every second matrix
    product stay (compiled: those alone that the backward pass reads), and all that is dropped comes
    back at once when the block's backward begins (torchtitan's checkpointing by operator).
    """

    operations: frozenset[int]
    drops_output: bool = False
    keeps_products: bool = False
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class _Retention:
    """kept: storages that wait; until: the step whose backward frees one; returns: by step."""

    kept: tuple[Storage, ...]
    until: dict[Storage, int]
    returns: dict[int, list[Storage]]


@dataclass
class Tape:
    """Steps of one block in the order of its forward pass."""

    in_place_accumulation: bool = True
    steps: list[Step] = field(default_factory=list)
    operation: int = 0

    # ---- values -------------------------------------------------------------------------------

    def value(self, width: float, itemsize: int, column: str, requires_grad: bool = True) -> Value:
        storage = Storage(size(column, width * itemsize))
        return Value(storage, width, itemsize, column, requires_grad)

    def like(self, value: Value, itemsize: int | None = None, width: float | None = None) -> Value:
        return self.value(
            value.width if width is None else width,
            value.itemsize if itemsize is None else itemsize,
            value.column,
            value.requires_grad,
        )

    # ---- recording ----------------------------------------------------------------------------

    def step(
        self,
        name: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        *,
        saves: Iterable[Value | Storage] = (),
        gradients: Sequence[str] | None = None,
        weight_gradient: Size = ZERO,
        forward_scratch: Size = ZERO,
        backward_scratch: Size = ZERO,
        cast_scratch: Size = ZERO,
    ) -> None:
        """Record a step; one that no gradient reaches keeps nothing.

        cast_scratch: what is added to backward_scratch when the gradients are there and are cast or
        summed to their inputs' dtypes and shapes.
        """
        differentiable = any(v.requires_grad for v in inputs) or any(weight_gradient)
        for out in outputs:
            out.requires_grad = differentiable
        storages = tuple(s.storage if isinstance(s, Value) else s for s in saves)
        self.steps.append(
            Step(
                name,
                tuple(inputs),
                tuple(outputs),
                storages if differentiable else (),
                tuple(gradients) if gradients is not None else ("new",) * len(inputs),
                weight_gradient,
                forward_scratch,
                backward_scratch,
                cast_scratch,
                self.operation,
            )
        )

    # ---- reading ------------------------------------------------------------------------------

    def profile(
        self, block_input: Value, block_output: Value, again: Sequence[Again] = ()
    ) -> BlockProfile:
        """The block's rows but for what they move and start (movement.py).

        again: runs of operations that the backward pass computes again.
        """
        retention = self._retention(again)
        return BlockProfile(
            kept=plus(ZERO, *(s.size for s in retention.kept if not s.weight_copy)),
            input=block_input.storage.size,
            forward=tuple(self._forward(block_input.storage, retention)),
            passing=tuple(self._forward(block_input.storage, self._passing(block_input.storage))),
            backward=tuple(self._backward(block_output, retention)),
            again=tuple(self._backward(block_output, retention, block_input.storage)),
        )

    def _passing(self, block_input: Storage) -> _Retention:
        """What waits under full recompute: autocast's cache keeps its copies all the same."""
        copies = (s for step in self.steps for s in step.saves if s.weight_copy)
        return _Retention((block_input, *copies), {}, {})

    def _retention(self, again: Sequence[Again]) -> _Retention:
        """Which storages wait for the backward pass, until which step, and what comes back when."""
        until: dict[Storage, int] = {}
        savers: dict[Storage, list[int]] = {}
        for index, step in enumerate(self.steps):
            for storage in step.saves:
                until.setdefault(storage, index)
                savers.setdefault(storage, []).append(index)
        kept = dict.fromkeys(until)
        returns: dict[int, list[Storage]] = {}
        for one in again:
            members = [i for i, s in enumerate(self.steps) if s.operation in one.operations]
            if not members:
                continue
            made = {v.storage for i in members for v in self.steps[i].outputs}
            outputs = {s for s in made if any(i not in members for i in savers.get(s, ()))}
            fed = {v.storage for i in members for v in self.steps[i].inputs} - made
            inner = {s for i in members for s in self.steps[i].saves} - fed
            if one.keeps_products:
                stay = self._every_second_product(members, one.compiled) | fed
                returns.setdefault(members[-1], []).extend(s for s in until if s not in stay)
                for storage in stay:
                    until.setdefault(storage, members[-1])
                kept = dict.fromkeys(stay)
                continue
            gone = [
                s for s in until if s in inner | outputs and (one.drops_output or s not in outputs)
            ]
            for storage in gone:
                kept.pop(storage, None)
            for storage in fed:
                until[storage] = min(until.get(storage, members[0]), members[0])
                kept.setdefault(storage)
            if gone:
                first_needed = max(i for s in gone for i in savers[s])
                returns.setdefault(first_needed, []).extend(gone)
        return _Retention(tuple(kept), until, returns)

    def _every_second_product(self, members: Sequence[int], compiled: bool) -> set[Storage]:
        """Outputs that checkpointing by operator keeps: of the first product, the third ..."""
        unread: set[Storage] = set()
        if compiled:  # what is only added to another tensor
            adds = [s for s in self.steps if s.name == "add"]
            others = [s for s in self.steps if s.name != "add"]
            unread = {v.storage for s in adds for v in s.inputs}
            unread -= {v.storage for s in others for v in s.inputs}
        kept: set[Storage] = set()
        products = 0
        for step in (self.steps[i] for i in members):
            if step.name == "linear":
                products += 1
            if step.name in KEPT_OUTPUTS or (step.name == "linear" and products % 2):
                own = {v.storage for v in step.inputs}
                kept |= {*step.saves, *(v.storage for v in step.outputs)} - own
        return kept - unread

    def _forward(self, block_input: Storage, retention: _Retention) -> Iterable[Moment]:
        """Live at a step: all that is kept by earlier steps or read by this one or a later one."""
        kept = set(retention.kept)
        last_use = {block_input: 0}
        created: dict[Storage, int] = {block_input: 0}
        for index, step in enumerate(self.steps):
            for value in (*step.inputs, *step.outputs):
                last_use[value.storage] = index
                created.setdefault(value.storage, index)
            for storage in step.saves:
                created.setdefault(storage, index)
                last_use.setdefault(storage, index)
        for index, step in enumerate(self.steps):
            live = [
                storage.size
                for storage, first in created.items()
                if first <= index and (storage in kept or last_use[storage] >= index)
            ]
            yield Moment(step.name, plus(step.forward_scratch, *live), step.operation)

    def _backward(
        self, block_output: Value, retention: _Retention, from_input: Storage | None = None
    ) -> Iterable[Moment]:
        """Live at a step: what still waits, the gradients, and the weight gradients made so far.

        from_input: nothing but the block's input waits; the first step that needs more makes it all
        again (torch.utils.checkpoint). What was made again is let go of as it is read.
        """
        waiting = dict.fromkeys(retention.kept if from_input is None else (from_input,))
        again = from_input is not None
        gradients: dict[Value, Storage] = {block_output: Storage(block_output.storage.size)}
        made = ZERO
        for index in range(len(self.steps) - 1, -1, -1):
            step = self.steps[index]
            waiting.update(dict.fromkeys(retention.returns.get(index, ())))
            if from_input is not None and again and step.saves:
                again = False
                live = {s for v, s in gradients.items()}
                yield from self._second_forward(from_input, retention, live)
                waiting.update(dict.fromkeys(retention.kept))
            saved = plus(ZERO, *(s.size for s in waiting))
            if any(v in gradients for v in step.outputs):
                made = plus(made, step.weight_gradient)
                fresh = self._gradients_of(step, gradients)
                live = (set(gradients.values()) | {s for _, s in fresh}) - set(waiting)
                base = plus(saved, *(s.size for s in live), step.backward_scratch)
                own = step.weight_gradient
                yield Moment(step.name, plus(base, made), step.operation, plus(base, own))
                if any(step.cast_scratch):
                    done = [s for s in waiting if from_input and retention.until.get(s) == index]
                    freed = [tuple(-x for x in s.size) for s in done]
                    base = plus(base, step.cast_scratch, *freed)
                    yield Moment(step.name, plus(base, made), step.operation, plus(base, own))
                for value in step.outputs:
                    gradients.pop(value, None)
                yield from self._accumulate(gradients, fresh, saved, made, step.operation)
            for storage in [s for s in waiting if retention.until.get(s) == index]:
                if storage is not from_input:
                    del waiting[storage]

    def _second_forward(
        self, block_input: Storage, retention: _Retention, gradients: set[Storage]
    ) -> Iterable[Moment]:
        """The forward pass again, beside the gradients that are there.

        It stops when the last tensor is kept: before that step runs, unless it keeps a result.
        """
        last = max(index for index, step in enumerate(self.steps) if step.saves)
        results = {v.storage for v in self.steps[last].outputs}
        count = last + 1 if results & set(self.steps[last].saves) else last
        kept = (*retention.kept, block_input)
        held = plus(ZERO, *(s.size for s in gradients))
        moments = self._forward(block_input, _Retention(kept, {}, {}))
        for _, moment in zip(range(count), moments, strict=False):
            yield Moment(moment.name, plus(moment.size, held), moment.operation)

    def _gradients_of(
        self, step: Step, gradients: dict[Value, Storage]
    ) -> list[tuple[Value, Storage]]:
        """The gradients that a step hands to its inputs: new storages, or the incoming one."""
        incoming = next(gradients[v] for v in step.outputs if v in gradients)
        fresh = []
        for value, rule in zip(step.inputs, step.gradients, strict=True):
            if rule == "none" or not value.requires_grad:
                continue
            own = Storage(size(value.column, value.width * value.itemsize))
            choice = {"same": incoming, "kept": value.storage, "new": own}
            fresh.append((value, choice[rule]))
        return fresh

    def _accumulate(
        self,
        gradients: dict[Value, Storage],
        fresh: list[tuple[Value, Storage]],
        saved: Size,
        made: Size,
        operation: int,
    ) -> Iterable[Moment]:
        """Hand the new gradients on; a second one for the same value is summed."""
        pending = [s for _, s in fresh]
        for value, storage in fresh:
            if value not in gradients:
                gradients[value] = storage
                continue
            old = gradients[value]
            alone = sum(1 for s in gradients.values() if s is old) == 1
            if not (self.in_place_accumulation and alone):
                total = Storage(old.size)
                live = set(gradients.values()) | set(pending) | {total}
                base = plus(saved, *(s.size for s in live))
                yield Moment("accumulate", plus(base, made), operation, base)
                gradients[value] = total
