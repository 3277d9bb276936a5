"""Time of what memory bandwidth limits: norms, activations, casts, softmax, optimizer steps."""

from __future__ import annotations

import numpy as np

from planner.hardware.kernel_constants import MovementConstants
from planner.hardware.surface import correction
from planner.numeric import Number

# How sharply the slower of host and memory sets the pace (p).
_PACE_POWER = 4.0
_LARGEST_LOG = 700.0  # of a float


def movement_seconds(
    moved_bytes: Number,
    *,
    constants: MovementConstants,
    memory_bytes_per_second: Number,
    rows: Number | None = None,
    columns: Number | None = None,
    warm_cache_bytes: Number | None = None,
    launched: bool = True,
) -> Number:
    """Time of a memory-bound kernel from the least bytes it must move [s]; numbers or arrays.

        t = (((bytes + r rows) / (bw e))^p + (u t0)^p)^(1/p) + (1 - u) t0

    r rows (reductions, strides) and the residual of the measured neighbours count where the
    tensor's rows and columns are given. u is the host's share of the start: kernels called one by
    one wait for the host, or hide it. warm_cache_bytes: the L2 cache's size where its content is
    the kernel's own data, as in measurements that repeat one kernel, else 0; there the share
    h = 1 / (1 + (bytes / (f L2))^g) of the traffic is `cache_speedup` times as fast. In a training
    step the cache holds other data: None.

    Source: fitted on planner/validation/data/kernels/elementwise.csv.gz.
    Valid for: tensors of 64 KB and more.

    >>> from planner.hardware.kernel_constants import MovementConstants
    >>> norm = MovementConstants(efficiency=0.8, fixed_seconds=5e-6)
    >>> float(movement_seconds(3.2e9, constants=norm, memory_bytes_per_second=4e12))
    0.001005
    """
    moved = np.asarray(moved_bytes, float)
    traffic = moved if rows is None else moved + constants.row_bytes * np.asarray(rows, float)
    busy = traffic / (memory_bytes_per_second * constants.efficiency)
    if warm_cache_bytes is not None:
        room = constants.cache_fraction * np.maximum(warm_cache_bytes, 1.0)
        fill = np.maximum(moved, 1.0) / room
        # x^g as exp(g log x), kept below what a float holds
        misses_to_hits = np.exp(np.minimum(constants.cache_edge * np.log(fill), _LARGEST_LOG))
        hits = 1.0 / (1.0 + misses_to_hits)
        busy = busy * (1.0 - hits * (1.0 - 1.0 / constants.cache_speedup))
    seconds = busy
    if launched:
        host = constants.host_share * constants.fixed_seconds
        seconds = (busy**_PACE_POWER + host**_PACE_POWER) ** (1.0 / _PACE_POWER)
        seconds = seconds + constants.fixed_seconds - host
    if rows is not None and columns is not None:
        seconds = seconds * correction(constants.surface, movement_coordinates(rows, columns))
    return float(seconds) if np.ndim(seconds) == 0 else seconds


def movement_coordinates(rows: Number, columns: Number) -> tuple[Number, Number, Number]:
    """Where a tensor lies on the surface of residuals: doublings per length scale."""
    rows_at, columns_at = np.log2(rows), np.log2(columns)
    # The bytes decide (caches above all); then how they are cut into rows.
    return rows_at / 8.0, columns_at / 8.0, (rows_at + columns_at) / 2.0
