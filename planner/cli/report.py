"""`planner report`: the answers of scenario files as a document."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.options import json_option
from planner.cli.output import print_json, warn_of, write_file
from planner.errors import InputError, unknown

if TYPE_CHECKING:
    from planner.report.document import Report

FORMATS = (".html", ".md", ".csv", ".json", ".xlsx")


@click.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Where to; the format from its suffix: {', '.join(FORMATS)}.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def command(scenarios: tuple[str, ...], output: Path, force: bool, as_json: bool) -> None:
    """Write a budget report of scenario files.

    The report holds the inputs, the memory, the time, the cost, what was assumed, and the sources.
    The same command writes the same bytes. HTML is one file that needs no network and prints well.

    \b
    Examples:
      planner report run.yaml -o run.html
      planner report small.yaml large.yaml -o both.md
      planner report scenarios/*.yaml -o all.csv --force
    """
    render = _renderer(output)
    if output.exists() and not force:  # before the work, not after it
        raise InputError(f"{output}: exists already", "--force replaces it")

    from importlib.metadata import version

    from planner.answers.scenarios import answers_of
    from planner.report.document import Input, report_of
    from planner.scenario.file import read_scenario

    files = [read_scenario(path) for path in scenarios]
    answers = [answer for file in files for answer in answers_of(file)]
    report = report_of(
        answers,
        [Input(str(file.path), file.text) for file in files],
        version=version("llm-training-planner"),
        command=shlex.join(["planner", "report", *scenarios, "-o", str(output)]),
    )
    made = render(report)
    content = made if isinstance(made, bytes) else made.encode("utf-8", errors="replace")
    write_file(output, content, force=force)
    if as_json:
        names = [answer.estimate.name for answer in answers]
        print_json({"schema_version": 1, "path": str(output), "estimates": names})
    else:
        click.echo(f"planner: wrote {output}", err=True)
    for answer in answers:
        warn_of(answer)


def _renderer(output: Path) -> Callable[[Report], str | bytes]:
    """What makes the text of a format; only that format's packages are imported."""
    suffix = output.suffix.lower()
    if suffix == ".html":
        from planner.report.html import to_html

        return to_html
    if suffix == ".md":
        from planner.report.markdown import to_markdown

        return to_markdown
    if suffix in (".csv", ".json"):
        from planner.report.tables import to_csv, to_json

        return to_csv if suffix == ".csv" else to_json
    if suffix == ".xlsx":
        from planner.report.workbook import to_workbook

        return to_workbook
    raise unknown("report format", suffix or output.name, FORMATS, str(output))
