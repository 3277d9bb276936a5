"""A watched run as a row of measured runs, so that a team's own runs grow its validation set."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.errors import InputError

BYTES_PER_GIB = 2**30
# The columns of measured runs (docs/live.md), in the order in which the shipped ones have them.
COLUMNS = (
    *("id", "source", "grade", "seen", "gpu", "gpus", "gpus_per_node", "model", "tokens"),
    *("sequence_length", "micro_batch_size", "gradient_accumulation_steps", "global_batch_size"),
    *("precision", "optimizer", "stack", "data_parallel", "tensor_parallel", "sequence_parallel"),
    *("pipeline_parallel", "virtual_pipeline", "context_parallel", "expert_parallel", "sharding"),
    *("recompute", "attention", "cross_entropy", "compile", "finetune", "lora_rank"),
    *("lora_targets", "offload", "peak_allocated_gib", "peak_reserved_gib", "peak_device_gib"),
    *("step_seconds", "tokens_per_second_per_gpu", "model_tflops_per_gpu", "gpu_hours", "outcome"),
    *("software", "kernels", "cuda_graph", "overlap", "moe_dispatcher", "expert_tensor_parallel"),
    *("largest_micro_batch", "notes"),
)
REQUIRED = ("gpu", "model", "sequence_length", "peak_device_gib")


def model_reference(model: str, runs: Path) -> str:
    """A model as the row names it: a file relative to the CSV, anything else as it is."""
    if not Path(model).exists():
        return model
    return os.path.relpath(Path(model).resolve(), runs.resolve().parent)


def append_row(runs: Path, row: Mapping[str, object]) -> None:
    """Add a row to the file of measured runs, which is begun if it is not there.

    A file that has fewer columns keeps them; one that lacks a required one is refused.
    """
    columns = _columns_of(runs)
    try:
        ends_open = runs.exists() and runs.stat().st_size and runs.read_bytes()[-1:] != b"\n"
        with runs.open("a", encoding="utf-8", newline="") as file:
            if ends_open:
                file.write("\n")
            writer = csv.DictWriter(file, columns or COLUMNS, extrasaction="ignore")
            if columns is None:
                writer.writeheader()
            writer.writerow({name: _cell(row.get(name)) for name in columns or COLUMNS})
    except OSError as error:
        raise InputError(f"{runs}: cannot be written ({error.strerror})") from None


def _columns_of(runs: Path) -> Sequence[str] | None:
    try:
        with runs.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), None)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{runs}: cannot be read as CSV ({error})") from None
    if not header:
        return None
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(f"{runs}, line 1: columns {', '.join(missing)} are missing")
    return header


def _cell(value: object) -> object:
    """Unknown is empty, booleans are 0 and 1, lists have commas, as in the shipped rows."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(value)
    return int(value) if isinstance(value, bool) else value


def row_of(answer: Mapping[str, Any], measured: Mapping[str, Any], model: str) -> dict[str, object]:
    """The row of a watched run: what was measured, and the configuration that it was asked for.

    answer    the predicted answer, as `planner fit --json` gives it
    measured  id, peak_device_gib, outcome, software and notes
    """
    recipe, layout, hardware = answer["recipe"], answer["layout"], answer["hardware"]
    finetune = recipe["finetune"] or {}
    row = {
        **{name: layout[name] for name in COLUMNS if name in layout},
        **{name: recipe[name] for name in COLUMNS if name in recipe},
        **hardware,
        "source": "planner watch",
        "grade": "a",
        "seen": "measured",
        "model": model,
        "finetune": finetune.get("method"),
        "lora_rank": finetune.get("rank"),
        "lora_targets": "|".join(finetune.get("targets", ())) or None,
        **measured,
    }
    return {name: row.get(name) for name in COLUMNS}
