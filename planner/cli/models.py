"""`planner models`: the catalog."""

from __future__ import annotations

import click

from planner.cli.options import json_option
from planner.cli.output import print_json


@click.group()
def command() -> None:
    """Show the catalog of well-known models.

    \b
    Examples:
      planner models list
      planner models show llama-3.1-8b
    """


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models that have a name here.

    \b
    Examples:
      planner models list
      planner models list --json
    """
    from planner.model import catalog

    entries = catalog.entries()
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "models": [
                    {
                        "id": e.id,
                        "hub_id": e.hub_id,
                        "model_type": e.config["model_type"],
                        "parameters": e.parameters,
                        "active_parameters": e.active_parameters,
                    }
                    for e in entries
                ],
            }
        )
        return
    from rich.table import Table

    from planner.report.terminal import console
    from planner.units import format_count

    table = Table(box=None)
    table.add_column("id")
    table.add_column("family")
    table.add_column("parameters", justify="right")
    table.add_column("active", justify="right")
    table.add_column("hub id")
    for e in entries:
        active = "" if e.active_parameters is None else format_count(e.active_parameters)
        table.add_row(
            e.id, str(e.config["model_type"]), format_count(e.parameters), active, e.hub_id
        )
    console().print(table)


@command.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show one model: its config, its count, and their sources.

    \b
    Examples:
      planner models show llama-3.1-8b
      planner models show deepseek-v3 --json
    """
    from planner.model import catalog

    entry = catalog.find(model)
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "id": entry.id,
                "hub_id": entry.hub_id,
                "aliases": list(entry.aliases),
                "parameters": entry.parameters,
                "active_parameters": entry.active_parameters,
                "parameters_source": entry.parameters_source,
                "config_source": entry.config_source,
                "evidence": entry.evidence,
                "config": dict(entry.config),
            }
        )
        return
    from planner.report.terminal import console

    out = console()
    out.print(f"{entry.id} ({entry.hub_id}): {entry.parameters:,} parameters", style="bold")
    if entry.active_parameters is not None:
        out.print(f"{entry.active_parameters:,} active per token")
    for name, value in entry.config.items():
        out.print(f"  {name}: {value}")
    out.print(f"config from {entry.config_source} ({entry.evidence})")
    out.print(f"count from {entry.parameters_source}")
