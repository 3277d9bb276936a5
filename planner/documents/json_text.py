"""JSON as the standard has it: no duplicate keys, no NaN, bounded depth and numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from planner.documents.marks import KeyPath
from planner.errors import InputError

MAX_DEPTH = 64
_LONGEST_NUMBER = 400

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class _TokenError(Exception):
    """A token that json accepts and we do not; `read` finds its line."""

    def __init__(self, token: str, message: str) -> None:
        super().__init__(message)
        self.token = token


class _DuplicateKeyError(Exception):
    """A mapping of which json would keep the last of two values."""


def read(text: str, source: str, allow_infinity: bool) -> Any:
    """The data of a JSON text."""

    def constant(word: str) -> float:
        if allow_infinity and word != "NaN":
            return math.inf if word == "Infinity" else -math.inf
        raise _TokenError(word, f"{word} is not JSON, expected a finite number")

    _check_depth(text, source)
    try:
        data = json.loads(
            text,
            object_pairs_hook=_mapping,
            parse_constant=constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + 20].split("\n")[0]
        near = f" near {found!r}" if found else " at the end"
        raise InputError(
            f"{source}:{error.lineno}: is not valid JSON{near}: {error.msg.lower()}"
        ) from None
    except _DuplicateKeyError:
        _raise_duplicate(text, source)
    except _TokenError as error:
        raise InputError(f"{source}:{_line_of(error.token, text)}: {error}") from None
    if "\\u" in text:
        _check_unicode(data, source)
    return data


def positions(text: str) -> Iterator[tuple[KeyPath, int]]:
    """The path and line of the root and of each key and list item, in order; `text` is valid."""
    path: list[str | int | None] = []  # of each open container the index, or the key (None: none)
    line, position = 1, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        line += text.count("\n", position, match.start())
        position = match.start()
        if token == ":":
            continue
        if token in ("}", "]"):
            path.pop()
        elif token == ",":
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else None
        elif path and path[-1] is None:
            path[-1] = json.loads(token)
            yield _fixed(path), line
        else:
            if not path or isinstance(path[-1], int):
                # An empty list has no item: its closing bracket came before this branch.
                yield _fixed(path), line
            if token == "{":
                path.append(None)
            elif token == "[":
                path.append(0)


def _fixed(path: list[str | int | None]) -> KeyPath:
    return tuple(key for key in path if key is not None)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise _DuplicateKeyError
    return mapping


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise _TokenError(digits, f"a number of {len(digits)} digits is too long")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value) or len(digits) > _LONGEST_NUMBER:
        raise _TokenError(digits, f"the number {digits[:40]} is too large")
    return value


def _check_depth(text: str, source: str) -> None:
    """Refuse deep nesting before json recurses into it."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match.group()
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, match.start()) + 1
            raise InputError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")


def _check_unicode(data: Any, source: str) -> None:
    r"""Refuse half a character (\ud800 alone), which no terminal or file can take."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{source}: has an escape that is half a character") from None


def _line_of(token: str, text: str) -> int:
    start = next(match.start() for match in _TOKEN.finditer(text) if match.group() == token)
    return text.count("\n", 0, start) + 1


def _raise_duplicate(text: str, source: str) -> NoReturn:
    first: dict[KeyPath, int] = {}
    for path, line in positions(text):
        if path in first:
            raise InputError(
                f"{source}:{line}: duplicate key {path[-1]!r}, first on line {first[path]}"
            ) from None
        first[path] = line
    raise AssertionError("json found a duplicate key and the scan did not")
