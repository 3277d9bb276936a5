"""What moves or holds weights, asked for a weight or a unit at a time, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.memory.peak import StageMoments
from planner.memory.profile import BlockRows
from planner.memory.rows import Row
from planner.memory.shards import local_elements, shard_elements
from planner.model.operations import Weight
from planner.training.layout import Layout
from planner.training.optimizers import optimizer, rule_for, state_bytes_per_element
from planner.training.precision import policy_of
from planner.training.recipe import Recipe


@dataclass(frozen=True)
class Allocation:
    """One tensor at the moment at which it is asked for [bytes].

    tensor     what it is, in words
    group      as memory.rows.GROUPS tells it
    least, most  what is allocated before it; the same, but where a run of equal ones is made
    """

    phase: str
    where: str
    group: str
    tensor: str
    bytes: float
    least: float
    most: float


@dataclass(frozen=True)
class WeightAllocations:
    """What is allocated a weight or a unit at a time."""

    found: StageMoments
    recipe: Recipe
    layout: Layout

    def stored(self) -> Iterator[Allocation]:
        """Weights as the model is put on the GPU, one after another."""
        held = float(self.found.rows[0].parts.get("weights", 0))
        itemsize = policy_of(self.recipe, self.layout.stack).parameter
        for name, weight in self._all():
            size = float(itemsize * self._shard(weight))
            yield Allocation("start", "weights", "weights", name, size, 0.0, held)

    def gathered(self, row: Row, block: BlockRows) -> Iterator[Allocation]:
        """A unit's all-gather, and each weight copied out of it."""
        s = self.found.situation
        before = float(row.total) - float(row.parts.get("gathered_parameters", 0))
        most = float(row.total)
        unit = float(s.layer_itemsize * self._of_layers(block, gathered=True))
        words = f"all-gather of the weights of layer {row.layer}"
        yield Allocation(
            row.phase, row.where, "gathered_parameters", words, unit, before, most - unit
        )
        for weight in block.weights:
            size = float(s.layer_itemsize * local_elements(weight, self.layout))
            words = f"gathered {weight.name}"
            yield Allocation(
                row.phase, row.where, "gathered_parameters", words, size, before, most - size
            )

    def reduced(self, row: Row) -> Iterator[Allocation]:
        """The flat input of a unit's reduction."""
        s = self.found.situation
        size = float(row.parts.get("reductions", 0) - s.static.get("reductions", 0))
        before = float(row.total) - size
        words = f"reduce-scatter of the gradients of {row.where.removesuffix(' reduced')}"
        yield Allocation(row.phase, row.where, "reductions", words, size, before, before)

    def gradients(self, row: Row, block: BlockRows) -> Iterator[Allocation]:
        """Gradients of single weights, as a block's backward pass makes them."""
        s = self.found.situation
        if s.main_gradients or (s.frozen and row.layer is None):
            return
        itemsize = s.compute if s.gathered else s.gradient
        for weight in block.trained:
            size = float(itemsize * local_elements(weight, self.layout))
            most = max(float(row.total) - size, 0.0)
            least = max(most - float(row.parts.get("working_activations", 0)), 0.0)
            yield Allocation(
                row.phase, row.where, "gradients", f"gradient of {weight.name}", size, least, most
            )

    def optimizer_step(self, row: Row) -> Iterator[Allocation]:
        """States as the first step makes them, and the temporaries of a foreach step."""
        states = float(row.parts.get("optimizer_states", 0))
        temporaries = float(row.parts.get("temporaries", 0))
        most = float(row.total) - temporaries
        rule = optimizer(self.recipe.optimizer)
        updated = self._updated
        for name, weight in self._trained():
            elements = float(self._shard(weight))
            for state in rule_for(rule, weight).states:
                size = elements * state_bytes_per_element(state, weight, updated)
                words = f"{state.name} of {name}"
                yield Allocation(
                    row.phase, "first step", "optimizer_states", words, size, most - states, most
                )
            if temporaries:
                words = f"the optimizer step's temporary of {name}"
                size = elements * updated
                yield Allocation(
                    row.phase, row.where, "temporaries", words, size, most, most + temporaries
                )

    @property
    def _updated(self) -> float:
        tune = self.recipe.finetune
        policy = policy_of(self.recipe, self.layout.stack)
        return float(policy.updated if tune is None else self.found.situation.gradient)

    def _shard(self, weight: Weight) -> float:
        ranks = self.found.situation.data_ranks if self.found.situation.gathered else 1
        return float(shard_elements(weight, self.layout, ranks))

    def _of_layers(self, block: BlockRows, gathered: bool) -> float:
        for layer, unit in zip(self.found.model.layers, self.found.situation.layers, strict=True):
            if layer is block:
                return float(unit.gathered if gathered else unit.whole)
        return 0.0

    def _all(self) -> Iterator[tuple[str, Weight]]:
        for block in self._blocks():
            for weight in block.weights:
                if not weight.tied_to:
                    yield weight.name, weight

    def _trained(self) -> Iterator[tuple[str, Weight]]:
        for block in self._blocks():
            if block.positions or self.recipe.finetune is None:
                for weight in block.trained:
                    if not weight.tied_to:
                        yield weight.name, weight

    def _blocks(self) -> Iterator[BlockRows]:
        model, s = self.found.model, self.found.situation
        if s.holds_embedding:
            yield model.embedding
        yield from model.layers
        if s.holds_head:
            yield model.head
