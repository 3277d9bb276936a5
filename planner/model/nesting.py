"""A model inside another one: the same blocks under other names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model.config import Config, family_table
from planner.model.operations import Block
from planner.model.spec import Placed

Rename = Callable[[str], str]


def renamed_block(block: Block, rename: Rename) -> Block:
    """The block with every weight's full name (and that of what it is tied to) renamed."""
    operations = tuple(
        replace(
            operation,
            weights=tuple(
                replace(
                    weight,
                    name=rename(weight.name),
                    tied_to=rename(weight.tied_to) if weight.tied_to else None,
                )
                for weight in operation.weights
            ),
        )
        for operation in block.operations
    )
    return replace(block, operations=operations)


def renamed(place: Placed, rename: Rename) -> Placed:
    """A place of a model under another name; blocks with a prefix keep their identity."""
    if not place.prefix:
        return replace(place, block=renamed_block(place.block, rename))
    owner = rename(place.weights_of) if place.weights_of else None
    return replace(place, prefix=rename(place.prefix), weights_of=owner)


def head_tied_to(place: Placed, table: str | None) -> Placed:
    """A head whose matrix is the storage of `table`, or has its own."""
    operations = tuple(
        replace(o, weights=tuple(replace(w, tied_to=table) for w in o.weights))
        if o.kind == "linear"
        else o
        for o in place.block.operations
    )
    return replace(place, block=replace(place.block, operations=operations))


def without_logits(place: Placed) -> Placed:
    """A head's place with what stands before the output matrix: the last norm."""
    kept = tuple(o for o in place.block.operations if o.group != "output_head")
    return replace(place, block=replace(place.block, name="final norm", operations=kept))


def prefix_changed(old: str, new: str) -> Rename:
    """Names that begin with `old` begin with `new` instead; others stay."""
    return lambda name: new + name[len(old) :] if name.startswith(old) else name


def taken_as(c: Config, model_type: str) -> Config:
    """A config read as another family's, with its own family's defaults."""
    defaults = family_table()["families"].get(c.model_type, {}).get("defaults", {})
    given = {name: value for name, value in c.given.items() if name != "model_type"}
    return Config(given, where=c.where, model_type=model_type, own_defaults=defaults)
