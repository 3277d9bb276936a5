"""The peaks of a million layouts in one call.

A layout's axes are of two kinds. Some decide which moments there are: stages, sharding, recompute,
whether there is tensor parallelism. The others only multiply sizes. Layouts that agree in the first
kind are evaluated together, as arrays, by the same functions that serve one layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from planner.memory.peak import step_peak
from planner.model.spec import ModelSpec
from planner.numeric import Array, is_array
from planner.training.layout import Layout
from planner.training.recipe import Recipe

# Axes whose values decide which moments exist; each group of layouts has one value of each.
STRUCTURE = (
    "pipeline_parallel",
    "virtual_pipeline",
    "sharding",
    "recompute",
    "sequence_parallel",
)


def peaks(spec: ModelSpec, recipe: Recipe, layouts: Layout) -> Array:
    """Peak allocated bytes of each layout; the fields that are arrays have one value a layout.

    Without cuBLAS's workspace, as `step_peak`.
    """
    arrays = {f.name: getattr(layouts, f.name) for f in fields(layouts)}
    arrays = {name: value for name, value in arrays.items() if is_array(value)}
    if not arrays:
        return np.array([step_peak(spec, recipe, layouts).allocated_bytes], float)
    if "gradient_accumulation_steps" in arrays:
        arrays["gradient_accumulation_steps"] = _passes(layouts, arrays)
    distinct, inverse = distinct_layouts(arrays)
    out = np.empty(len(distinct))
    few = {name: np.asarray(values)[distinct] for name, values in arrays.items()}
    for members in alike(few):
        out[members] = step_peak(spec, recipe, group_of(layouts, few, members)).allocated_bytes
    result: Array = out[inverse]
    return result


def _passes(layouts: Layout, arrays: dict[str, Any]) -> Any:
    """Passes a step, no more than matter: the first accumulates, a pipeline holds so many."""
    most = 2 * np.max(layouts.pipeline_parallel) * np.max(layouts.virtual_pipeline)
    return np.minimum(arrays["gradient_accumulation_steps"], max(2, int(most)))


def distinct_layouts(arrays: dict[str, Any]) -> tuple[Any, Any]:
    """Indexes of layouts that differ in some axis, and for each layout which of them it equals."""
    columns = [np.asarray(values).astype(np.int64) for values in arrays.values()]
    radices = [int(column.max()) + 1 for column in columns]
    if math.prod(radices) < 2**62:
        _, first, inverse = np.unique(
            _mixed_radix(columns, radices), return_index=True, return_inverse=True
        )
    else:
        _, first, inverse = np.unique(
            np.stack(columns, 1), axis=0, return_index=True, return_inverse=True
        )
    return first, inverse.reshape(-1)


def _mixed_radix(columns: list[Any], radices: list[int]) -> Any:
    codes = np.zeros(len(columns[0]), np.int64)
    for column, radix in zip(columns, radices, strict=True):
        codes = codes * radix + column
    return codes


def alike(arrays: dict[str, Any]) -> Iterator[Any]:
    """Groups of layouts with the same structure, as arrays of indexes."""
    columns = [np.asarray(arrays[n]).astype(np.int64) for n in STRUCTURE if n in arrays]
    columns += [  # one rank, or several
        (np.asarray(arrays[name]) > 1).astype(np.int64)
        for name in ("tensor_parallel", "data_parallel")
        if name in arrays
    ]
    count = len(next(iter(arrays.values())))
    codes = _mixed_radix(
        columns or [np.zeros(count, np.int64)], [int(c.max()) + 1 for c in columns] or [1]
    )
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    yield from np.split(order, starts[1:])


def group_of(layouts: Layout, arrays: dict[str, Any], members: Any) -> Layout:
    """The layouts of one group: structure as numbers, the rest as float arrays."""
    changes: dict[str, Any] = {}
    for name, values in arrays.items():
        if name == "sequence_parallel":
            changes[name] = bool(values[members[0]])
        elif name in STRUCTURE:
            changes[name] = int(values[members[0]])
        else:
            changes[name] = np.asarray(values[members], float)
    return replace(layouts, **changes)
