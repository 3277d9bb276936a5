"""A million layouts as a few open meshes: every formula runs on few points and is spread out.

A layout's axes are of two kinds. Some decide which formulas there are: a group of layouts has one
value of each, as a number. The others only change sizes: each gets a dimension of its own, so that
a term is worked out for the values of those axes alone that it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.numeric import Array, Index, Number, distinct, distinct_rows, is_array
from planner.training.layout import Layout

# A mesh of more points than this times the layouts that it serves is not worth it: then the
# distinct layouts are worked out one beside the other, so many at once (what stays in cache).
MOST_POINTS_PER_LAYOUT = 4
ROWS_AT_ONCE = 2**16

Columns = dict[str, NDArray[Any]]


def of_each(
    layouts: Layout, structure: Sequence[str], function: Callable[[Layout], Number]
) -> Array:
    """function of each layout; the fields that are arrays have one value a layout.

    structure: the fields that `function` takes as numbers only. In one call of it either all
    layouts have tensor parallelism or none has: that decides which kernels run.
    """
    columns = {f.name: getattr(layouts, f.name) for f in fields(layouts)}
    columns = {name: column for name, column in columns.items() if is_array(column)}
    if not columns:
        return np.atleast_1d(np.asarray(function(layouts), float))
    result = np.empty(len(next(iter(columns.values()))))
    decisive = [name for name in structure if name in columns]
    sizes = [name for name in columns if name not in decisive]
    for members in _alike(columns, decisive):
        own: dict[str, Any] = {name: _number(columns[name][members[0]]) for name in decisive}
        group = replace(layouts, **own)
        result[members] = _on_mesh(group, {n: columns[n][members] for n in sizes}, function)
    return result


def _number(value: Any) -> int | bool:
    return bool(value) if value.dtype == np.bool_ else int(value)


def _alike(columns: Columns, decisive: Sequence[str]) -> Iterator[Index]:
    """Indexes of layouts that agree in the decisive fields."""
    deciding: list[NDArray[Any]] = [columns[name] for name in decisive]
    if "tensor_parallel" in columns:
        deciding.append(columns["tensor_parallel"] > 1)
    if not deciding:
        yield np.arange(len(next(iter(columns.values()))))
        return
    first, which = distinct_rows(deciding)
    # numpy sorts 16-bit integers by their digits, ten times as fast as wider ones
    narrow = which.astype(np.uint16) if len(first) < 2**16 else which
    order = np.argsort(narrow, kind="stable")
    yield from np.split(order, np.cumsum(np.bincount(which))[:-1])


def _on_mesh(layout: Layout, columns: Columns, function: Callable[[Layout], Number]) -> Number:
    """function of layouts that differ in these columns alone."""
    if not columns:
        return function(layout)
    axes = {name: distinct(column) for name, column in columns.items()}
    shape = tuple(len(values) for values, _ in axes.values())
    count = len(next(iter(columns.values())))
    if np.prod(shape, dtype=float) > MOST_POINTS_PER_LAYOUT * count:
        return _in_rows(layout, columns, function)
    place = np.zeros(count, np.intp)
    open_mesh: dict[str, Any] = {}
    for dimension, (name, (values, code)) in enumerate(axes.items()):
        own = [1] * len(shape)
        own[dimension] = -1
        open_mesh[name] = values.astype(float).reshape(own)
        place = place * shape[dimension] + code
    values = np.broadcast_to(function(replace(layout, **open_mesh)), shape)
    spread: Array = np.asarray(values, float).reshape(-1)[place]
    return spread


def _in_rows(layout: Layout, columns: Columns, function: Callable[[Layout], Number]) -> Array:
    """The same for layouts too scattered for a mesh: each distinct one once."""
    first, which = distinct_rows(list(columns.values()))
    results = np.empty(len(first))
    for start in range(0, len(first), ROWS_AT_ONCE):
        some = first[start : start + ROWS_AT_ONCE]
        rows: dict[str, Any] = {
            name: column[some].astype(float) for name, column in columns.items()
        }
        results[start : start + ROWS_AT_ONCE] = function(replace(layout, **rows))
    return results[which]
