"""Time of fused attention by shape: useful pairs, waste on the diagonal, waves, traffic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.hardware.kernel_constants import AttentionConstants
from planner.hardware.surface import correction
from planner.numeric import Array, Number

# Rows of queries that one block of threads works on, in all kernels of the measurements.
_QUERY_TILE = 128.0
# Products of the backward pass over those of the forward pass: 5 against 2.
_BACKWARD_PRODUCTS = 2.5


def attention_pairs(
    sequence: Number, *, causal: bool, window: Number | None = None, keys: Number | None = None
) -> Number:
    """Query-key pairs of one head that count [pairs]; numbers or arrays.

    S K / 2 if causal, S K if not (K = keys, S where it is not given), S W - W (W-1) / 2 with a
    causal window of W <= S.

    >>> attention_pairs(4096, causal=True), attention_pairs(4096, causal=True, window=1024)
    (8388608.0, 3670528.0)
    """
    queries = np.asarray(sequence, float)
    if window is not None:
        reach = np.minimum(np.asarray(window, float), queries)
        pairs = queries * reach - reach * (reach - 1.0) / 2.0
    else:
        pairs = queries * np.asarray(sequence if keys is None else keys, float)
        if causal:
            pairs = pairs / 2.0
    return float(pairs) if np.ndim(pairs) == 0 else pairs


def attention_seconds(
    batch: Number,
    query_heads: Number,
    kv_heads: Number,
    sequence: Number,
    *,
    head_dim: Number,
    value_head_dim: Number | None = None,
    causal: bool,
    window: Number | None = None,
    keys: Number | None = None,
    backward: bool = False,
    constants: AttentionConstants,
    peak_flops_per_second: Number,
    memory_bytes_per_second: Number,
    sm_count: Number,
    sustained: bool = False,
    launched: bool = True,
) -> Number:
    """Time of the attention core, forward or backward, without its projections [s].

    batch [sequences], heads, sequence and keys [tokens], head dimensions: numbers or arrays.
    keys: how many keys each query sees before the mask, where that is not `sequence` (context
    parallelism). peak_flops_per_second: dense, of the dtype of q and k. The constants are those of
    one kernel, pass and mask; `backward` must agree with them.

    With pairs P (attention_pairs), S' = rows rounded up to tiles of 128 and blocks
    a = batch heads S' / 128 / sm_count per multiprocessor,

        t = 2 (P S' / S + S' s0) batch heads (d + d_v) [x 2.5] / (peak e[d]) x w
            + (c_kv bytes of k and v + c_q bytes of q and out) / bw + t0

    w = a^-gamma for a < 1, else (alpha ceil(a) + (1 - alpha) a) / a; s0 = pairs that every row of a
    tile wastes on the diagonal. Kernels that do not skip what lies outside a window work out the
    share `unskipped_share` of it (fp8 backward of cuDNN 9: all). Times the residual of the measured
    neighbours.

    Source: fitted on planner/validation/data/kernels/attention.csv.gz; each row of constants
    carries its error on held-out shapes.
    Valid for: sequences of 128 to 75600 tokens, head dimensions 64 to 256.
    """
    batch, query_heads, kv_heads, rows, dim = (
        np.asarray(value, float) for value in (batch, query_heads, kv_heads, sequence, head_dim)
    )
    both_dims = dim + (dim if value_head_dim is None else np.asarray(value_head_dim, float))
    tiles = np.ceil(rows / _QUERY_TILE)
    pairs = attention_pairs(rows, causal=causal, window=window, keys=keys)
    waste = constants.wasted_pairs
    if window is not None:
        outside = attention_pairs(rows, causal=causal, keys=keys) - pairs
        pairs = pairs + constants.unskipped_share * outside
        waste = constants.wasted_pairs_window
    padded = tiles * _QUERY_TILE
    counted = pairs * (padded / rows) + padded * waste
    flops = 2.0 * counted * batch * query_heads * both_dims
    if backward:
        flops = flops * _BACKWARD_PRODUCTS
    efficiency = np.interp(dim, constants.head_dims, constants.efficiencies)
    compute = flops / (peak_flops_per_second * efficiency)
    blocks = batch * query_heads * tiles / sm_count
    key_rows = rows if keys is None else np.asarray(keys, float)
    element = constants.element_bytes * both_dims * batch
    traffic = element * (
        constants.key_value_traffic * key_rows * kv_heads
        + constants.query_traffic * rows * query_heads
    )
    busy = compute * _waves(blocks, constants) + traffic / memory_bytes_per_second
    if sustained:
        busy = busy * constants.sustained_ratio
    fixed = constants.fixed_seconds if launched else 0.0
    coordinates = attention_coordinates(
        batch, rows, query_heads, kv_heads, dim, windowed=window is not None
    )
    seconds: Number = (busy + fixed) * correction(constants.surface, coordinates)
    return float(seconds) if np.ndim(seconds) == 0 else seconds


def attention_coordinates(
    batch: Number,
    sequence: Number,
    query_heads: Number,
    kv_heads: Number,
    head_dim: Number,
    *,
    windowed: bool | NDArray[np.bool_],
) -> tuple[Number, ...]:
    """Where a shape lies on the surface of residuals: doublings per length scale."""
    return (
        np.log2(batch) / 4.0,
        np.log2(sequence) / 2.0,
        np.log2(query_heads) / 3.0,
        np.log2(kv_heads) / 4.0,
        np.log2(head_dim),
        1.5 * np.asarray(windowed, float),  # as far as two kinds of kernel are apart
    )


def _waves(blocks: Array, constants: AttentionConstants) -> Array:
    """Time over that of perfectly filled multiprocessors [1]."""
    few = np.maximum(1.0 / blocks, 1.0) ** constants.idle_exponent
    share = constants.wave_rounding
    many = share * np.ceil(blocks) / blocks + (1.0 - share)
    waves: Array = np.where(blocks < 1.0, few, many)
    return waves
