"""`planner hardware`: the profiles of GPUs and node types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from planner.cli.completion import complete_profile
from planner.cli.hardware_calibrate import calibrate
from planner.cli.hardware_live import live
from planner.cli.options import json_option
from planner.cli.output import print_json, warn

if TYPE_CHECKING:
    from planner.hardware.library import Listed

# Where no terminal sets the width, a table is not folded.
_WIDTH_OF_A_PIPE = 240


@click.group()
def command() -> None:
    """Show the GPUs and nodes that can be planned for.

    A profile is a YAML file. One that is given by its path is used as it is; a name is looked for
    in the folders of PLANNER_HARDWARE_PATH, then in hardware_profiles/ of the config folder, then
    in what is shipped.

    \b
    Examples:
      planner hardware list
      planner hardware show h100
      planner hardware show h100 --json
      planner hardware live
      planner hardware calibrate
    """


command.add_command(live)
command.add_command(calibrate)


@command.command("list")
@click.option("--nodes", is_flag=True, help="Node types instead of GPUs.")
@json_option
def list_profiles(nodes: bool, as_json: bool) -> None:
    """List all profiles, and where each comes from.

    \b
    Examples:
      planner hardware list
      planner hardware list --nodes
      planner hardware list --json
    """
    from planner.hardware.library import GPU, NODE, list_files

    if as_json:
        gpus = [_listed(one) for one in list_files(GPU)]
        node_types = [_listed(one) for one in list_files(NODE)]
        print_json({"schema_version": 1, "gpus": gpus, "nodes": node_types})
        return

    from planner.report import hardware_view as view

    # Not one call with `NODE if nodes else GPU`: the two have rows of their own.
    found: Sequence[Listed[Any]]
    if nodes:
        found = list_files(NODE)
        _print_table(view.NODE_COLUMNS, view.node_rows(_winners(found)))
    else:
        found = list_files(GPU)
        _print_table(view.GPU_COLUMNS, view.gpu_rows(_winners(found)))
    for one in found:
        if one.problem is not None:
            warn(one.problem)


@command.command()
@click.argument("name", shell_complete=complete_profile)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what is known of a GPU or node type, with its sources.

    NAME is an id, an alias, what the driver calls the device, or the path of a YAML profile.

    \b
    Examples:
      planner hardware show h100
      planner hardware show dgx-b200
      planner hardware show "NVIDIA GeForce RTX 4090" --json
    """
    from planner.hardware.library import find, reference_titles
    from planner.hardware.profile import GpuProfile
    from planner.hardware.ready_constants import step_constants
    from planner.performance.constants import step_table
    from planner.report import constants_view
    from planner.report import hardware_view as view

    profile = find(name)
    kernels = None
    if isinstance(profile, GpuProfile):
        kernels = step_constants(profile.id, pcie=profile.link is None)
    if as_json:
        known: dict[str, Any] = {}
        if kernels is not None:
            known["kernels"] = constants_view.kernel_data(kernels)
            known["step_constants"] = step_table()
        print_json({"schema_version": 1, **asdict(profile), **known})
        return

    seen = {source.group: source.seen for source in profile.sources}
    facts = view.gpu_facts(profile) if isinstance(profile, GpuProfile) else view.node_facts(profile)
    rows = [(label, seen.get(group, ""), value) for label, value, group in facts]
    _print_table(("", "how known", ""), rows)
    if kernels is not None:
        click.echo(f"\n{constants_view.KERNEL_TITLE}")
        _print_table(constants_view.KERNEL_COLUMNS, constants_view.kernel_rows(kernels))
        click.echo(f"\n{constants_view.STEP_TITLE}")
        _print_table(constants_view.STEP_COLUMNS, constants_view.step_rows(step_table()))
    titles = reference_titles()
    used = dict.fromkeys(key for source in profile.sources for key in source.references)
    for title, lines in (
        ("Notes", profile.notes),
        ("Sources", [view.source_line(source) for source in profile.sources]),
        ("References", [f"{key}: {titles[key]}" for key in used if key in titles]),
        ("File", [f"{profile.path} ({profile.origin})"]),
    ):
        if lines:
            click.echo(f"\n{title}")
        for line in lines:
            click.echo(f"  {line}")


def _winners(found: Sequence[Listed[Any]]) -> list[Any]:
    return [one.profile for one in found if one.profile is not None and one.replaced_by is None]


def _listed(one: Listed[Any]) -> dict[str, Any]:
    """A file of the library: its profile's fields without the long ones, and its place."""
    known = {} if one.profile is None else asdict(one.profile)
    for long in ("sources", "notes", "exceptions", "measured"):
        known.pop(long, None)
    return {
        **known,
        "id": one.id,
        "path": one.path,
        "origin": one.origin,
        "problem": one.problem,
        "replaced_by": one.replaced_by,
    }


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_OF_A_PIPE)
    table = Table(box=None, pad_edge=False, show_header=any(columns), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a "[" in a value is no markup
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())
