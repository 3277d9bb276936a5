"""A traced step beside its prediction, as tables and as JSON: the only place for the wording."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.report import terminal
from planner.report.view import Table
from planner.units import format_memory
from planner.validation.trace_compare import Line, StepComparison, TracedStep
from planner.validation.trace_request import Question

SCHEMA_VERSION = 1
COLUMNS = ("part", "predicted", "traced", "difference")


def tables(c: StepComparison) -> list[Table]:
    """The parts at the peak, then the highest moment of each phase and what autograd holds."""
    peak = c.peak.traced
    rows = [_row(line, line.error(of=peak)) for line in c.parts if line.predicted or line.traced]
    rows.append(_row(c.peak, c.peak.error()))
    at_peak = Table(
        "At the peak, over the traced peak", COLUMNS, tuple(rows), frozenset({1, 2, 3}), total=True
    )
    others = [_row(line, line.error()) for line in c.phases]
    if c.saved is not None:
        others.append(_row(c.saved, c.saved.error()))
    columns = ("highest moment", *COLUMNS[1:])
    return [at_peak, Table("By phase", columns, tuple(others), frozenset({1, 2, 3}))]


def sentences(question: Question, c: StepComparison, step: TracedStep) -> Iterator[str]:
    """Before the tables: what was traced, and where each peak is."""
    layout, recipe = question.case.layout, question.case.recipe
    yield (
        f"{question.name}: one step of {step.parameters:,} parameters on fake tensors, as one of "
        f"{layout.gpus} GPU{'s' if layout.gpus != 1 else ''} sees it ({step.versions})"
    )
    yield (
        f"stack {layout.stack}, micro-batch {layout.micro_batch_size}, sequence "
        f"{recipe.sequence_length}, {recipe.precision}, {recipe.optimizer}, {step.attention} "
        "attention"
    )
    yield (
        f"peak predicted in {c.predicted_phase}, {c.predicted_where}; traced in {c.traced_phase}, "
        f"{c.traced_at}"
    )
    if c.parameters.predicted != c.parameters.traced and recipe.finetune is None:
        yield f"parameters counted here: {c.parameters.predicted:,.0f}"
    if step.attention != recipe.attention:
        yield (
            f"asked for {recipe.attention} attention: the model's code reaches none, "
            "compared with its eager code"
        )


def print_trace(question: Question, c: StepComparison, step: TracedStep) -> None:
    out = terminal.console()
    for line in sentences(question, c, step):
        out.print(line, markup=False)
    for table in tables(c):
        out.print()
        terminal.print_table(out, table)
    if question.assumptions:
        out.print()
        out.print(f"Assumed: {'; '.join(question.assumptions)}", markup=False)


def _row(line: Line, error: float | None) -> tuple[str, ...]:
    told = "" if error is None else f"{100 * error:+.3f} %"
    return (line.name, format_memory(line.predicted), format_memory(line.traced), told)


def as_json(question: Question, c: StepComparison, step: TracedStep) -> dict[str, Any]:
    """The whole comparison; unknown is null."""
    layout, recipe = question.case.layout, question.case.recipe
    return {
        "schema_version": SCHEMA_VERSION,
        "model": question.name,
        "stack": layout.stack,
        "gpus": int(layout.gpus),
        "sequence_length": recipe.sequence_length,
        "micro_batch_size": int(layout.micro_batch_size),
        "precision": recipe.precision,
        "optimizer": recipe.optimizer,
        "attention": step.attention,
        "versions": step.versions,
        "parameters": {"predicted": int(c.parameters.predicted), "traced": step.parameters},
        "peak": {
            **_figures(c.peak),
            "predicted_phase": c.predicted_phase,
            "predicted_where": c.predicted_where,
            "traced_phase": c.traced_phase,
            "traced_at": c.traced_at,
        },
        "parts": {line.name.replace(" ", "_"): _figures(line, c.peak.traced) for line in c.parts},
        "phases": {line.name: _figures(line) for line in c.phases},
        "saved_for_backward": None if c.saved is None else _figures(c.saved),
        "assumptions": list(question.assumptions),
    }


def _figures(line: Line, of: float | None = None) -> dict[str, Any]:
    return {
        "predicted_bytes": round(line.predicted),
        "traced_bytes": round(line.traced),
        "error": line.error(of),
    }
