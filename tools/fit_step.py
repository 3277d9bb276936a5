"""Fit what kernel tables cannot give on the shipped measured runs, grade a, each source alike.

    python tools/fit_step.py            fit, then leave each source out in turn
    python tools/fit_step.py --quick    fit alone

Writes planner/performance/data/step.json and planner/validation/data/left_out.csv. A source that a
simulator made is judged like the others and never fitted on. The loss is the mean over sources of
the mean of |log(predicted / measured)|, each at most MOST_LOSS; at most ROWS rows of a source are
used, spread evenly over them, so that a fit takes minutes. Least absolute deviations by least
squares that are weighed anew each round (Holland and Welsch 1977), damped, each constant within its
range.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.errors import PlannerError
from planner.hardware.kernel_files import kernel_constants
from planner.memory.peak import rows_of, setting_of
from planner.memory.surroundings import columns_of
from planner.numeric import Array
from planner.performance import machine
from planner.performance.constants import FILE, StepConstants
from planner.performance.step import step_time
from planner.resources import package_file
from planner.training.precision import precision
from planner.training.stacks import stack
from planner.validation.nouns import UnusableError
from planner.validation.page import LEFT_OUT
from planner.validation.predict import predicted_by
from planner.validation.runs import SIMULATED, shipped_runs

ROWS = 24
LEFT_OUT_ROWS = 16
ROUNDS = 15
LEAST_GAIN = 0.003  # of the loss in a round: less is the end
TRIES = 4
STEP = 0.02
LEAST_RESIDUAL = 0.02
# A row that is further off than this says that something is not as stated, or not modelled.
MOST_LOSS = 0.35
# Ranges of sense: shares lie between nothing and all of it; a kernel moves at least what the tape's
# step reads and writes, and eager code a few times that (layers with experts run the fused kernels
# of the dense ones and a fused permutation: twice); a host that waits for the GPU and starts a
# dozen kernels loses 0.1 to 20 ms (HybridEP reads no counts back: below 1 ms); old attention
# had 0.3 to 1 of FlashAttention 2's speed; products that add up in float32 take up to 1.3 as long;
# long work is no faster than kernel tables and power limits say (tools/fit_kernels.py).
RANGES: Mapping[str, tuple[float, float]] = {
    "interference": (0.0, 1.0),
    "tensor_parallel_shown": (0.1, 1.0),
    "stream_switch_seconds": (0.0, 1e-4),
    "pipeline_shown": (0.0, 1.0),
    "expert_shown": (0.0, 1.0),
    "traffic_megatron": (0.8, 3.0),
    "traffic_megatron_eager": (0.8, 3.0),
    "traffic_eager": (0.8, 3.0),
    "traffic_compiled": (0.6, 3.0),
    "traffic_experts": (1.0, 2.0),
    "traffic_experts_fused": (0.3, 3.0),
    "accurate_fp8": (1.0, 1.3),
    "expert_bias_passes": (0.0, 12.0),
    "expert_seconds": (3e-5, 1e-3),
    "dispatch_seconds/alltoall": (1e-4, 2e-2),
    "dispatch_seconds/hybridep": (1e-5, 1e-3),
    "triton_attention/8": (0.3, 1.0),
    "triton_attention/9": (0.3, 1.0),
    "sustained/b200-sxm-180gb/bf16": (1.31, 1.5),
}


@dataclass(frozen=True)
class Row:
    """A measured run, ready to be timed: seconds gives the step for constants."""

    id: str
    source: str
    measured: float  # tokens per second and GPU
    predicted: Callable[[StepConstants], float]

    def error(self, constants: StepConstants) -> float:
        return self.predicted(constants) / self.measured - 1


def main() -> int:
    _remember_kernels()
    rows = _rows()
    sources = sorted({r.source for r in rows})
    start = {name: _start(name) for name in RANGES}
    measured = [r for r in rows if r.source not in SIMULATED]
    values = _fit(_few(measured, _source, ROWS), start)
    _write(values, start)
    _report(rows, _constants(values), "fitted on all")
    if "--quick" in sys.argv[1:]:
        return 0
    left_out = []
    for source in sources:
        kept = _few([r for r in measured if r.source != source], _source, LEFT_OUT_ROWS)
        # from the defaults: what only this source tells must not be known
        without = _constants(_fit(kept, start))
        errors = np.array([r.error(without) for r in rows if r.source == source])
        left_out.append(
            {
                "source": source,
                "rows": len(errors),
                "median": round(float(np.median(np.abs(errors))), 4),
                "p90": round(float(np.percentile(np.abs(errors), 90)), 4),
                "bias": round(float(np.median(errors)), 4),
            }
        )
        sys.stdout.write(f"without {left_out[-1]}\n")
    with package_file(LEFT_OUT).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, left_out[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(left_out)
    return 0


def _source(row: Row) -> str:
    return row.source


def _remember_kernels() -> None:
    """Shapes recur from one set of constants to the next: work each out once."""
    machine.matmul_seconds = functools.lru_cache(None)(machine.matmul_seconds)  # type: ignore


def _rows() -> list[Row]:
    found = []
    measured_runs = [
        run
        for run in shipped_runs().runs
        if run.grade == "a" and (run.tokens_per_second_per_gpu or run.step_seconds)
    ]
    for run in _few(measured_runs, lambda r: r.group, 4 * ROWS):
        try:
            nouns, answer = predicted_by(run)
        except (UnusableError, PlannerError):
            continue
        recipe, layout = answer.recipe, answer.layout
        policy = precision(recipe.precision, layout.stack)
        setting = setting_of(nouns.model, recipe, policy, layout)
        blocks = rows_of(nouns.model, setting, stack(layout.stack).kernels)
        tokens = float(layout.global_batch_size) * recipe.sequence_length / float(layout.gpus)
        measured = run.tokens_per_second_per_gpu or tokens / float(run.step_seconds or math.nan)

        def predicted(
            constants: StepConstants,
            arguments: tuple[Any, ...] = (
                nouns.model,
                blocks,
                recipe,
                layout,
                policy,
                nouns.cluster,
                columns_of(recipe, layout),
            ),
            tokens: float = tokens,
        ) -> float:
            return tokens / float(step_time(*arguments, constants).step_seconds)

        found.append(Row(run.id, run.group, measured, predicted))
    return found


def _few(rows: list[Any], source: Callable[[Any], str], most: int) -> list[Any]:
    """At most so many of each source, spread evenly."""
    few = []
    for name in sorted({source(r) for r in rows}):
        own = sorted((r for r in rows if source(r) == name), key=lambda r: str(r.id))
        few += [own[i] for i in np.unique(np.linspace(0, len(own) - 1, most).astype(int))]
    return few


def _residuals(rows: list[Row], values: Mapping[str, float]) -> Array:
    constants = _constants(values)
    return np.array([math.log1p(row.error(constants)) for row in rows])


def _fit(rows: list[Row], start: Mapping[str, float], rounds: int = ROUNDS) -> dict[str, float]:
    share = _shares(rows)
    values = dict(start)
    here = _residuals(rows, values)
    damping = 1e-3
    for _ in range(rounds):
        before = _loss(share, here)
        slopes = _slopes(rows, values, here)
        weights = share / np.maximum(np.abs(here), LEAST_RESIDUAL)
        weights[np.abs(here) > MOST_LOSS] = 0.0
        for _ in range(TRIES):
            moved = _moved(values, _change(slopes, here, weights, damping))
            there = _residuals(rows, moved)
            if _loss(share, there) < _loss(share, here):
                values, here, damping = moved, there, damping / 4
                break
            damping *= 8
        loss = _loss(share, here)
        told = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        sys.stdout.write(f"loss {loss:.4f}: {told}\n")
        sys.stdout.flush()
        if loss > (1 - LEAST_GAIN) * before:
            break
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def _shares(rows: list[Row]) -> Array:
    """Of the loss, each row's part: sources alike."""
    sources = [row.source for row in rows]
    return np.array([1 / (len(set(sources)) * sources.count(source)) for source in sources])


