"""One field of a model's config changed, everything else as it is: the model, or why there is none.

A field has another value by the config's own name for it, and the family builds the model anew; so
what follows from it (head_dim, where the config does not give it) follows here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import ceil, gcd

from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.operations import Operation
from planner.model.parameters import count_parameters
from planner.model.spec import ModelSpec

FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
SYMBOLS = dict(zip(FIELDS, ("L", "d", "d_ff", "n_q", "n_kv", "V"), strict=True))
# What some families call a field, where Transformers keeps no common name for it.
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "num_key_value_heads": ("num_kv_heads",),
    "hidden_size": ("d_model",),
}
LANGUAGE_PART = "text_config"
WIDTH = "width"
WIDTH_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
# Values that are tried at most on the way to the next legal one.
MOST_TRIES = 600


@dataclass(frozen=True)
class Variant:
    """The model with one change, or the reason why there is none."""

    spec: ModelSpec | None
    reason: str | None = None


class Variations:
    """The models beside one model. Its own values of the fields are read once."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        whole = Config(spec.config, model_type=spec.model_type)
        # A model that sees or hears keeps the fields of its language part in a config of their own.
        nested = LANGUAGE_PART in whole.sub_configs and not whole.knows(FIELDS[0])
        self.part = LANGUAGE_PART if nested else None
        self.config = whole.sub(LANGUAGE_PART) if nested else whole
        self.part_defaults = whole.sub_configs[LANGUAGE_PART].get("defaults", {}) if nested else {}

    @cached_property
    def values(self) -> Mapping[str, int]:
        """The value of each field that the model has."""
        found = {}
        for name in FIELDS:
            value = self._value(name)
            if value is not None:
                found[name] = value
        return found

    def _value(self, name: str) -> int | None:
        """As the config gives it, else as the blocks show it; None if the family has none."""
        own = self._own_name(name)
        if own is None:
            return None
        value = self.config.raw(own)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        total = count_parameters(self.spec).total
        for shown in sorted(self._shown(name)):
            built = self.with_values({name: shown}).spec
            if built is not None and count_parameters(built).total == total:
                return shown
        return None

    def _own_name(self, name: str) -> str | None:
        """What the family calls a field, if it has it."""
        names = (name, *OTHER_NAMES.get(name, ()))
        return next((one for one in names if self.config.knows(one)), None)

    def _shown(self, name: str) -> set[int]:
        """What the blocks show that a field left out may be."""
        operations = [op for place in self.spec.layers for op in place.block.operations]
        if name == "num_key_value_heads":
            return _facts(operations, "kv_heads")
        if name == "num_attention_heads":
            return _facts(operations, "heads")
        if name == "intermediate_size":
            return {
                size
                for op in operations
                if op.group in ("feed_forward", "experts")
                for weight in op.weights
                for size in weight.shape
            }
        return set()

    def with_values(self, values: Mapping[str, int]) -> Variant:
        """The model with some fields of its config set."""
        given = dict(self.config.given)
        if self.part is not None and self.spec.config.get(self.part) is None:
            # The whole model's own values for its part stand only while the part is left out.
            given = dict(self.part_defaults)
        for name, value in values.items():
            own = self._own_name(name) or name
            # A field may be written under an alias; the new value must not stand beside it.
            alias = self.config.canonical(own)
            given = {k: v for k, v in given.items() if self.config.canonical(k) != alias}
            given[own] = value
        given["model_type"] = self.config.model_type
        if self.part is not None:
            given = {**self.spec.config, self.part: given, "model_type": self.spec.model_type}
        config = Config(given, where=lambda _: "changed", model_type=self.spec.model_type)
        try:
            built = families.build(config)
        except InputError as error:
            return Variant(None, error.message.removeprefix("changed: "))
        return Variant(replace(built, name=self.spec.name))

    def scaled(self, name: str, factor: Fraction) -> Variant:
        """The model with a field (or the width) times a factor."""
        values = {}
        for field in WIDTH_FIELDS if name == WIDTH else (name,):
            value = self.values.get(field)
            if value is None:
                if name == WIDTH:
                    continue
                return Variant(None, f"{self.spec.model_type} has no {field}")
            scaled = value * factor
            if scaled.denominator != 1 or scaled < 1:
                return Variant(None, f"{field} {value} x {float(factor):g} is no whole number")
            values[field] = int(scaled)
        if name == WIDTH:
            if not values:
                return Variant(
                    None, f"{self.spec.model_type} has none of {', '.join(WIDTH_FIELDS)}"
                )
            head = self._head_dim()
            if head is not None and self._own_name("head_dim"):
                values["head_dim"] = head
        return self.with_values(values)

    def _head_dim(self) -> int | None:
        operations = [op for place in self.spec.layers for op in place.block.operations]
        heads = _facts(operations, "head_dim")
        return heads.pop() if len(heads) == 1 else None

    def step(self, name: str) -> Fraction | None:
        """The smallest step: 1 / value of the field, or of what all fields of the width share."""
        if name == WIDTH:
            shared = 0
            for field in WIDTH_FIELDS:
                shared = gcd(shared, self.values.get(field, 0))
            return Fraction(1, shared) if shared else None
        value = self.values.get(name)
        return Fraction(1, value) if value else None

    def neighbours(
        self, name: str, direction: int, least: Fraction = Fraction(0)
    ) -> Iterator[tuple[Fraction, ModelSpec]]:
        """Legal factors and their models, the nearest first: upwards (1) or down (-1).

        least: how far from 1 the first one is
        """
        step = self.step(name)
        if step is None:
            return
        first = max(1, ceil(least / step))
        for tried in range(first, first + MOST_TRIES):
            factor = 1 + direction * tried * step
            if factor <= 0:
                return
            built = self.scaled(name, factor).spec
            if built is not None:
                yield factor, built


def _facts(operations: list[Operation], name: str) -> set[int]:
    values = {op.fact(name) for op in operations if op.kind == "attention"}
    return {value for value in values if isinstance(value, int)}
