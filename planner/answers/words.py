"""Words of a request that may carry a number or names: recompute, offload, how kernels run."""

from __future__ import annotations

from dataclasses import dataclass

from planner.answers.checks import wrong
from planner.errors import unknown
from planner.memory.recompute import MODULES
from planner.training.execution import (
    DISPATCHERS,
    GRAPHED_MODULES,
    GRAPHS,
    MODULES_PREFIX,
    OVERLAPS,
    Execution,
)
from planner.training.layout import Layout, Recompute, Sharding
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


def offload_words(layout: Layout) -> tuple[str, ...]:
    """As they are written in a flag: optimizer, parameters, activations or activations:8."""
    layers = layout.offload_layers
    counted = "activations" if layers is None else f"activations:{layers}"
    return tuple(counted if name == "activations" else name for name in layout.offload)


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
        if name in what:
            raise wrong("offload", word, f"{name} is given twice")
        what.append(name)
    if "parameters" in what and not kind.gathers(sharding):
        raise wrong(
            "offload",
            "parameters",
            f"only parameters that are gathered unit by unit are, stack {kind.name} with sharding "
            f"{sharding.name} holds them whole; zero3 divides them",
        )
    return Offload(tuple(what), layers)


def execution_of(
    graph: str | None, dispatcher: str | None, overlap: str | None, kind: Stack
) -> Execution:
    """How kernels are started, experts reached and traffic hidden; None: the stack's default.

    graph: none, local, full, or te: and modules with plus signs between. overlap: none, or words
    of OVERLAPS with commas between.
    """
    if graph is not None:
        _check_graph(graph)
    if dispatcher is not None:
        if dispatcher not in DISPATCHERS:
            raise unknown("moe_dispatcher", dispatcher, DISPATCHERS, field="moe_dispatcher")
        if not kind.dispatches_experts:
            raise wrong("moe_dispatcher", dispatcher, f"stack {kind.name} has none to choose")
    return Execution(
        cuda_graph=graph or "none",
        dispatcher=dispatcher,
        overlap=None if overlap is None else _overlaps(overlap),
    )


def _check_graph(graph: str) -> None:
    if not graph.startswith(MODULES_PREFIX):
        if graph not in GRAPHS:
            known = (*GRAPHS, MODULES_PREFIX + "+".join(GRAPHED_MODULES))
            raise unknown("cuda_graph", graph, known, field="cuda_graph")
        return
    for module in graph.removeprefix(MODULES_PREFIX).split("+"):
        if module not in GRAPHED_MODULES:
            raise unknown("cuda_graph module", module, GRAPHED_MODULES, field="cuda_graph")


def _overlaps(overlap: str) -> tuple[str, ...]:
    words = tuple(part.strip() for part in overlap.split(","))
    if words == ("none",):
        return words
    if "none" in words:
        raise wrong("overlap", overlap, "none stands alone")
    for word in words:
        if word not in OVERLAPS:
            raise unknown("overlap", word, ("none", *OVERLAPS), field="overlap")
    return words
