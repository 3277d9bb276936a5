"""What a bare name means where models, GPUs and scenarios may be named alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from planner.documents import load
from planner.errors import InputError, near_match
from planner.hardware.library import all_gpus, find
from planner.model import catalog
from planner.model.sources import load_model
from planner.scenario.file import worked_scenarios

Kind: TypeAlias = Literal["scenario", "GPU", "model"]
_YAML = (".yaml", ".yml")


def kind_of(name: str) -> Kind:
    """A scenario file, a GPU or node type, or a model; an error if it is none of them."""
    if name in worked_scenarios():
        return "scenario"
    if Path(name).suffix.lower() in _YAML:
        data = load(name).data
        if isinstance(data, dict) and "hardware" in data:
            return "scenario"
        hardware = isinstance(data, dict) and ("peak" in data or "gpus_per_node" in data)
        return "GPU" if hardware else "model"
    if name == "live":
        return "GPU"
    try:
        find(name)
    except InputError:
        pass
    else:
        return "GPU"
    try:
        load_model(name)
    except InputError as error:
        if not error.message.startswith("unknown model "):
            raise
        raise _unknown(name) from None
    return "model"


def same_kind(names: tuple[str, ...]) -> Kind:
    """The kind of all of them."""
    kinds = {name: kind_of(name) for name in names}
    found = sorted(set(kinds.values()))
    if len(found) > 1:
        told = ", ".join(f"{name} is a {kind}" for name, kind in kinds.items())
        raise InputError(f"{told}: expected things of one kind")
    return kinds[names[0]]


def _unknown(name: str) -> InputError:
    known = (*catalog.ids(), *(gpu.id for gpu in all_gpus()))
    close = near_match(name, known)
    advice = f"did you mean {close}?" if close else "none is close"
    return InputError(f"{name!r} is no scenario file, GPU or model: {advice}")
