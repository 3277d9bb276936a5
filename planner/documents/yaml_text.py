"""YAML without its traps, read from the parser's events in one pass.

- Numbers and booleans as in YAML 1.2's core schema: 1e12 is a number; on, no, 12:30:45, 1_000 and
  2024-01-01 are text; 010 is ten.
- Keys are kept as the text they are written as. A duplicate key is an error; a merge key (<<) is
  allowed and never overrides a key that is written out.
- Custom tags, several documents, infinite and not-a-number are refused.
- Depth, and the number of parts with every alias written out, are bounded: an alias costs nothing
  to read, and everything to whoever walks the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from planner.documents.marks import Marks
from planner.errors import InputError

MAX_DEPTH = 64
MAX_PARTS = 200_000
_LONGEST_NUMBER = 400

_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def read(text: str, source: str) -> tuple[Any, Marks]:
    """The data of a YAML text, and the lines of its parts."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML has it
    try:
        return _Reader(yaml.parse(text, Loader=loader), source).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = " ".join(str(error.problem or error.context).split())
        raise InputError(f"{place}: is not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{source}:{line}: is not valid YAML: {error.reason}") from None


def written(data: Any, *, flow: bool | None = None) -> str:
    """Plain data as YAML text, keys in their order; flow None: the innermost parts on one line."""
    import yaml

    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, width=200)
    return text


class _Reader:
    """One pass over the events of one text."""

    def __init__(self, events: Iterator[Any], source: str) -> None:
        self.events = events
        self.source = source
        self.anchors: dict[str, tuple[Any, Marks] | None] = {}  # None while it is being read

    def document(self) -> tuple[Any, Marks]:
        next(self.events)  # the start of the stream
        if _name(next(self.events)) == "StreamEnd":
            raise InputError(f"{self.source}: has no content, expected YAML")
        found = self.node(next(self.events), 0)
        next(self.events)  # the end of the document
        after = next(self.events)
        if _name(after) != "StreamEnd":
            raise self.refuse(after, "a second document begins, expected one")
        return found

    def refuse(self, event: Any, message: str) -> InputError:
        return InputError(f"{self.source}:{_line(event)}: {message}")

    def node(self, event: Any, depth: int) -> tuple[Any, Marks]:
        if depth > MAX_DEPTH:
            raise self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        name = _name(event)
        if name == "Alias":
            return self.alias(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if name == "Scalar":
            found = self.scalar(event), Marks(_line(event))
        elif name == "SequenceStart":
            found = self.sequence(event, depth)
        else:
            found = self.mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = found
        return found

    def alias(self, event: Any) -> tuple[Any, Marks]:
        if event.anchor not in self.anchors:
            raise self.refuse(event, f"alias *{event.anchor} has no anchor before it")
        found = self.anchors[event.anchor]
        if found is None:
            raise self.refuse(event, f"alias *{event.anchor} contains itself")
        return found

    def add(self, event: Any, marks: Marks, key: str | int, line: int, part: Marks) -> None:
        marks.add(key, line, part)
        if marks.size > MAX_PARTS:
            raise self.refuse(event, f"more than {MAX_PARTS:,} parts, with its aliases written out")

    def sequence(self, start: Any, depth: int) -> tuple[list[Any], Marks]:
        self.check_tag(start, "seq")
        items: list[Any] = []
        marks = Marks(_line(start))
        while _name(event := next(self.events)) != "SequenceEnd":
            value, part = self.node(event, depth + 1)
            self.add(event, marks, len(items), _line(event), part)
            items.append(value)
        return items, marks

    def mapping(self, start: Any, depth: int) -> tuple[dict[str, Any], Marks]:
        self.check_tag(start, "map")
        written: dict[str, Any] = {}
        merged: list[tuple[dict[str, Any], Marks]] = []
        marks = Marks(_line(start))
        merge_line: int | None = None
        while _name(event := next(self.events)) != "MappingEnd":
            if _name(event) != "Scalar":
                raise self.refuse(event, "a key must be text")
            self.scalar(event)  # checks its tag; the key itself stays as written
            key, is_merge = event.value, event.value == "<<" and event.implicit[0]
            first = merge_line if is_merge else marks.parts[key][0] if key in written else None
            if first is not None:
                raise self.refuse(event, f"duplicate key {key!r}, first on line {first}")
            value_event = next(self.events)
            value, part = self.node(value_event, depth + 1)
            if is_merge:
                merge_line = _line(event)
                merged = self.merge_sources(value_event, value, part)
            else:
                self.add(event, marks, key, _line(event), part)
                written[key] = value
        for data, data_marks in merged:  # the first source wins, and what is written wins over all
            for key, value in data.items():
                if key not in written:
                    written[key] = value
                    self.add(start, marks, key, *data_marks.parts[key])
        return written, marks

    def merge_sources(
        self, event: Any, value: Any, marks: Marks
    ) -> list[tuple[dict[str, Any], Marks]]:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in values):
            raise self.refuse(event, "a merge key (<<) takes a mapping or a list of mappings")
        if isinstance(value, list):
            return [(one, marks.parts[index][1]) for index, one in enumerate(values)]
        return [(value, marks)]

    def check_tag(self, event: Any, core: str) -> None:
        if event.tag not in (None, "!", _CORE + core):
            raise self.refuse(event, f"tag {_shown(event.tag)} is not allowed, expected plain data")

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None:
            return self.plain(event, text) if event.implicit[0] else text
        if tag in ("!", _CORE + "str"):
            return text
        value = self.plain(event, text)
        if tag == _CORE + "float" and type(value) is int:
            return float(value)
        names = {type(None): "null", bool: "bool", int: "int", float: "float"}
        if tag not in [_CORE + name for name in names.values()]:
            raise self.refuse(event, f"tag {_shown(tag)} is not allowed, expected plain data")
        if names.get(type(value)) != tag.removeprefix(_CORE):
            raise self.refuse(event, f"{text[:40]!r} is not what its tag {_shown(tag)} says")
        return value

    def plain(self, event: Any, text: str) -> Any:
        """A scalar without quotes or tag, by YAML 1.2's core schema."""
        if _INTEGER.fullmatch(text) and len(text) <= _LONGEST_NUMBER:
            return int(text)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isinf(value) or len(text) > _LONGEST_NUMBER:
                raise self.refuse(event, f"the number {text[:40]} is too large")
            return value
        if _BOOLEAN.fullmatch(text):
            return text.lower() == "true"
        if _NULL.fullmatch(text):
            return None
        if _BASED_INTEGER.fullmatch(text) and len(text) <= _LONGEST_NUMBER:
            return int(text, 0)
        if _NOT_FINITE.fullmatch(text):
            raise self.refuse(event, f"got {text}, expected a finite number")
        return text


def _name(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _shown(tag: str) -> str:
    return f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
