"""A comparison as tables of text: the same rows for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.validation import traces
from planner.validation.compare import Comparison, GradeReport
from planner.validation.slack import slack_rows
from planner.validation.statistics import Summary
from planner.validation.traces import TracedRow

NAMES = {
    "peak_allocated_bytes": "allocated peak",
    "peak_reserved_bytes": "reserved peak",
    "peak_bytes": "device's peak",
    "step_seconds": "step time",
    "tokens_per_second_per_gpu": "tokens/s per GPU",
    "model_tflops_per_gpu": "model TFLOP/s per GPU",
    "gpu_hours": "GPU-hours",
    "verdict": "verdict",
}
ERROR_COLUMNS = ("rows", "median", "p90", "bias", "worst")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `text` columns are words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: int = 1


def percent(value: float, *, signed: bool = False) -> str:
    """
    >>> percent(0.0123), percent(-0.5, signed=True), percent(12.3)
    ('1.2 %', '-50.0 %', '1230 %')
    """
    number = 100 * value
    digits = 0 if abs(number) >= 1000 else 1
    return f"{number:+.{digits}f} %" if signed else f"{number:.{digits}f} %"


def cells(summary: Summary) -> tuple[str, ...]:
    return (
        str(summary.rows),
        percent(summary.median),
        percent(summary.p90),
        percent(summary.bias, signed=True),
        percent(summary.worst),
    )


def grade_word(grade: str) -> str:
    return f"grade {grade}" if grade else "ungraded"


def overview(comparison: Comparison) -> Table:
    """One line per metric and grade: all rows, and the mean of the sources."""
    rows = [
        (
            NAMES[metric],
            grade_word(grade),
            *cells(report.all)[:4],
            percent(report.sources_equal.median),
            percent(report.sources_equal.p90),
        )
        for metric, grade, report in reports(comparison)
        if metric != "verdict"
    ]
    columns = ("metric", "", *ERROR_COLUMNS[:4], "sources: median", "sources: p90")
    return Table("Errors by metric", columns, tuple(rows), text=2)


def verdicts(comparison: Comparison) -> Table:
    rows = [
        (grade_word(grade), str(report.all.rows), str(wrong_of(report)))
        for grade, report in comparison.metrics.get("verdict", {}).items()
    ]
    return Table("Verdicts", ("", "rows", "wrong"), tuple(rows))


def wrong_of(report: GradeReport) -> int:
    """Rows whose verdict contradicts the outcome (their errors are 1, the others' 0)."""
    return round(report.all.rows * report.all.mean)


def intervals(comparison: Comparison) -> Table:
    rows = [
        (
            NAMES[metric],
            grade_word(grade),
            str(report.interval.rows),
            percent(report.interval.coverage),
            percent(report.interval.width),
        )
        for metric, grade, report in reports(comparison)
        if report.interval is not None
    ]
    columns = ("metric", "", "rows", "inside", "mean width")
    return Table("The stated memory interval", columns, tuple(rows), text=2)


def by_source(comparison: Comparison, metric: str, grade: str) -> Table:
    report = comparison.metrics[metric][grade]
    return _summaries(
        f"{NAMES[metric]}, {grade_word(grade)}, by source", "source", report.by_source
    )


def by_stack(comparison: Comparison, metric: str, grade: str) -> Table:
    report = comparison.metrics[metric][grade]
    return _summaries(f"{NAMES[metric]}, {grade_word(grade)}, by stack", "stack", report.by_stack)


def by_group(comparison: Comparison, metric: str, grade: str) -> Table:
    report = comparison.metrics[metric][grade]
    title = f"{NAMES[metric]}, {grade_word(grade)}, by source, GPU and precision"
    rows = tuple((*key, *cells(summary)) for key, summary in report.by_group.items())
    return Table(title, ("source", "GPU", "precision", *ERROR_COLUMNS), rows, text=3)


def worst(comparison: Comparison, metric: str, grade: str) -> Table:
    report = comparison.metrics[metric][grade]
    rows = tuple((w.id, percent(w.error, signed=True), w.reason) for w in report.worst)
    title = f"{NAMES[metric]}, {grade_word(grade)}, the worst"
    return Table(title, ("row", "error", "reason"), rows)


def skipped(comparison: Comparison) -> Table:
    rows = tuple(
        (source, str(count), reason)
        for (source, reason), count in sorted(
            comparison.skipped.items(), key=lambda item: (item[0][0], -item[1], item[0][1])
        )
    )
    return Table("Rows that cannot be used", ("source", "rows", "reason"), rows)


def left_out(comparison: Comparison) -> Table:
    rows = tuple(
        (NAMES[metric], str(count), reason)
        for (metric, reason), count in sorted(comparison.left_out.items())
    )
    return Table("Figures that are of another kind", ("metric", "rows", "reason"), rows)


def ranking(comparison: Comparison) -> Table:
    rows = tuple(
        (source, str(sweeps), percent(loss))
        for source, (sweeps, loss) in sorted(comparison.ranking.items())
    )
    title = "Layouts predicted fastest: how much slower than the fastest measured, mean over sweeps"
    return Table(title, ("source", "sweeps", "slower"), rows)


def slack(comparison: Comparison) -> Table:
    rows = tuple(
        (
            row.stack,
            row.source,
            str(row.rows),
            percent(row.measured, signed=True),
            percent(row.used, signed=True),
            "-" if row.without is None else percent(row.without, signed=True),
        )
        for row in slack_rows(comparison.rows)
    )
    columns = ("stack", "source", "rows", "measured", "used", "fitted without the source")
    title = "Reserved over allocated, by stack and source"
    return Table(title, columns, rows, text=2)


def traced(rows: Sequence[TracedRow]) -> tuple[Table, ...]:
    """Predicted beside traced: the peak by stack and by family, its parts, saved activations."""
    saved = "Traced: saved activations at the end of the forward pass, by family"
    parts = "Traced: parts of the peak, over the peak"
    return (
        _fine("Traced: peak, by stack", "stack", traces.by_stack(rows)),
        _fine("Traced: peak, by family", "family", traces.by_family(rows)),
        _fine(saved, "family", traces.saved_by_family(rows)),
        _fine(parts, "part", traces.part_errors(rows)),
    )


def host_steps(found: Mapping[tuple[str, str], Summary]) -> Table:
    """Steps of a small model that wait for the host, by GPU and machine."""
    rows = tuple((gpu, machine, *cells(summary)) for (gpu, machine), summary in found.items())
    return Table("Steps that wait for the host", ("GPU", "machine", *ERROR_COLUMNS), rows, text=2)


def _fine(title: str, name: str, found: Mapping[str, Summary]) -> Table:
    rows = tuple(
        (key, str(s.rows), *(f"{100 * value:.4f} %" for value in (s.median, s.p90, s.worst)))
        for key, s in found.items()
    )
    return Table(title, (name, "cases", "median", "p90", "worst"), rows)


def reports(comparison: Comparison) -> Iterator[tuple[str, str, GradeReport]]:
    for metric, grades in comparison.metrics.items():
        for grade, report in grades.items():
            yield metric, grade, report


def _summaries(title: str, name: str, found: Mapping[str, Summary]) -> Table:
    rows = tuple((key, *cells(summary)) for key, summary in found.items())
    return Table(title, (name, *ERROR_COLUMNS), rows)
