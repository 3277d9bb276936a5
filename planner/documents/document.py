"""A document: plain data (mappings with text keys, lists, text, numbers, booleans, null), where
it came from, and the line of every part of it, so that any later error can name its line.

Reading is strict (see `yaml_text` and `json_text`): what two readers could understand differently
is refused here, once, for every file that the planner opens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from planner.documents import json_text, yaml_text
from planner.documents.marks import KeyPath, Marks, flatten
from planner.errors import InputError, near_match

Kind: TypeAlias = Literal["yaml", "json"]

# An index of a trillion-parameter checkpoint is about 20 MB of JSON; YAML is written by people.
_LARGEST_BYTES: Mapping[Kind, int] = {"json": 64 * 2**20, "yaml": 4 * 2**20}


@dataclass(frozen=True)
class Document:
    """Plain data with its origin; `part` narrows it and keeps the lines right."""

    data: Any
    source: str  # the file as the user named it, or a flag
    text: str | None = field(default=None, repr=False)  # of JSON, whose lines are found on demand
    marks: Marks | None = field(default=None, repr=False)  # of YAML
    base: KeyPath = ()  # where `data` stands in the whole document

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """The line, from 1, of each key and list item of the whole document."""
        if self.marks is not None:
            return flatten(self.marks)
        return dict(json_text.positions(self.text)) if self.text else {}

    def part(self, *path: str | int) -> Document:
        """The document of what lies under `path`, which must exist."""
        data = self.data
        for key in path:
            data = data[key]
        return replace(self, data=data, base=(*self.base, *path))

    def line(self, path: KeyPath = ()) -> int | None:
        """The line of `path` (from `data`), or of the nearest thing around it that has one."""
        full = (*self.base, *path)
        for length in range(len(full), -1, -1):
            found = self.lines.get(full[:length])
            if found is not None:
                return found
        return None

    def where(self, path: KeyPath = (), line_of: KeyPath | None = None) -> str:
        """ "file:line: field", as errors begin; the line may be that of another path."""
        line = self.line(path if line_of is None else line_of)
        place = f"{self.source}:{line}" if line is not None else self.source
        return ": ".join(part for part in (place, dotted((*self.base, *path))) if part)

    def error(self, path: KeyPath, message: str, hint: str | None = None) -> InputError:
        """The error for what stands at `path`."""
        where = self.where(path)
        return InputError(f"{where}: {message}" if where else message, hint)


def dotted(path: KeyPath) -> str:
    """A path as a person writes it.

    >>> dotted(("layers", 3, "block"))
    'layers[3].block'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def load(
    path: str | os.PathLike[str], kind: Kind | None = None, *, allow_infinity: bool = False
) -> Document:
    """Read a file. Its kind is told by its suffix (.json is JSON, all else YAML) unless given.

    `allow_infinity` lets JSON have Infinity, which Hugging Face writes into some config files.
    """
    path = Path(path)
    kind = kind or ("json" if path.suffix.lower() == ".json" else "yaml")
    return parse(_read(path, _LARGEST_BYTES[kind]), str(path), kind, allow_infinity=allow_infinity)


def parse(text: str, source: str, kind: Kind, *, allow_infinity: bool = False) -> Document:
    """Read a text; `source` is what errors call it (a file's name, a flag)."""
    largest = _LARGEST_BYTES[kind]
    if len(text) > largest:
        raise InputError(f"{source}: larger than {largest // 2**20} MiB, too large for {kind}")
    if not text.isascii() and _has_half_character(text):
        raise InputError(f"{source}: is not UTF-8 text")
    if not text.strip():
        raise InputError(f"{source}: is empty, expected {kind.upper()}")
    if kind == "json":
        return Document(json_text.read(text, source, allow_infinity), source, text=text)
    data, marks = yaml_text.read(text, source)
    return Document(data, source, marks=marks)


def _read(path: Path, largest_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            # Bounded, so that an endless device ends too.
            content = file.read(largest_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", _neighbour(path)) from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}".replace("\0", "?")) from None
    if len(content) > largest_bytes:
        raise InputError(f"{path}: larger than {largest_bytes // 2**20} MiB")
    if b"\0" in content:
        raise InputError(f"{path}: is binary, expected text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text") from None


def _has_half_character(text: str) -> bool:
    """A surrogate, as Python makes from bytes of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _neighbour(path: Path) -> str | None:
    try:
        close = near_match(path.name, [file.name for file in path.parent.iterdir()])
    except OSError:
        return f"there is no folder {path.parent} either"
    return f"did you mean {path.parent / close}?" if close else None
