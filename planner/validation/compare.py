"""The comparison of many rows: errors by grade, source and kind of run, worst rows, intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from planner.validation.predict import MEMORY_METRICS, METRICS, Compared
from planner.validation.reasons import reason_for
from planner.validation.runs import Run
from planner.validation.statistics import Summary, equal_weight, grouped, summary_of

# Rows of grade c are predicted and listed, and judge nobody (the data's README says why).
JUDGED = ("a", "b", "")
WORST = 5
SMALLEST_GROUP = 5  # rows of one source, GPU and precision that make a group worth a line
SMALLEST_SWEEP = 6  # layouts of one model, GPUs and batch among which a ranking means something


@dataclass(frozen=True)
class Worst:
    id: str
    error: float
    reason: str


@dataclass(frozen=True)
class Interval:
    """How often the stated memory interval contains the measured value.

    coverage  share of the rows whose measured value lies in prediction ± uncertainty
    width     mean full width of the interval over the prediction
    """

    rows: int
    coverage: float
    width: float


@dataclass(frozen=True)
class GradeReport:
    """One metric on the rows of one grade ("" = ungraded)."""

    all: Summary
    by_source: Mapping[str, Summary]
    by_group: Mapping[tuple[str, str, str], Summary]
    by_stack: Mapping[str, Summary]
    sources_equal: Summary
    worst: tuple[Worst, ...]
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """metrics: by metric, then grade; skipped: (source, reason) -> rows; left_out likewise."""

    rows: tuple[Compared, ...]
    metrics: Mapping[str, Mapping[str, GradeReport]]
    skipped: Mapping[tuple[str, str], int]
    left_out: Mapping[tuple[str, str], int]
    ranking: Mapping[str, tuple[int, float]]


def comparison_of(rows: Sequence[Compared]) -> Comparison:
    metrics: dict[str, dict[str, GradeReport]] = {}
    for metric in METRICS:
        for grade in JUDGED:
            report = _report(metric, [r for r in rows if (r.run.grade or "") == grade])
            if report is not None:
                metrics.setdefault(metric, {})[grade] = report
    return Comparison(
        tuple(rows),
        metrics,
        Counter((r.run.group, r.skipped) for r in rows if r.skipped),
        Counter((metric, reason) for r in rows for metric, reason in _told(r) if r.skipped is None),
        ranking_of(rows),
    )


def _told(row: Compared) -> Iterable[tuple[str, str]]:
    """Metrics that the row measured and that are not compared."""
    for metric, reason in (row.left_out or {}).items():
        if row.measured[metric] is not None:
            yield metric, reason


def _report(metric: str, rows: Sequence[Compared]) -> GradeReport | None:
    used = [r for r in rows if metric in r.error]
    everything = summary_of(r.error[metric] for r in used)
    if everything is None:
        return None
    by_source = _summaries(metric, grouped(used, lambda r: r.run.group))
    equal = equal_weight(by_source)
    assert equal is not None
    groups = grouped(used, lambda r: (r.run.group, r.run.gpu, r.run.precision or ""))
    worst = sorted(used, key=lambda r: -abs(r.error[metric]))[:WORST]
    return GradeReport(
        everything,
        by_source,
        {
            key: found
            for key, members in groups.items()
            if len(members) >= SMALLEST_GROUP
            and (found := summary_of(r.error[metric] for r in members))
        },
        _summaries(metric, grouped(used, lambda r: r.run.stack or "")),
        equal,
        tuple(
            Worst(r.run.id, r.error[metric], reason_for(metric, r))
            for r in worst
            if r.error[metric]
        ),
        interval_of(metric, used) if metric in MEMORY_METRICS else None,
    )


def _summaries(metric: str, groups: Mapping[str, Sequence[Compared]]) -> dict[str, Summary]:
    return {
        name: found
        for name, members in sorted(groups.items())
        if (found := summary_of(r.error[metric] for r in members))
    }


def interval_of(metric: str, rows: Sequence[Compared]) -> Interval | None:
    """Of one memory metric; the same half width is stated around all three peaks."""
    inside: list[bool] = []
    widths: list[float] = []
    for row in rows:
        predicted, measured = row.predicted[metric], row.measured[metric]
        half = row.uncertainty_bytes
        if not isinstance(predicted, float) or not isinstance(measured, float) or half is None:
            continue
        inside.append(abs(measured - predicted) <= half)
        widths.append(2 * half / predicted)
    return Interval(len(inside), fmean(inside), fmean(widths)) if inside else None


def ranking_of(rows: Sequence[Compared]) -> dict[str, tuple[int, float]]:
    """By source: sweeps, and by how much their fastest predicted layout is slower than the fastest.

    A sweep is one training (model, GPUs, global batch, what is fine-tuned) in at least
    SMALLEST_SWEEP layouts.
    """
    timed = [r for r in rows if "step_seconds" in r.error and (r.run.grade or "") in JUDGED]
    losses: dict[str, list[float]] = {}
    for key, members in grouped(timed, lambda r: _sweep(r.run)).items():
        if len(members) < SMALLEST_SWEEP:
            continue
        chosen = min(members, key=lambda r: _seconds(r.predicted["step_seconds"]))
        fastest = min(_seconds(r.measured["step_seconds"]) for r in members)
        loss = _seconds(chosen.measured["step_seconds"]) / fastest - 1
        losses.setdefault(str(key[0]), []).append(loss)
    return {source: (len(found), fmean(found)) for source, found in losses.items()}


def _sweep(run: Run) -> tuple[object, ...]:
    return (
        run.group,
        run.model,
        run.gpu,
        run.gpus,
        run.global_batch_size,
        run.sequence_length,
        run.precision,
        run.stack,
        run.finetune,
        run.lora_rank,
    )


def _seconds(value: object) -> float:
    assert isinstance(value, float)
    return value
