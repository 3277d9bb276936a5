"""What the planner says of a measured run, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planner.errors import PlannerError
from planner.estimate import Estimate, estimate
from planner.units import BYTES_PER_GIB
from planner.validation.nouns import Nouns, UnusableError, nouns_of
from planner.validation.runs import Run

MEMORY_METRICS = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_bytes")
TIME_METRICS = (
    "step_seconds",
    "tokens_per_second_per_gpu",
    "model_tflops_per_gpu",
    "gpu_hours",
)
METRICS = (*MEMORY_METRICS, *TIME_METRICS, "verdict")
Value = float | str | None


@dataclass(frozen=True)
class Compared:
    """One row: predictions, measurements and relative errors by metric; or why there are none.

    error       predicted / measured - 1; of the verdict 0 (right) or 1 (wrong)
    uncertainty half width of the memory interval [bytes]
    left_out    metrics that were measured and are not compared, each with its reason
    """

    run: Run
    predicted: Mapping[str, Value]
    measured: Mapping[str, Value]
    error: Mapping[str, float]
    uncertainty_bytes: float | None = None
    assumptions: tuple[str, ...] = ()
    left_out: Mapping[str, str] | None = None
    skipped: str | None = None


def compare_runs(
    runs: Sequence[Run], progress: Callable[[int], None] | None = None
) -> tuple[Compared, ...]:
    """Every row in its order; rows of one model are answered one after another (it is cached)."""
    order = sorted(range(len(runs)), key=lambda i: (runs[i].model, runs[i].stack or "", i))
    found: dict[int, Compared] = {}
    for count, index in enumerate(order, start=1):
        found[index] = compare_run(runs[index])
        if progress is not None:
            progress(count)
    return tuple(found[i] for i in range(len(runs)))


def compare_run(run: Run) -> Compared:
    measured = measured_of(run)
    try:
        nouns, answer = predicted_by(run)
    except (UnusableError, PlannerError) as error:
        reason = error.message if isinstance(error, PlannerError) else str(error)
        return Compared(run, dict.fromkeys(METRICS), measured, {}, skipped=reason)
    predicted = predictions(run, answer)
    left_out = incomparable(run)
    errors: dict[str, float] = {}
    for metric in METRICS:
        if metric in left_out:
            continue
        value = _error(metric, predicted[metric], measured[metric])
        if value is not None:
            errors[metric] = value
    return Compared(
        run,
        predicted,
        measured,
        errors,
        answer.memory.uncertainty_bytes,
        nouns.assumptions,
        left_out,
    )


def predicted_by(run: Run) -> tuple[Nouns, Estimate]:
    """The first way to run it that fits; if none does, the last one, which needs least memory."""
    for nouns in nouns_of(run):
        answer = estimate(nouns.model, nouns.plan.recipe, nouns.plan.layout, nouns.cluster)
        if answer.verdict != "does_not_fit":
            break
    return nouns, answer


def predictions(run: Run, answer: Estimate) -> dict[str, Value]:
    memory, of_run = answer.memory, answer.run
    hours = of_run.gpu_hours
    return {
        "peak_allocated_bytes": memory.peak_allocated_bytes,
        "peak_reserved_bytes": memory.peak_reserved_bytes,
        "peak_bytes": memory.peak_bytes,
        "step_seconds": float(answer.step.step_seconds),
        "tokens_per_second_per_gpu": float(of_run.tokens_per_second_per_gpu),
        "model_tflops_per_gpu": float(of_run.model_tflops_per_gpu),
        "gpu_hours": None if hours is None else float(hours),
        "verdict": answer.verdict,
    }


def measured_of(run: Run) -> dict[str, Value]:
    """The row's own figures under the names of the predictions; the verdict is the outcome."""

    def size(gib: float | None) -> float | None:
        return None if gib is None else gib * BYTES_PER_GIB

    return {
        "peak_allocated_bytes": size(run.peak_allocated_gib),
        "peak_reserved_bytes": size(run.peak_reserved_gib),
        "peak_bytes": size(run.peak_device_gib),
        "step_seconds": run.step_seconds,
        "tokens_per_second_per_gpu": run.tokens_per_second_per_gpu,
        "model_tflops_per_gpu": run.model_tflops_per_gpu,
        "gpu_hours": run.gpu_hours,
        "verdict": run.outcome,
    }


def incomparable(run: Run) -> dict[str, str]:
    """Metrics whose figure in the row is of another kind than the prediction."""
    notes = run.notes or ""
    left_out: dict[str, str] = {}
    if "longest" in notes and "sample" in notes:
        for metric in ("step_seconds", "tokens_per_second_per_gpu"):
            left_out[metric] = "the sequence length is the longest sample's, not the mean"
    if run.model_tflops_per_gpu is not None and run.tokens_per_second_per_gpu is not None:
        left_out["model_tflops_per_gpu"] = (
            "tokens/s by the source's own FLOPs per token: the same error as tokens/s"
        )
    return left_out


def _error(metric: str, predicted: Value, measured: Value) -> float | None:
    if predicted is None or measured is None:
        return None
    if metric == "verdict":
        wrong = "does_not_fit" if measured == "ran" else "fits"
        return float(predicted == wrong)
    return float(predicted) / float(measured) - 1
