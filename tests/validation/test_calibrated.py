"""A user's own measurements: fitted as the shipped ones, written, found, and preferred."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace

import numpy as np
import pytest

from planner.answers.calibration import table_of
from planner.hardware.kernel_files import kernel_constants
from planner.hardware.library import find_gpu
from planner.hardware.ready_constants import step_constants
from planner.performance.calibration.table import Table
from planner.resources import package_file
from planner.validation.calibrated import calibrated, write_files
from planner.validation.kernel_tables import FILES, groups

GPU = find_gpu("l40s")


def _own(kind: str, gpu: str) -> Table:
    """The shipped rows of one GPU, as a user's measurements would be."""
    table = next(iter(groups(kind))).table
    rows = [group.table for group in groups(kind) if group.gpu == gpu]
    names = [name for name in table.columns if name not in ("key", "family")]
    return Table({name: [cell for part in rows for cell in part.columns[name]] for name in names})


@pytest.fixture(scope="module")
def constants():
    return calibrated(GPU, {"matmul": _own("matmul", GPU.id)})


def test_the_same_measurements_give_nearly_the_shipped_constants(constants):
    """Not quite: the shipped fit leans on all GPUs' tables, a user's on the fit over them."""
    shipped, own = kernel_constants(GPU.id).matmul["bf16"], constants.matmul["bf16"]
    for name in ("efficiency", "memory_efficiency", "operand_bytes"):
        assert getattr(own, name) == pytest.approx(getattr(shipped, name), rel=0.05)
    assert own.quality.evidence == "measured"
    assert own.quality.shapes == shipped.quality.shapes
    assert own.quality.median_error < 0.1


def test_what_was_written_is_preferred(constants, tmp_path, monkeypatch):
    slower = {key: _slower(one) for key, one in constants.matmul.items()}
    write_files(tmp_path / "kernels", GPU.id, replace(constants, matmul=slower), "# of a test\n")
    before = step_constants(GPU.id, pcie=True)
    monkeypatch.setenv("PLANNER_CONFIG_DIR", str(tmp_path))
    after = step_constants(GPU.id, pcie=True)
    assert after.matmul["bf16"].efficiency == pytest.approx(slower["bf16"].efficiency, rel=1e-3)
    assert after.matmul["bf16"].efficiency < before.matmul["bf16"].efficiency
    assert after.attention.keys() >= before.attention.keys()  # what was not measured stays


def _slower(one):
    return replace(one, efficiency=one.efficiency / 2)


def test_rows_become_a_table_with_the_shipped_columns():
    folder = package_file("validation") / "data" / "kernels"
    for kind, columns in ROWS.items():
        with gzip.open(folder / f"{FILES[kind]}.csv.gz", "rt", newline="") as file:
            assert next(csv.reader(file)) == list(columns)
    table = table_of([dict.fromkeys(ROWS["matmul"], "1")] * 2)
    assert np.array_equal(table.number("m"), [1.0, 1.0])
    assert len(table_of([])) == 0


# What planner/hardware/measure writes; a test under PyTorch holds the two together.
ROWS = {
    "matmul": (
        "gpu", "dtype", "m", "n", "k", "microseconds", "run", "watts", "quantise_microseconds",
        "source",
    ),
    "grouped": (
        "gpu", "dtype", "pass", "layout", "groups", "m_per_group", "n", "k_per_group",
        "microseconds", "tflops_per_second", "fraction_of_dense_peak", "note", "source",
    ),
    "attention": (
        "gpu", "dtype", "pass", "causal", "batch", "sequence", "query_heads", "kv_heads",
        "head_dim", "value_head_dim", "window", "microseconds", "kernel", "source",
    ),
    "movement": (
        "gpu", "operation", "implementation", "pass", "dtype", "rows", "columns", "microseconds",
        "bytes", "detail", "source",
    ),
    "collectives": (
        "gpu", "gpus", "nodes", "operation", "dtype", "message_bytes", "microseconds", "fabric",
        "implementation", "source",
    ),
}  # fmt: skip


def test_a_few_kernels_are_measured_on_the_host(monkeypatch):
    pytest.importorskip("torch", reason="needs PyTorch")
    from planner.hardware.measure import kernels, timing

    monkeypatch.setattr(timing, "_SUSTAINED_SECONDS", 0.001)
    monkeypatch.setattr(kernels, "TOKENS", (32,))
    monkeypatch.setattr(kernels, "WEIGHTS", ((64, 32), (32, 64)))
    monkeypatch.setattr(kernels, "SUSTAINED", ((32, 64, 32), (32, 32, 64)))
    monkeypatch.setattr(kernels, "GROUPED", ((2, 16, 32, 32), (4, 8, 32, 64)))
    monkeypatch.setattr(kernels, "ATTENTION", ((1, 32, 4, 2, 16), (1, 64, 4, 4, 16)))
    monkeypatch.setattr(kernels, "MOVED_ROWS", (32,))
    flash = kernels.BACKENDS["flash_attention_2"]
    monkeypatch.setattr(kernels, "BACKENDS", {"flash_attention_2": flash})
    timer = timing.Timer("cpu")
    measured = {
        "matmul": list(kernels.products(timer, "x", ("bf16",))),
        "grouped": list(kernels.grouped(timer, "x")),
        "attention": list(kernels.attention(timer, "x")),
        "movement": list(kernels.movements(timer, "x")),
    }
    for kind, rows in measured.items():
        assert rows
        assert all(tuple(row) == ROWS[kind] for row in rows)
        assert all(float(row["microseconds"]) > 0 for row in rows)


def test_without_pytorch_or_a_gpu_it_says_what_is_missing(run_planner):
    done = run_planner("hardware", "calibrate", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    assert "hardware calibrate" in done.stderr
    assert "Traceback" not in done.stderr
