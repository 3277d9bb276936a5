"""The single allocations of a step: how large each is, and what is allocated when it is asked for.

They are the outputs, scratches and gradients of the same tapes that the peak comes from
(memory/tape.py), each beside the moment of its layer in the timeline; then what moves or holds
weights: gradients, gathers, reductions, optimizer states. One layout, numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from planner.memory.peak import StageMoments, recorded, stage_moments
from planner.memory.profile import BlockRows
from planner.memory.rows import Row, amount, with_gradients_amount
from planner.memory.sizes import Size, size
from planner.memory.tape import Moment, Step, Storage, Tape, Value
from planner.memory.weight_allocations import Allocation, WeightAllocations
from planner.model.operations import Operation
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.recipe import Recipe

DTYPES = {1: "8-bit", 2: "16-bit", 4: "float32", 8: "int64"}


def allocations(
    spec: ModelSpec, recipe: Recipe, layout: Layout, stage: str
) -> Iterator[Allocation]:
    """In the order of a step, with equal layers' told once a layer."""
    found = stage_moments(spec, recipe, layout, stage)
    tapes: dict[int, _Tape] = {}
    of_weights = WeightAllocations(found, recipe, layout)
    yield from of_weights.stored()
    for row in found.rows:
        block = _block_of(found, row)
        if row.phase == "optimizer":
            yield from of_weights.optimizer_step(row)
        elif row.where.endswith("gathered"):
            yield from of_weights.gathered(row, block)
        elif row.where.endswith("reduced"):
            yield from of_weights.reduced(row)
        else:
            if id(block) not in tapes:
                tapes[id(block)] = _Tape.of(block, *recorded(spec, recipe, layout, block), recipe)
            of_block = _Block(found, row, block, tapes[id(block)])
            yield from of_block.forward() if row.phase == "forward" else of_block.backward()
            if row.phase == "backward" and row.where in (f"layer {row.layer}", "head", "embedding"):
                yield from of_weights.gradients(row, block)


def _block_of(found: StageMoments, row: Row) -> BlockRows:
    if row.layer is not None:
        return next(b for b in found.model.layers if row.layer in b.positions)
    return found.model.embedding if row.where.startswith("embedding") else found.model.head


@dataclass(frozen=True)
class _Tape:
    """A block's steps, each storage with the step that makes it, and what each storage is."""

    steps: tuple[Step, ...]
    made: tuple[tuple[Step, Storage], ...]
    labels: dict[Storage, str]

    @classmethod
    def of(cls, block: BlockRows, tape: Tape, start: Value, recipe: Recipe) -> _Tape:
        made = tuple(_new_storages(tape, start))
        labels = {start.storage: "the residual stream"}
        for step, storage in made:
            value = next((v for v in step.outputs if v.storage is storage), None)
            operation = block.block.operations[step.operation]
            labels[storage] = _named(operation, value, recipe)
        for step in tape.steps:
            for value in step.inputs:
                labels.setdefault(value.storage, "an input")
        return cls(tuple(tape.steps), made, labels)


@dataclass(frozen=True)
class _Block:
    """What the steps of a block ask for, at one of its moments."""

    found: StageMoments
    row: Row
    block: BlockRows
    tape: _Tape

    @property
    def again(self) -> bool:
        """Whether the backward pass makes what the forward pass did not keep."""
        return self.found.situation.recomputes and self.row.layer is not None

    def forward(self) -> Iterator[Allocation]:
        profile = self.block.profile
        live = self._allocated_at(profile.passing if self.again else profile.forward)
        yield from self._outputs(live)
        for step in self.tape.steps:
            if any(step.forward_scratch):
                yield self._made(step, self._scratch(step), step.forward_scratch, live)

    def backward(self) -> Iterator[Allocation]:
        """Of the head the loss or the rest, each at its own moment."""
        profile = self.block.profile
        moments = profile.again if self.again else profile.backward
        live = self._allocated_at(tuple(m for m in moments if self._is_here(m.operation)))
        if self.again:
            yield from self._outputs(live)
        for step in reversed(self.tape.steps):
            if not self._is_here(step.operation):
                continue
            for value in _fresh_gradients(step):
                words = f"gradient of {self.tape.labels[value.storage]}"
                yield self._made(
                    step, words, size(value.column, value.width * value.itemsize), live
                )
            if any(step.backward_scratch):
                yield self._made(step, self._scratch(step), step.backward_scratch, live)

    def _is_here(self, operation: int) -> bool:
        """Whether an operation's backward is of this row: of the head, the loss or the rest."""
        if self.block is not self.found.model.head:
            return True
        return (operation == len(self.block.block.operations) - 1) == (self.row.where == "loss")

    def _outputs(self, live: Callable[[Step], float]) -> Iterator[Allocation]:
        for step, storage in self.tape.made:
            yield self._made(step, self.tape.labels[storage], storage.size, live)

    def _scratch(self, step: Step) -> str:
        return f"scratch of {self.block.block.operations[step.operation].name}"

    def _made(self, step: Step, tensor: str, of: Size, live: Callable[[Step], float]) -> Allocation:
        row = self.row
        group = "logits" if self.block is self.found.model.head else "working_activations"
        own = float(amount(of, self.found.situation.columns))
        before = max(live(step) - own, 0.0)
        return Allocation(row.phase, row.where, group, tensor, own, before, before)

    def _allocated_at(self, moments: tuple[Moment, ...]) -> Callable[[Step], float]:
        """Bytes that are allocated at a step, itself included: the row is its highest moment."""
        s = self.found.situation
        itemsize = 0.0 if s.main_gradients else s.compute if s.gathered else s.gradient
        found: dict[tuple[str, int], float] = {}
        for moment in moments:
            size = moment.added if s.accumulated and moment.added is not None else moment.size
            live = float(with_gradients_amount(size, s.columns, itemsize))
            found.setdefault((moment.name, moment.operation), live)
        highest = max(found.values(), default=0.0)
        base = float(self.row.total) - highest
        return lambda step: base + found.get((step.name, step.operation), highest)


def _fresh_gradients(step: Step) -> Iterator[Value]:
    for value, rule in zip(step.inputs, step.gradients, strict=True):
        if rule == "new" and value.requires_grad:
            yield value


def _new_storages(tape: Tape, start: Value) -> Iterator[tuple[Step, Storage]]:
    """Each storage with the step that makes it."""
    seen = {start.storage}
    for step in tape.steps:
        for storage in (*(v.storage for v in step.outputs), *step.saves):
            if storage not in seen:
                seen.add(storage)
                yield step, storage


def _named(operation: Operation, made: Value | None, recipe: Recipe) -> str:
    if made is None:
        return f"what {operation.name} keeps"
    dtype = DTYPES.get(made.itemsize, "")
    if operation.group == "output_head" or operation.kind == "cross_entropy":
        return f"logits, {dtype}"
    if operation.kind == "attention":
        scores = operation.number("heads") * recipe.sequence_length
        if made.width >= scores:
            return f"attention scores, {dtype}"
    return f"output of {operation.name}, {dtype}"
