"""The catalog of well-known models: catalog.yaml, found by id, alias or hub repository.

Reading the whole file costs some 30 ms, one model of it less than 1 ms, so the text is cut into its
entries and only what is asked for is parsed. An entry begins in column 0 and everything else of it
is indented; the ids are therefore known without parsing (shell completion asks for them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from planner import documents
from planner.errors import unknown
from planner.resources import package_file

FILE = "model/catalog.yaml"

_ENTRY = re.compile(r"^([^\s#:][^:\n]*):\n((?:[ \t].*\n|\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the catalog.

    parameters         total, tied weights once, buffers not at all
    active_parameters  with the chosen routed experts only; None for a dense model
    count              published: counted by others too; counted: from the config alone
    config             the fields of its config.json that shape the network
    evidence           whether the config was read in a source or recalled
    """

    id: str
    hub_id: str
    parameters: int
    count: Literal["published", "counted"]
    parameters_source: str
    config_source: str
    config: Mapping[str, Any]
    active_parameters: int | None = None
    aliases: tuple[str, ...] = ()
    evidence: Literal["read", "recalled"] = "read"

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that the model may be called."""
        return (self.id, self.hub_id, *self.aliases)


def ids() -> tuple[str, ...]:
    """The ids, in the order of the file (by family, then by size)."""
    return tuple(_texts())


def entries() -> tuple[CatalogEntry, ...]:
    """Every model, in the order of the file."""
    return tuple(_entry(name) for name in _texts())


def find(name: str) -> CatalogEntry:
    """The model of an id, an alias or a hub repository, in any case.

    >>> find("meta-llama/Llama-3.1-8B").id
    'llama-3.1-8b'
    >>> find("GPT2-XL").parameters
    1557611200
    """
    wanted = name.strip().lower()
    if wanted in _texts():
        return _entry(wanted)
    for candidate, text in _texts().items():
        # A cheap look first: an alias stands somewhere in the text of its entry.
        if wanted and wanted in text.lower():
            entry = _entry(candidate)
            if wanted in (known.lower() for known in entry.names):
                return entry
    raise unknown("model", name, [known for entry in entries() for known in entry.names])


@cache
def _texts() -> Mapping[str, str]:
    """The text of each entry, by id."""
    text = package_file(FILE).read_text(encoding="utf-8")
    return {match[1]: match[0] for match in _ENTRY.finditer(text)}


@cache
def _entry(name: str) -> CatalogEntry:
    fields = documents.parse(_texts()[name], FILE, "yaml").data[name]
    fields["aliases"] = tuple(fields.get("aliases", ()))
    return CatalogEntry(id=name, **fields)
