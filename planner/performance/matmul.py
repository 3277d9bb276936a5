"""Time of a matrix product by shape: tiles, waves, ramps, memory, quantising, falling clocks.

Symbols: C[m, n] = A[m, k] x B[k, n]; m tokens, n outputs, k inputs of a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.hardware.kernel_constants import MatmulConstants
from planner.hardware.surface import correction
from planner.numeric import Array, Number, is_array

# Output tiles (rows, columns) of the libraries: those of datacentre Blackwell, and of all others.
TILE_SETS = {
    "to 128x256": (
        (128, 256), (256, 128), (128, 128), (64, 256), (256, 64), (128, 64), (64, 128), (64, 64),
        (128, 192), (192, 128),
    ),
    "to 256x256": (
        (256, 256), (256, 128), (128, 256), (128, 128), (64, 256), (256, 64), (128, 64), (64, 128),
        (64, 64), (256, 192), (192, 256), (128, 192),
    ),
}  # fmt: skip
# How often libraries split k over more blocks when there are few output tiles.
_SPLITS = (1, 2, 4, 8, 16)
# Partial sums of a split product: written and read once in float32.
_SPLIT_BYTES = 8.0
OUTPUT_BYTES = 2.0  # bf16
# A clock that falls under load settles with this time constant (a source's burst is this short).
_CLOCK_SETTLING_SECONDS = 0.1
# Rows that kernels without special cases come in, and how far away the others' kernels are.
_ALIGNED_ROWS, _UNALIGNED_DISTANCE = 8.0, 0.4
# Products that ran back to back in one burst of the measurements: 6 replays of 7.
_BURST_PRODUCTS = 42.0


def matmul_seconds(
    m: Number,
    n: Number,
    k: Number,
    *,
    constants: MatmulConstants,
    peak_flops_per_second: Number,
    memory_bytes_per_second: Number,
    sm_count: Number,
    groups: Number = 1.0,
    sustained: bool = False,
    casts: Number = 1.0,
    output_bytes: Number = OUTPUT_BYTES,
    launched: bool = True,
) -> Number:
    """Time of C[m,n] = A[m,k] B[k,n], or of `groups` such products in one kernel [s].

    m, n, k, groups: numbers or arrays. peak_flops_per_second: dense, of the product's dtype.
    sustained: at the clock of long work (power limit) and not of a cool burst. casts: share of a
    bf16 A that is cast to the product's format here. output_bytes: moved per element of C: more
    where it is added to what stands there. launched: with the fixed cost of a
    kernel's start.

    With blocks a = groups ceil(m/tm) ceil(n/tn) splits / sm_count per multiprocessor, the waves are
    w = alpha ceil(a) + (1 - alpha) max(a, 1), and over tiles (tm, tn) and splits of k the least

        t1 = w 2 tm tn (k/splits + k0) sm_count / (peak e exp(-q log2(largest tile / (tm tn))))

    counts; with bytes of A, B and C,

        t = S((t1^p + (bytes/(bw e_b))^p)^(1/p) + cast bytes/(bw e_q)) + t0

    where S is the clock's fall within a burst, times the residual of the measured neighbours.

    Source: fitted on measured products (planner/validation/data/kernels/gemm.csv.gz); each row of
    constants carries its error on shapes that were held out: 2 to 9 % median.
    Valid for: m 1 to 32768, n and k 32 to 65536.
    """
    rates = (peak_flops_per_second, memory_bytes_per_second, sm_count)
    numbers = (m, n, k, groups, casts, output_bytes, *rates)
    if any(is_array(value) for value in numbers):
        return _seconds(
            constants,
            m,
            n,
            k,
            groups,
            casts,
            output_bytes,
            peak_flops_per_second,
            memory_bytes_per_second,
            sm_count,
            sustained,
            launched,
        )
    plain = tuple(float(value) for value in numbers)
    return _seconds_once(_Same(constants), plain, (sustained, launched))


@dataclass(frozen=True, eq=False)
class _Same:
    """Constants by identity: the key of the cache, which it keeps alive."""

    constants: MatmulConstants

    def __hash__(self) -> int:
        return id(self.constants)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.constants is self.constants


@lru_cache(maxsize=16384)
def _seconds_once(same: _Same, numbers: tuple[float, ...], switches: tuple[bool, bool]) -> float:
    """One product of numbers: the layers of a model, and the layouts of a sweep, share them."""
    m, n, k, groups, casts, output_bytes, peak, memory_rate, sm_count = numbers
    sustained, launched = switches
    return float(
        _seconds(
            same.constants,
            m,
            n,
            k,
            groups,
            casts,
            output_bytes,
            peak,
            memory_rate,
            sm_count,
            sustained,
            launched,
        )
    )


def _seconds(
    constants: MatmulConstants,
    m: Number,
    n: Number,
    k: Number,
    groups: Number,
    casts: Number,
    output_bytes: Number,
    peak_flops_per_second: Number,
    memory_bytes_per_second: Number,
    sm_count: Number,
    sustained: bool,
    launched: bool,
) -> Number:
    m, n, k, groups = (np.asarray(value, float) for value in (m, n, k, groups))
    memory_rate = np.asarray(memory_bytes_per_second, float)
    peak = np.asarray(peak_flops_per_second, float)
    best = _fastest_tile_seconds(m, n, k, groups, constants, peak, memory_rate, sm_count)
    moved = groups * (constants.operand_bytes * (m * k + n * k) + output_bytes * m * n)
    memory = moved / (memory_rate * constants.memory_efficiency)
    power = constants.overlap_power
    # The larger one is factored out: a sum of tiny powers would underflow.
    larger = np.maximum(best, memory)
    busy = larger * ((best / larger) ** power + (memory / larger) ** power) ** (1.0 / power)
    quantised = casts * constants.quantised_bytes * groups * m * k
    busy = busy + quantised / (memory_rate * constants.quantise_efficiency)
    if constants.clock_fall:
        burst = _BURST_PRODUCTS * busy
        busy = busy / (1.0 - constants.clock_fall * burst / (burst + _CLOCK_SETTLING_SECONDS))
    if sustained:
        busy = busy * constants.sustained_ratio
    fixed = constants.fixed_seconds if launched else 0.0
    factor = correction(constants.surface, matmul_coordinates(groups * m, n, k))
    seconds: Number = (busy + fixed) * factor
    return float(seconds) if np.ndim(seconds) == 0 else seconds


def matmul_coordinates(m: Number, n: Number, k: Number) -> tuple[Number, Number, Number, Number]:
    """Where a shape lies on the surface of residuals: doublings per length scale.

    The library's choices change fastest with m (1.5 doublings against 3 for n and k; chosen on
    held-out shapes, where 2 to 4 made no difference above 0.2 %). It takes other kernels where m is
    no multiple of 8, the rows of a matrix instruction: as far away as half a doubling of m.
    """
    m_at, n_at, k_at = np.log2(m) / 1.5, np.log2(n) / 3.0, np.log2(k) / 3.0
    unaligned = _UNALIGNED_DISTANCE * (np.mod(m, _ALIGNED_ROWS) != 0.0)
    return m_at, n_at, k_at, unaligned


def _fastest_tile_seconds(
    m: Array,
    n: Array,
    k: Array,
    groups: Array,
    constants: MatmulConstants,
    peak: Array,
    memory_rate: Array,
    sm_count: Number,
) -> Array:
    """The least time over the tiles and the splits of k [s]."""
    tiles_of_set = TILE_SETS[constants.tile_set]
    largest_area = max(rows * columns for rows, columns in tiles_of_set)
    share = constants.wave_rounding
    best = np.asarray(np.inf)
    for rows, columns in tiles_of_set:
        area = rows * columns
        tiles = groups * np.ceil(m / rows) * np.ceil(n / columns)
        rate = peak * constants.efficiency / sm_count
        rate = rate * np.exp(-constants.small_tile_penalty * np.log2(largest_area / area))
        for splits in _SPLITS:
            blocks = tiles * splits / sm_count
            waves = share * np.ceil(blocks) + (1.0 - share) * np.maximum(blocks, 1.0)
            seconds = waves * 2.0 * area * (k / splits + constants.ramp_k) / rate
            if splits > 1:
                partial = splits * groups * m * n * _SPLIT_BYTES
                seconds = (
                    seconds
                    + constants.split_seconds
                    + partial / (memory_rate * constants.memory_efficiency)
                )
            best = np.minimum(best, seconds)
    return best
