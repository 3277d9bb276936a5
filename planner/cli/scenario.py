"""`planner scenario`: write and check scenario files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import json_option
from planner.cli.output import print_json, write_file

if TYPE_CHECKING:
    from planner.answers.scenarios import Question


@click.group()
def command() -> None:
    """Write a commented scenario file, or check one.

    \b
    Examples:
      planner scenario new > run.yaml
      planner scenario check run.yaml
    """


@command.command()
@click.option("--model", help="Catalog id, or a config.json.")
@click.option("--gpu", help="Profile id.")
@click.option("--gpus", type=click.IntRange(min=1), help="How many.")
@click.option("--name", help="What the scenario is called.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file in place of stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def new(output: Path | None, force: bool, as_json: bool, **values: Any) -> None:
    """Write a commented scenario to begin with.

    \b
    Examples:
      planner scenario new > run.yaml
      planner scenario new --model qwen3-8b --gpu a100-sxm4-80gb --gpus 16 -o run.yaml
      planner scenario new --json
    """
    from planner.scenario.template import template

    text = template(**{name: value for name, value in values.items() if value is not None})
    if output is not None:
        write_file(output, text.encode(), force=force)
    if as_json:
        print_json({"schema_version": 1, "path": output and str(output), "text": text})
    elif output is None:
        click.echo(text, nl=False)


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Check scenario files: fields, values, and what contradicts the model or the hardware.

    The first thing that is wrong is told with its file, line and field. Nothing is estimated.

    \b
    Examples:
      planner scenario check run.yaml
      planner scenario check scenarios/*.yaml --json
    """
    from planner.answers.scenarios import questions_of
    from planner.scenario.file import read_scenario

    found = [(name, questions_of(read_scenario(name))) for name in files]
    if as_json:
        checked = [_as_json(name, questions) for name, questions in found]
        print_json({"schema_version": 1, "scenarios": checked})
        return
    for name, questions in found:
        asked = [
            f"{q.model.name} on {q.request.gpus or 'the fewest'} x {q.target.gpu.id}"
            for q in questions
        ]
        click.echo(f"{name}: ok: {', '.join(asked)}")


@command.command("list")
@json_option
def list_scenarios(as_json: bool) -> None:
    """List the worked scenarios that are shipped; their names may stand for their files.

    \b
    Examples:
      planner scenario list
      planner estimate llama-3.1-8b-on-32-h100
      planner scenario list --json
    """
    from planner.scenario.file import worked_scenarios

    found = worked_scenarios()
    if as_json:
        listed = [{"name": name, "path": str(path)} for name, path in found.items()]
        print_json({"schema_version": 1, "scenarios": listed})
        return
    for name, path in found.items():
        click.echo(f"{name}  {path}")


@command.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of scenario files, for editors.

    \b
    Examples:
      planner scenario schema > scenario.schema.json
      planner scenario schema --json
    """
    from planner.scenario.fields import Scenario
    from planner.schema import json_schema

    print_json(json_schema(Scenario))


def _as_json(name: str, questions: list[Question]) -> dict[str, Any]:
    return {
        "path": name,
        "questions": [
            {
                "name": q.name,
                "model": q.model.name,
                "gpu": q.target.gpu.id,
                "gpus": q.request.gpus,
                "open": sorted(q.free),
            }
            for q in questions
        ],
    }
