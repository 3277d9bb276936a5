"""Errors of the kernel model on held-out shapes: what the fit wrote, how shapes are held out."""

import numpy as np

from planner.performance.calibration.table import QUARTER, SIXTEENTHS
from planner.validation import kernel_errors
from planner.validation.kernel_tables import FILES, groups

# Median and p90 that each table is held to, a sixteenth of the shapes held out at a time.
BARS = {
    "gemm": (0.05, 0.155),
    "attention": (0.045, 0.15),
    "elementwise": (0.045, 0.16),
    "collectives": (0.04, 0.15),
    "grouped_gemm": (0.1, 0.2),
    "moe": (0.06, 0.25),
    "moe_all_to_all": (0.03, 0.1),
}


def test_a_sixteenth_at_a_time_is_the_same_quarter() -> None:
    group = next(iter(groups("collectives")))
    parts = [group.held_out(split) for split in SIXTEENTHS]
    assert np.array_equal(sum(parts), group.held_out(QUARTER))
    assert 0 < group.held_out(QUARTER).mean() < 0.5


def test_every_table_is_judged_and_within_its_bars() -> None:
    rows = kernel_errors.shipped_rows()
    whole = {
        (row["table"], row["held_out"]): row for row in rows if row["gpu"] == kernel_errors.ALL_GPUS
    }
    assert set(BARS) == set(FILES.values())
    for table, (median, p90) in BARS.items():
        dense = whole[table, kernel_errors.SIXTEENTH]
        quarter = whole[table, kernel_errors.QUARTER]
        assert dense["points"] == quarter["points"]
        assert float(dense["median"]) < median
        assert float(dense["p90"]) < p90


def test_the_same_table_gives_the_same_errors() -> None:
    found = [g for g in groups("movement") if g.key.startswith("rms_norm/cudnn")]
    rows = list(kernel_errors.errors_of("movement", found))
    again = list(kernel_errors.errors_of("movement", found))
    assert rows == again
    assert {row["held_out"] for row in rows} == {
        kernel_errors.QUARTER, kernel_errors.SIXTEENTH, kernel_errors.GPU,
    }  # fmt: skip
    text = kernel_errors.as_text(rows)
    assert len(text.splitlines()) == len(rows) + 1


def test_tables_name_every_gpu_once() -> None:
    rows = kernel_errors.shipped_rows()
    table = kernel_errors.by_gpu(rows)
    gpus = [row[0] for row in table.rows]
    assert len(gpus) == len(set(gpus)) > 8
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(kernel_errors.by_table(rows).rows) == 3 * len(FILES)
