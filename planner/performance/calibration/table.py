"""Measured tables as columns, the split into fitted and held-out shapes, and errors."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from planner.numeric import Array

# What a table measures; also the constants' place in KernelConstants.
Kind: TypeAlias = Literal[
    "matmul", "attention", "movement", "collectives", "grouped", "expert_layer", "dispatch"
]


@dataclass(frozen=True)
class Split:
    """Which shapes are held out when a fit is judged: one in so many, by a checksum."""

    one_in: int = 4
    part: int = 0


QUARTER = Split()
# The same shapes, a quarter of them at a time: what is left is as dense as nearly all of the table.
SIXTEENTHS = tuple(Split(16, part) for part in (0, 4, 8, 12))


@dataclass(frozen=True)
class Table:
    """Columns of text by name; numbers are read on demand."""

    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def text(self, name: str) -> NDArray[np.str_]:
        """A column as it stands in the file."""
        return np.array(self.columns[name], dtype=str)

    def number(self, name: str, empty: float = float("nan")) -> Array:
        """A column of numbers; `empty` where a cell is empty."""
        return np.array([float(cell) if cell else empty for cell in self.columns[name]])

    def where(self, chosen: NDArray[np.bool_]) -> Table:
        """The rows where `chosen` holds."""
        rows = np.flatnonzero(chosen)
        return Table({name: [cells[row] for row in rows] for name, cells in self.columns.items()})

    def groups(self, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Table]]:
        """Rows that agree in the columns `by`, in alphabetical order."""
        keys = list(zip(*(self.columns[name] for name in by), strict=True))
        rows: dict[tuple[str, ...], list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        for key in sorted(rows):
            chosen = np.zeros(len(self), bool)
            chosen[rows[key]] = True
            yield key, self.where(chosen)

    def with_column(self, name: str, cells: Sequence[str]) -> Table:
        """The table with one column more."""
        return Table({**self.columns, name: list(cells)})

    def held_out(self, shape: Sequence[str], split: Split = QUARTER) -> NDArray[np.bool_]:
        """Which rows have a held-out shape: the same shapes on every GPU, chosen by their text."""
        names = zip(*(self.columns[name] for name in shape), strict=True)
        return np.array(
            [zlib.crc32(",".join(cells).encode()) % split.one_in == split.part for cells in names],
            bool,
        )


def read(path: Path) -> Table:
    """A CSV file, compressed or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = next(reader)
        rows = list(reader)
    return Table({name: [row[at] for row in rows] for at, name in enumerate(names)})


@dataclass(frozen=True)
class Errors:
    """|predicted / measured - 1| over some points."""

    values: Array

    def quantile(self, at: float) -> float | None:
        """A quantile, or None without points."""
        return float(np.quantile(self.values, at)) if self.values.size else None


def errors(predicted: Array, measured: Array) -> Errors:
    """The errors of predictions, point by point."""
    return Errors(np.abs(predicted / measured - 1.0))
