"""`planner validate`: what the planner predicts beside what was measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.options import json_option
from planner.cli.output import print_json, warn
from planner.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from planner.validation.compare import Comparison
    from planner.validation.predict import Compared
    from planner.validation.runs import Run
    from planner.validation.tables import Table
    from planner.validation.traces import TracedRow

_WIDTH_OF_A_PIPE = 140


@click.command()
@click.option(
    "--runs",
    "runs",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Measured runs, one a row; without it, those that come with the planner.",
)
@json_option
def command(runs: Path | None, as_json: bool) -> None:
    """Compare predictions with measured runs, and say how wrong they are.

    Per metric: rows used, median and 90th percentile of the absolute error, bias, the worst five
    rows with the reason; and the rows that could not be used, and why. The columns of the CSV are
    explained in planner/validation/data/README.md; unknown cells are empty, columns may be missing.
    Without --runs also predicted beside traced training steps.

    \b
    Examples:
      planner validate
      planner validate --runs my_runs.csv
      planner validate --json > errors.json
    """
    from planner.validation.compare import comparison_of
    from planner.validation.runs import read_runs, shipped_runs
    from planner.validation.traces import compare_traces, shipped_cases

    file = shipped_runs() if runs is None else read_runs(runs)
    if file.unknown_columns:
        warn(f"columns that mean nothing here: {', '.join(file.unknown_columns)}")
    comparison = comparison_of(_compared(file.runs))
    _refuse_if_none_is_usable(comparison)
    traced = compare_traces(shipped_cases()) if runs is None else ()
    if as_json:
        from planner.validation.as_json import comparison_json

        print_json(comparison_json(file, comparison, traced))
        return
    _print(comparison, traced, file.unread)


def _refuse_if_none_is_usable(comparison: Comparison) -> None:
    if all(row.skipped for row in comparison.rows):
        first = comparison.rows[0]
        raise InputError(f"no usable row: line {first.run.line}: {first.skipped}")


def _compared(runs: Sequence[Run]) -> tuple[Compared, ...]:
    """With a line of progress on a terminal."""
    from planner.validation.predict import compare_runs

    if not sys.stderr.isatty():
        return compare_runs(runs)
    with click.progressbar(length=len(runs), label="rows", file=sys.stderr) as bar:
        return compare_runs(runs, lambda _: bar.update(1))


def _print(
    comparison: Comparison, traced: tuple[TracedRow, ...], unread: tuple[tuple[int, str, str], ...]
) -> None:
    from rich.console import Console

    from planner.validation import tables

    plain = Console(highlight=False)
    out = plain if plain.is_terminal else Console(highlight=False, width=_WIDTH_OF_A_PIPE)
    used = sum(row.skipped is None for row in comparison.rows)
    out.print(f"{used} of {len(comparison.rows) + len(unread)} rows used")
    whole = [tables.overview(comparison), tables.verdicts(comparison), tables.intervals(comparison)]
    whole += tables.traced(traced)
    for metric, grade, _ in tables.reports(comparison):
        if metric != "verdict":
            whole.append(tables.by_source(comparison, metric, grade))
        whole.append(tables.worst(comparison, metric, grade))
    whole += [tables.ranking(comparison), tables.left_out(comparison), tables.skipped(comparison)]
    for table in whole:
        if table.rows:
            out.print()
            _print_table(out, table)
    for line, name, reason in unread:
        out.print(f"line {line} ({name}) could not be read: {reason}")


def _print_table(out: Console, table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    out.print(Text(table.title, style="bold"))
    rich = RichTable(box=None)
    for index, name in enumerate(table.columns):
        rich.add_column(name, justify="left" if index < table.text else "right", overflow="fold")
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    out.print(rich)