def _loss(share: Array, residuals: Array) -> float:
    return float(np.sum(share * np.minimum(np.abs(residuals), MOST_LOSS)))


def _slopes(rows: list[Row], values: Mapping[str, float], here: Array) -> Array:
    """Change of each residual over a constant's whole range, by a small step inwards."""
    columns = []
    for name, (low, high) in RANGES.items():
        step = STEP * (high - low) * (1 if values[name] < (low + high) / 2 else -1)
        there = _residuals(rows, {**values, name: values[name] + step})
        columns.append((there - here) / step * (high - low))
    return np.stack(columns, axis=1)


def _change(slopes: Array, here: Array, weights: Array, damping: float) -> Array:
    """Of each constant, in parts of its range."""
    normal = slopes.T @ (weights[:, None] * slopes) + damping * np.eye(slopes.shape[1])
    return np.asarray(np.linalg.solve(normal, -slopes.T @ (weights * here)))


def _moved(values: Mapping[str, float], change: Array) -> dict[str, float]:
    return {
        name: min(max(values[name] + part * (high - low), low), high)
        for (name, (low, high)), part in zip(RANGES.items(), change, strict=True)
    }


def _start(name: str) -> float:
    field, *path = name.split("/", 1)
    value = getattr(StepConstants(), field)
    if field == "sustained":
        gpu, dtype = path[0].rsplit("/", 1)
        value = kernel_constants(gpu).matmul[dtype].sustained_ratio
    elif path:
        value = value.get(path[0], RANGES[name][0])
    return float(value)


def _constants(values: Mapping[str, float]) -> StepConstants:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        field, *path = name.split("/", 1)
        if path:
            fields[field] = {**fields.get(field, {}), path[0]: value}
        else:
            fields[field] = value
    return replace(StepConstants(), **fields)


def _write(values: Mapping[str, float], start: Mapping[str, float]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        field, *path = name.split("/", 1)
        # a constant that stayed where it was put is told by none of the rows
        evidence = "assumed" if value == start[name] else "fitted"
        cells = {"value": value, "evidence": evidence, "range": list(RANGES[name])}
        row = rows.setdefault(field, {})
        for column, cell in cells.items():
            row[column] = {**row.get(column, {}), path[0]: cell} if path else cell
    text = json.dumps({"schema_version": 1, "constants": rows}, indent=2) + "\n"
    package_file(FILE).write_text(text, encoding="utf-8")


def _report(rows: list[Row], constants: StepConstants, title: str) -> None:
    sys.stdout.write(f"{title}\n")
    for source in sorted({r.source for r in rows}):
        errors = np.array([r.error(constants) for r in rows if r.source == source])
        median, p90 = np.median(np.abs(errors)), np.percentile(np.abs(errors), 90)
        sys.stdout.write(
            f"  {source:14s} {len(errors):5d} median {median:.1%} p90 {p90:.1%} "
            f"bias {np.median(errors):+.1%}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
