"""Words of a request that may carry a number or names: recompute and offload."""

from __future__ import annotations

from dataclasses import dataclass

from planner.answers.checks import wrong
from planner.errors import unknown
from planner.memory.recompute import MODULES
from planner.training.layout import Recompute, Sharding
from planner.training.stacks import Stack

OFFLOADS = ("optimizer", "parameters", "activations")


@dataclass(frozen=True)
class Again:
    """What the backward pass computes again: the policy, so many layers, or named modules."""

    code: Recompute
    layers: int | None = None
    modules: tuple[str, ...] = ()


def recompute_of(word: str | None) -> Again:
    """none, selective, full, full:N layers of each stage, or module names with commas between."""
    word = (word or "none").strip()
    if word in Recompute.__members__:
        return Again(Recompute[word])
    policy, _, number = word.partition(":")
    if policy == "full" and number:
        if not number.isdigit() or int(number) < 1:
            raise wrong("recompute", word, "expected full:N, N layers of each stage, at least 1")
        return Again(Recompute.full, layers=int(number))
    modules = tuple(part.strip() for part in word.split(","))
    for module in modules:
        if module not in MODULES:
            known = (*Recompute.__members__, "full:N", *MODULES)
            raise unknown("recompute", module, known, field="recompute")
    return Again(Recompute.selective, modules=modules)


@dataclass(frozen=True)
class Offload:
    """What goes to the host, and the activations of how many layers of a stage (None: all)."""

    what: tuple[str, ...]
    layers: int | None


def offload_of(words: tuple[str, ...], kind: Stack, sharding: Sharding) -> Offload:
    """optimizer, parameters, activations, or activations:N layers of each stage."""
    what, layers = [], None
    for word in words:
        name, _, number = word.partition(":")
        if name not in OFFLOADS:
            raise unknown("offload", name, OFFLOADS, field="offload")
        if number:
            if name != "activations" or not number.isdigit() or int(number) < 1:
                raise wrong("offload", word, "expected activations:N, N layers, at least 1")
            layers = int(number)
        what.append(name)
    if "parameters" in what and not kind.gathers(sharding):
        raise wrong(
            "offload",
            "parameters",
            f"only parameters that are gathered unit by unit are, stack {kind.name} with sharding "
            f"{sharding.name} holds them whole; zero3 divides them",
        )
    return Offload(tuple(what), layers)
