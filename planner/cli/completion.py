"""What the shell offers at TAB: ids by their files' names alone, since each TAB starts the program.

Nothing is parsed and nothing heavy imported; aliases are for typing.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from planner.errors import PlannerError
from planner.resources import hardware_folders

_SUFFIXES = (".yaml", ".yml", ".json")


def complete_gpu(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of GPUs that begin with what was typed, and the words that stand for GPUs."""
    return _beginning(incomplete, [*_profile_ids("gpus"), "any", "live"])


def complete_profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of GPUs and node types that begin with what was typed."""
    return _beginning(incomplete, [*_profile_ids("gpus"), *_profile_ids("nodes")])


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The ids of the catalog that begin with what was typed, and files."""
    from planner.model.catalog import ids

    found = [CompletionItem(name) for name in _beginning(incomplete, [*ids()])]
    return [*found, CompletionItem(incomplete, type="file")]


def _profile_ids(kind: str) -> set[str]:
    try:
        folders = hardware_folders()
    except PlannerError:
        return set()  # a TAB is no place for an error; the command itself will tell
    return {
        path.stem
        for folder in folders
        for place in (folder.path / kind, folder.path)
        if place.is_dir() and (place != folder.path or folder.origin != "shipped")
        for path in place.iterdir()
        if path.suffix in _SUFFIXES
    }


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(incomplete)})
