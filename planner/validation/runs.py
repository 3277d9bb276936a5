"""Measured runs as a CSV file has them: one frozen Run per row, an unknown cell is None."""

from __future__ import annotations

import csv
import gzip
import math
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from planner.errors import InputError, near_match
from planner.resources import package_file

SHIPPED = "validation/data/runs.csv.gz"
# Without these columns no row can be predicted.
REQUIRED = ("gpu", "model", "sequence_length")
GRADES = ("a", "b", "c")
OUTCOMES = ("ran", "oom")
# Where several series of one table stand under one word, or one word holds two sweeps.
_SERIES = re.compile(r"^(nemo)\d+\.\d+\w*$")
_SWEEPS = ("vtrain-single", "vtrain-multi")
# Published as measured, and a simulator's own sums: shown, but tools/fit_step.py fits nothing on it
# (docs/decisions/0022-a-source-that-is-a-simulator.md; a test repeats the evidence).
SIMULATED = ("vtrain-single",)


@dataclass(frozen=True)
class Run:
    """One row. Batches are sequences; peaks are GiB; the fields are the columns' names."""

    line: int
    id: str
    gpu: str
    model: str
    sequence_length: int | None = None
    source: str | None = None
    grade: str | None = None
    gpus: int | None = None
    gpus_per_node: int | None = None
    tokens: float | None = None
    micro_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    global_batch_size: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    stack: str | None = None
    data_parallel: int | None = None
    tensor_parallel: int | None = None
    sequence_parallel: bool | None = None
    pipeline_parallel: int | None = None
    virtual_pipeline: int | None = None
    context_parallel: int | None = None
    expert_parallel: int | None = None
    expert_tensor_parallel: int | None = None
    sharding: str | None = None
    recompute: str | None = None
    attention: str | None = None
    cross_entropy: str | None = None
    compile: bool | None = None
    finetune: str | None = None
    lora_rank: int | None = None
    lora_targets: str | None = None
    offload: str | None = None
    peak_allocated_gib: float | None = None
    peak_reserved_gib: float | None = None
    peak_device_gib: float | None = None
    step_seconds: float | None = None
    tokens_per_second_per_gpu: float | None = None
    model_tflops_per_gpu: float | None = None
    gpu_hours: float | None = None
    outcome: str | None = None
    software: str | None = None
    kernels: str | None = None
    cuda_graph: str | None = None
    overlap: str | None = None
    moe_dispatcher: str | None = None
    largest_micro_batch: bool | None = None
    seen: str | None = None
    notes: str | None = None
    folder: Path = field(default=Path(), repr=False)

    @property
    def group(self) -> str:
        """The source that the row counts to: the id's first word, vTrain's two sweeps apart.

        >>> Run(2, "vtrain-multi-l48-d8192", "", "").group, Run(3, "nemo24.07b-gpt3", "", "").group
        ('vtrain-multi', 'nemo')
        """
        for sweep in _SWEEPS:
            if self.id.startswith(sweep):
                return sweep
        word = self.id.split("-")[0]
        series = _SERIES.match(word)
        return series.group(1) if series else word

    @property
    def model_path(self) -> Path:
        """The model's config, beside the CSV; a catalog id has no such file."""
        return self.folder / self.model


@dataclass(frozen=True)
class RunFile:
    """The rows that could be read, and those that could not: (line, id, reason)."""

    runs: tuple[Run, ...]
    unread: tuple[tuple[int, str, str], ...]
    unknown_columns: tuple[str, ...]


def shipped_runs() -> RunFile:
    """The measured runs that come with the planner."""
    return read_runs(package_file(SHIPPED))


def read_runs(path: Path) -> RunFile:
    """Read a CSV file, plain or gzipped; no header, a missing column or no row is bad input."""
    rows = _rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    if not any(header):
        raise InputError(f"{path}: empty, expected a CSV file whose first line names its columns")
    _check_header(path, header)
    runs: list[Run] = []
    unread: list[tuple[int, str, str]] = []
    for line, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(header, cells, strict=False))
        name = row.get("id", "").strip() or f"line-{line}"
        if len(cells) > len(header):
            unread.append((line, name, f"{len(cells)} cells under {len(header)} columns"))
            continue
        try:
            runs.append(_run(line, name, row, path.parent))
        except InputError as error:
            unread.append((line, name, error.message))
    if not runs:
        why = f": line {unread[0][0]}: {unread[0][2]}" if unread else ""
        raise InputError(f"{path}: no usable row{why}")
    known = {f.name for f in fields(Run)}
    return RunFile(tuple(runs), tuple(unread), tuple(c for c in header if c not in known))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
        reader = csv.reader(text.splitlines(keepends=True), strict=True)
        while True:
            cells = next(reader, None)
            if cells is None:
                return
            yield reader.line_num, cells
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file, expected CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file: {error}") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} stands twice in the first line")
    for name in REQUIRED:
        if name not in header:
            close = near_match(name, [h for h in header if h])
            hint = f"is {close!r} meant?" if close else "an unknown cell may be empty"
            raise InputError(f"{path}: column {name!r} is missing", hint)


def _run(line: int, name: str, row: dict[str, str], folder: Path) -> Run:
    values: dict[str, Any] = {"line": line, "id": name, "folder": folder}
    for column, kind in _KINDS.items():
        text = row.get(column, "").strip()
        if text and column not in values:
            values[column] = _value(column, text, kind)
    for column in ("gpu", "model"):
        if column not in values:
            raise InputError(f"{column} is empty")
    for column, words in (("grade", GRADES), ("outcome", OUTCOMES)):
        if values.get(column) not in (None, *words):
            raise InputError(f"{column} {values[column]!r}: expected {' or '.join(words)}")
    return Run(**values)


def _value(column: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InputError(f"{column} {text!r}: expected a number")
    if kind is float:
        if number == 0:
            raise InputError(f"{column} {text!r}: expected more than 0 (unknown is an empty cell)")
        return number
    if number != int(number):
        raise InputError(f"{column} {text!r}: expected a whole number")
    if kind is bool:
        if number not in (0, 1):
            raise InputError(f"{column} {text!r}: expected 0 or 1")
        return bool(number)
    return int(number)


def _plain(hint: Any) -> type:
    """int of `int | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    assert isinstance(hint, type)
    return hint


_KINDS = {
    name: _plain(hint)
    for name, hint in get_type_hints(Run).items()
    if name not in ("line", "folder")
}
