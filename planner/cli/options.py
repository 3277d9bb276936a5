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
RATE = quantity("rate", units.parse_byte_rate)  # 20GB/s
LENGTH = quantity("length", units.parse_length)  # 8192, 8k


class GroupedOption(click.Option):
    """An option that the help shows under the heading of its group."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group = group


def grouped(group: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option` for the options of one group."""

    def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
        return click.option(*names, cls=GroupedOption, group=group, **settings)

    return option


class GroupedCommand(click.Command):
    """A command whose help has a heading for each group of options, and the rest last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        for parameter in options:  # arguments stand in the usage line
            row = parameter.get_help_record(ctx)
            if row is not None:
                group = parameter.group if isinstance(parameter, GroupedOption) else "Options"
                groups.setdefault(group, []).append(row)
        for group in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(group):
                formatter.write_dl(groups[group])


def json_option(function: F) -> F:
    """--json, as the argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the whole answer as one JSON document."
    )(function)


def timeline_option(function: F) -> F:
    """--timeline, as the argument `timeline`."""
    return click.option(
        "--timeline", is_flag=True, help="Draw the memory through one micro-batch (JSON has it)."
    )(function)
