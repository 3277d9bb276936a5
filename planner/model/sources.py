"""What a user names as MODEL becomes a ModelSpec: a file, a folder, a catalog id, or a mapping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.documents import Document, load
from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.spec import ModelSpec

# Flags and scenario fields by the symbols of the field, and their names in a config.
SYMBOLS = {
    "L": "num_hidden_layers",
    "d": "hidden_size",
    "d_ff": "intermediate_size",
    "n_q": "num_attention_heads",
    "n_kv": "num_key_value_heads",
    "V": "vocab_size",
}
INLINE_FAMILY = "llama"
_SUFFIXES = (".json", ".yaml", ".yml")


def load_model(argument: str, changes: Mapping[str, Any] | None = None) -> ModelSpec:
    """The model that a command-line MODEL means; `changes` replace fields of its config."""
    if not argument.strip():
        raise InputError("unknown model '': expected a file, a folder or a catalog id")
    path = Path(argument)
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise InputError(f"{argument}: the folder has no config.json")
        document = load(config, allow_infinity=True)
        return from_document(document, name=path.resolve().name, changes=changes)
    if path.suffix.lower() in _SUFFIXES or argument.startswith((".", "~", "/")) or path.is_file():
        document = load(path, allow_infinity=True)
        return from_document(document, name=_name_of(path), changes=changes)
    from planner.model import catalog, hub

    try:
        entry = catalog.find(argument)
    except InputError:
        if not hub.is_repository(argument):
            raise
        document = load(hub.config_of(argument), allow_infinity=True)
        return from_document(document, name=argument, changes=changes)
    return from_mapping(entry.config, name=entry.id, where=entry.id, changes=changes)


def _name_of(path: Path) -> str:
    """A config.json is known by its folder, any other file by its own name."""
    stem = path.resolve().parent.name if path.stem == "config" else path.stem
    return stem or path.stem


def from_document(
    document: Document, *, name: str, changes: Mapping[str, Any] | None = None
) -> ModelSpec:
    if not isinstance(document.data, Mapping):
        raise InputError(f"{document.source}: expected a mapping of fields, as in a config.json")
    return _build({**document.data, **(changes or {})}, name, _places(document))


def from_fields(document: Document, *, name: str = "inline") -> ModelSpec:
    """A model from the mapping of a scenario, as `from_mapping`; errors name the line."""
    return _build(_full(document.data), name, _places(document))


def _places(document: Document) -> Callable[[str], str]:
    def where(field: str) -> str:
        path = (field,) if field in document.data else ()
        line = document.line(path) if path or document.base else None
        return f"{document.source}:{line}" if line else document.source

    return where


def from_mapping(
    fields: Mapping[str, Any],
    *,
    name: str = "inline",
    where: str = "model",
    changes: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """A model from fields alone, also by symbols (L, d ...); without model_type a Llama."""
    return _build(_full({**fields, **(changes or {})}), name, lambda field: where)


def _full(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config's own names for symbols, and a family."""
    full = {SYMBOLS.get(key, key): value for key, value in fields.items()}
    full.setdefault("model_type", INLINE_FAMILY)
    return full


def _build(fields: Mapping[str, Any], name: str, where: Callable[[str], str]) -> ModelSpec:
    try:
        spec = families.build(Config(fields, where=where))
    except InputError as error:
        if error.field != "model_type":
            raise
        raise InputError(f"{where('model_type')}: {error.message}", error.hint) from None
    return replace(spec, name=name)
