"""Steps that wait for the host: a small model of Megatron-Core on three kinds of node.

With 12 layers of width 512 the GPU is done before the next kernel is started, so the step is the
host's time. Rows, source and what machine "b" is: `validation/data/README.md`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from planner.answers.request import Request, resolve
from planner.estimate import estimate
from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.resources import package_file
from planner.validation.statistics import Summary, grouped, summary_of

FILE = "validation/data/host_steps.csv"
MODEL = "validation/data/models/gpt-l12-d512-h8-s1024-v50304.json"
GPUS = 8
SEQUENCE_LENGTH = 1024
# The machines that the constants of the host's time are fitted on.
FITTED = "a"


@dataclass(frozen=True)
class HostStep:
    """One case on one kind of GPU. machine: of the H100, "a" or a slower one, "b"."""

    case: str
    gpu: str
    machine: str
    request: Request
    step_seconds: float


@cache
def shipped_host_steps() -> tuple[HostStep, ...]:
    with package_file(FILE).open(encoding="utf-8", newline="") as file:
        return tuple(
            HostStep(
                row["case"], row["gpu"], row["machine"], _request(row), float(row["step_seconds"])
            )
            for row in csv.DictReader(file)
        )


def predicted_seconds(row: HostStep, cluster: Cluster | None = None) -> float:
    """cluster: in place of the shipped profile's, to try other constants of its host."""
    plan = resolve(row.request, _model(), GPUS)
    found = cluster or cluster_of(find_gpu(row.gpu), GPUS)
    return float(estimate(_model(), plan.recipe, plan.layout, found).step.step_seconds)


def host_errors(
    rows: Iterable[HostStep], predicted: Callable[[HostStep], float] = predicted_seconds
) -> dict[tuple[str, str], Summary]:
    """By GPU and machine."""
    found = {}
    for key, some in grouped(rows, lambda row: (row.gpu, row.machine)).items():
        summary = summary_of(predicted(row) / row.step_seconds - 1 for row in some)
        assert summary is not None  # a group has rows
        found[key] = summary
    return dict(sorted(found.items()))


@cache
def _model() -> ModelSpec:
    return load_model(str(package_file(MODEL)))


def _request(row: dict[str, str]) -> Request:
    return Request(
        gpus=GPUS,
        stack="megatron",
        precision="bf16-mixed",
        optimizer="adamw",
        sequence_length=SEQUENCE_LENGTH,
        tensor_parallel=int(row["tensor_parallel"]),
        pipeline_parallel=int(row["pipeline_parallel"]),
        virtual_pipeline=int(row["virtual_pipeline"]),
        context_parallel=int(row["context_parallel"]),
        sequence_parallel=row["sequence_parallel"] == "1",
        sharding=row["sharding"],
        micro_batch_size=int(row["micro_batch_size"]),
        global_batch_size=int(row["global_batch_size"]),
        attention=row["attention"],
        recompute=row["recompute"],
    )
