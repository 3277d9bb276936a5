"""`planner estimate`: the answers of scenario files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from planner.cli.options import json_option, timeline_option
from planner.cli.output import print_json, warn_of

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer


@click.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@timeline_option
@json_option
def command(scenarios: tuple[str, ...], timeline: bool, as_json: bool) -> None:
    """Give the memory, time and cost of the layouts that scenario files describe.

    A SCENARIO is a YAML file; `planner scenario new` writes one to begin with. What its layout
    leaves out takes the plain default, or the fewest changes of it after which training fits.

    \b
    Examples:
      planner estimate run.yaml
      planner estimate run.yaml --json
      planner estimate small.yaml large.yaml
    """
    answers = answers_for(scenarios)
    if as_json:
        from planner.report.as_json import answers_json

        print_json(answers_json(answers))
    else:
        from planner.report import terminal

        terminal.print_answers(answers, "Scenarios", timeline)
    for answer in answers:
        warn_of(answer)


def answers_for(paths: tuple[str, ...]) -> list[FitAnswer]:
    """All files are read and checked before the first is answered."""
    from planner.answers.scenarios import answers_of
    from planner.scenario.file import read_scenario

    files = [read_scenario(path) for path in paths]
    return [answer for file in files for answer in answers_of(file)]
