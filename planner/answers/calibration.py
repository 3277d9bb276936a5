"""Measures the GPUs of this machine, as tables that the time model's constants are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from planner.hardware import live
from planner.hardware.library import find_gpu
from planner.hardware.profile import GpuProfile
from planner.performance.calibration.table import Kind, Table


def profile_here(name: str | None) -> GpuProfile:
    """The profile to measure for: a library's, or the one of the GPU that NVML shows."""
    return live.plan_gpu().profile if name is None else find_gpu(name)


def measure_here(
    profile: GpuProfile, *, quick: bool, progress: Callable[[str], None]
) -> dict[Kind, Table]:
    """A table of each kind that can be measured; collectives where there are several GPUs."""
    import torch

    from planner.hardware.measure import kernels
    from planner.hardware.measure.links import collectives
    from planner.hardware.measure.timing import Timer

    timer = Timer("cuda:0")
    dtypes = ("bf16", "fp8") if profile.peak("fp8") else ("bf16",)
    measured: dict[Kind, Iterable[Mapping[str, str]]] = {
        "matmul": kernels.products(timer, profile.id, dtypes, quick),
        "grouped": kernels.grouped(timer, profile.id, quick),
        "attention": kernels.attention(timer, profile.id, quick),
        "movement": kernels.movements(timer, profile.id, quick),
    }
    ranks = torch.cuda.device_count()
    if ranks > 1:
        fabric = "NVLink" if profile.link is not None else "PCIe"
        measured["collectives"] = collectives(profile.id, ranks, fabric)
    tables: dict[Kind, Table] = {}
    for kind, rows in measured.items():
        table = table_of(rows)
        progress(f"{kind}: {len(table)} measurements")
        if len(table):
            tables[kind] = table
    return tables


def table_of(rows: Iterable[Mapping[str, str]]) -> Table:
    """Rows of one table as columns."""
    kept = list(rows)
    return Table({name: [row[name] for row in kept] for name in (kept[0] if kept else ())})
