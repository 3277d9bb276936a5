"""Errors of the kernel model by table and GPU, as tools/fit_kernels.py measures them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from planner.numeric import Array
from planner.performance.calibration.table import SIXTEENTHS, Kind
from planner.resources import package_file
from planner.validation.kernel_fits import Fitted, judge, judge_unmeasured
from planner.validation.kernel_tables import FILES, Group
from planner.validation.tables import Table, percent

FILE = "validation/data/kernel_errors.csv"
ALL_GPUS = "all"
QUARTER, SIXTEENTH, GPU = "a quarter of the shapes", "a sixteenth at a time", "the GPU"
_COLUMNS = ("table", "held_out", "gpu", "points", "form_median", "form_p90", "median", "p90")


def errors_of(kind: Kind, found: Sequence[Group]) -> Iterator[dict[str, str]]:
    """The rows of one measured table; some minutes for the largest."""
    dense = [one for split in SIXTEENTHS for one in judge(found, split=split)]
    for held_out, judged in (
        (QUARTER, judge(found)),
        (SIXTEENTH, dense),
        (GPU, judge_unmeasured(found)),
    ):
        gpus = sorted({one.group.gpu for one in judged}) if held_out == QUARTER else []
        for gpu in (ALL_GPUS, *gpus):
            chosen = [one for one in judged if gpu in (ALL_GPUS, one.group.gpu)]
            yield _row(FILES[kind], held_out, gpu, chosen)


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as they stand in the file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shipped_rows() -> list[dict[str, str]]:
    """The rows that the last fit has written."""
    with package_file(FILE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Each measured table as a whole, by what was held out."""
    columns = (
        "table",
        "held out",
        "points",
        "form: median",
        "p90",
        "with neighbours: median",
        "p90",
    )
    return Table(
        "Kernels and collectives, by table",
        columns,
        tuple(
            (row["table"], row["held_out"], row["points"], *(_cell(row[c]) for c in _COLUMNS[4:]))
            for row in rows
            if row["gpu"] == ALL_GPUS
        ),
        text=2,
    )


def by_gpu(rows: Sequence[Mapping[str, str]]) -> Table:
    """Median / p90 with a quarter of the shapes held out, one row a GPU."""
    cells = {
        (row["gpu"], row["table"]): f"{_cell(row['median'])} / {_cell(row['p90'])}"
        for row in rows
        if row["held_out"] == QUARTER and row["gpu"] != ALL_GPUS and int(row["points"])
    }
    tables = list(FILES.values())
    gpus = sorted({gpu for gpu, _ in cells})
    return Table(
        "Kernels and collectives, by GPU: median / p90 with a quarter of the shapes held out",
        ("GPU", *tables),
        tuple((gpu, *(cells.get((gpu, table), "") for table in tables)) for gpu in gpus),
    )


def _row(table: str, held_out: str, gpu: str, judged: Sequence[Fitted]) -> dict[str, str]:
    plain = np.concatenate([one.plain_errors for one in judged])
    shaped = np.concatenate([one.errors for one in judged])
    figures = (*_figures(plain), *_figures(shaped))
    return dict(zip(_COLUMNS, (table, held_out, gpu, str(plain.size), *figures), strict=True))


def _figures(errors: Array) -> tuple[str, str]:
    """Median and p90; empty without points."""
    if not errors.size:
        return "", ""
    return f"{np.median(errors):.4f}", f"{np.quantile(errors, 0.9):.4f}"


def _cell(figure: str) -> str:
    return percent(float(figure)) if figure else ""
