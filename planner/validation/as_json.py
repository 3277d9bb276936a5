"""A comparison as plain data: what `planner validate --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from planner.validation.compare import Comparison, GradeReport
from planner.validation.predict import METRICS, Compared
from planner.validation.runs import RunFile
from planner.validation.statistics import Summary
from planner.validation.traces import TracedRow


def comparison_json(
    file: RunFile, comparison: Comparison, traced: Sequence[TracedRow] = ()
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "metrics": {
            metric: {grade or "ungraded": _report(report) for grade, report in grades.items()}
            for metric, grades in comparison.metrics.items()
        },
        "ranking": {
            source: {"sweeps": sweeps, "mean_loss": loss}
            for source, (sweeps, loss) in comparison.ranking.items()
        },
        "skipped": [
            {"source": source, "reason": reason, "rows": rows}
            for (source, reason), rows in comparison.skipped.items()
        ]
        + [{"source": name, "reason": reason, "rows": 1} for _, name, reason in file.unread],
        "not_compared": [
            {"metric": metric, "reason": reason, "rows": rows}
            for (metric, reason), rows in comparison.left_out.items()
        ],
        "traces": [asdict(row) for row in traced],
        "rows": [_row(row) for row in comparison.rows]
        + [
            {
                "id": name,
                "predicted": dict.fromkeys(METRICS),
                "measured": dict.fromkeys(METRICS),
                "error": dict.fromkeys(METRICS),
                "skipped": reason,
            }
            for _, name, reason in file.unread
        ],
    }


def _report(report: GradeReport) -> dict[str, Any]:
    return {
        "all": asdict(report.all),
        "sources_equal": asdict(report.sources_equal),
        "by_source": _summaries(report.by_source),
        "by_stack": _summaries(report.by_stack),
        "by_group": [
            {"source": source, "gpu": gpu, "precision": precision, **asdict(summary)}
            for (source, gpu, precision), summary in report.by_group.items()
        ],
        "worst": [asdict(worst) for worst in report.worst],
        "interval": asdict(report.interval) if report.interval else None,
    }


def _summaries(found: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: asdict(summary) for name, summary in found.items()}


def _row(row: Compared) -> dict[str, Any]:
    return {
        "id": row.run.id,
        "grade": row.run.grade,
        "predicted": dict(row.predicted),
        "measured": dict(row.measured),
        "error": {metric: row.error.get(metric) for metric in METRICS},
        "uncertainty_bytes": row.uncertainty_bytes,
        "assumptions": list(row.assumptions),
        "not_compared": dict(row.left_out or {}),
        "skipped": row.skipped,
    }
