"""docs/accuracy.md: every table of the comparison with the shipped measured runs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence

from planner.resources import package_file
from planner.validation import kernel_errors, tables
from planner.validation.compare import Comparison
from planner.validation.predict import MEMORY_METRICS
from planner.validation.statistics import Summary
from planner.validation.tables import Table
from planner.validation.traces import TracedRow

# source, rows, median, p90, bias: errors of the time model when its constants were fitted without
# the source. Written by the fit of those constants.
LEFT_OUT = "validation/data/left_out.csv"

INTRODUCTION = """\
# How wrong the planner is

Written by `python -m planner.validation.accuracy`; do not edit. A test compares this page with what
the formulas say today.

An error is predicted / measured - 1. The tables give the median and the 90th percentile (p90) of
its absolute value, and its median with the sign (bias: above 0 = predicted too much). "Sources"
weighs each source the same, however many rows it has: the mean of the sources' medians and p90s.
Grade a rows state their configuration; in grade b rows a part of it is a tool's default, or the
figure is of another kind, or it is the total of a whole run; grade c rows judge nobody. The rows,
their sources and their columns: `planner/validation/data/README.md`.

`vtrain-single` is published as measured, but its rows are a simulator's sums, as they show to the
nanosecond (`docs/decisions/0022-a-source-that-is-a-simulator.md`): it is listed, and no constant is
fitted on it but the host's time of Megatron of 2022, which no measured run tells.
"""
LEFT_OUT_HEADING = """\
## A source that the time model has not seen

The constants of the time model fitted without a source, then predicting it: the honest figure for a
case of your own.
"""
TRACED_HEADING = """\
## Memory against traced steps

Whole training steps of real models on fake tensors, every storage counted: no GPU's allocator,
context or library workspace in them. Parts of the peak are off by more than 3 % of it in four
cases whose sum agrees: a gradient that an operator is still making is a temporary in a trace and a
gradient here (three), and two moments of nearly the same height (one).
"""
KERNELS_HEADING = """\
## Kernels and collectives against measured tables

The kernel model alone: constants fitted without what is held out, then predicting it. "form" is the
closed form of `planner/performance/`, "with neighbours" times the smoothed residuals of the shapes
that were fitted. The shipped constants use every shape: a sixteenth held out leaves the tables
nearly as dense as they are, a quarter leaves gaps. A GPU held out is one that nobody measured.
The sources and what cannot be predicted (a library's own change of algorithm, a host's delay in
launching, holes of one network): `planner/validation/data/kernels/README.md`.
"""
SLACK = """\
What torch's allocator reserves beside what is allocated at the peak. Where a source reports no
allocated peak, the predicted one stands for it, and the model's error is in the figure.
"""
HOST_STEPS = """\
A small model of Megatron-Core (12 layers of width 512) in many layouts, where the GPU waits for the
host. Megatron's time on the host is fitted on the machines a; b is another node with an H100, whose
host is slower still (`planner/validation/data/README.md`).
"""
TIME = "## Time\n"
NOT_YET = "Not measured yet.\n"


def page(
    comparison: Comparison,
    traced: Sequence[TracedRow],
    host: Mapping[tuple[str, str], Summary],
) -> str:
    """The whole page as Markdown."""
    return "\n".join(_parts(comparison, traced, host)).rstrip() + "\n"


def _parts(
    c: Comparison, traced: Sequence[TracedRow], host: Mapping[tuple[str, str], Summary]
) -> Iterator[str]:
    yield INTRODUCTION
    yield LEFT_OUT_HEADING
    left_out = left_out_table()
    yield markdown(left_out, title=False) if left_out else NOT_YET
    yield "## Overview\n"
    for table in (tables.overview(c), tables.verdicts(c), tables.intervals(c)):
        yield markdown(table)
    yield TRACED_HEADING
    for table in tables.traced(traced):
        yield markdown(table)
    for heading, metrics in (
        ("## Memory\n", MEMORY_METRICS),
        (TIME, tuple(m for m in c.metrics if m not in (*MEMORY_METRICS, "verdict"))),
        ("## Verdicts\n", ("verdict",)),
    ):
        yield heading
        if metrics == MEMORY_METRICS:
            yield SLACK
            yield markdown(tables.slack(c))
        for metric in metrics:
            for grade in c.metrics.get(metric, {}):
                yield from _metric(c, metric, grade)
        if heading == TIME:
            yield HOST_STEPS
            yield markdown(tables.host_steps(host))
    yield KERNELS_HEADING
    kernels = kernel_errors.shipped_rows()
    yield markdown(kernel_errors.by_table(kernels))
    yield markdown(kernel_errors.by_gpu(kernels))
    yield "## What is not compared\n"
    for table in (tables.ranking(c), tables.left_out(c), tables.skipped(c)):
        yield markdown(table)


def _metric(c: Comparison, metric: str, grade: str) -> Iterator[str]:
    if metric != "verdict":
        yield markdown(tables.by_stack(c, metric, grade))
        yield markdown(tables.by_source(c, metric, grade))
        yield markdown(tables.by_group(c, metric, grade))
    yield markdown(tables.worst(c, metric, grade))


def markdown(table: Table, *, title: bool = True) -> str:
    """
    >>> print(markdown(Table("Errors", ("row", "error"), (("a", "1 %"),))))
    ### Errors
    <BLANKLINE>
    | row | error |
    |---|---:|
    | a | 1 % |
    <BLANKLINE>
    """
    if not table.rows:
        return ""
    lines = [f"### {table.title}", ""] if title else []
    lines.append("| " + " | ".join(table.columns) + " |")
    rules = ["---" if i < table.text else "---:" for i in range(len(table.columns))]
    lines.append("|" + "|".join(rules) + "|")
    lines += [
        "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table.rows
    ]
    return "\n".join(lines) + "\n"


def left_out_table() -> Table | None:
    """The leave-one-source-out table, if the fit of the time model has written it."""
    path = package_file(LEFT_OUT)
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = tuple(
            (row["source"], *tables.cells(_summary(row))[:4]) for row in csv.DictReader(file)
        )
    return Table("", ("source left out", *tables.ERROR_COLUMNS[:4]), rows)


def _summary(row: dict[str, str]) -> Summary:
    median, p90 = float(row["median"]), float(row["p90"])
    return Summary(int(row["rows"]), median, p90, float(row["bias"]), p90, median)
