"""Flags that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from planner import units
from planner.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def quantity(name: str, parse: Callable[[str], float]) -> Callable[[str], float]:
    """The click type `name` of a number with a unit, read by a function of `planner.units`."""

    def convert(text: str) -> float:
        try:
            return parse(text)
        except InputError as error:
            raise click.BadParameter(error.message) from None

    convert.__name__ = name  # click shows it in the help
    return convert


MEMORY = quantity("memory", units.parse_bytes)  # 10GiB
COUNT = quantity("count", units.parse_count)  # 1e12, 8.03B
LENGTH = quantity("length", units.parse_length)  # 8192, 8k


def json_option(function: F) -> F:
    """--json, as the argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the whole answer as one JSON document."
    )(function)
