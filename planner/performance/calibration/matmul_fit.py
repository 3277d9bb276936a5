"""Fit of matrix products: the constants of performance/matmul.py from measured shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import MatmulConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.matmul import matmul_coordinates, matmul_seconds

# Bytes of an element of A and B, and bytes that the cast of a bf16 A moves per element: amax and
# cast of a dynamic scale read A twice and write it (5), others read it once and write it (3), each
# 16 nvfp4 elements share one byte of scale.
OPERAND_BYTES = {"bf16": 2.0, "nvfp4": 0.5625}
QUANTISED_BYTES = {"bf16": 0.0, "fp8": 5.0, "nvfp4": 2.5625}
FP8_OPERAND_BYTES, FP8_QUANTISED_BYTES = 1.0, 3.0

_PARAMETERS = (
    Parameter("efficiency", 0.75, 1.0, "fraction"),
    Parameter("memory_efficiency", 0.75, 1.0, "fraction"),
    Parameter("fixed_seconds", 3e-6, 1.5),
    Parameter("ramp_k", 120.0, 1.5),
    Parameter("small_tile_penalty", 0.03, 1.5),
    Parameter("wave_rounding", 0.5, 1.5, "fraction"),
    Parameter("overlap_power", 3.0, 0.8),
    Parameter("quantise_efficiency", 0.6, 0.5),
    Parameter("clock_fall", 0.25, 1.5, "fraction"),
    Parameter("split_seconds", 3e-6, 1.0),
)
# A group with fewer points leans on the fit over all GPUs.
_LEAN_BELOW = 60
# A surface's noise, and the largest ratio that is believed to be the library's and not a hiccup.
_NOISE, _LARGEST_RATIO = 0.3, 0.4


@dataclass(frozen=True)
class MatmulPoints:
    """Measured products: each array has one value per point (rates too: GPUs may be pooled)."""

    m: Array
    n: Array
    k: Array
    seconds: Array
    product_seconds: Array  # without the cast; NaN where unknown
    peak_flops_per_second: Array
    memory_bytes_per_second: Array
    sm_count: Array

    @property
    def rows(self) -> Array:
        """All rows of A that one kernel works on."""
        return self.m

    def predicted(self, constants: MatmulConstants, quantise: bool = True) -> Array:
        """Predicted times [s]."""
        return np.asarray(
            matmul_seconds(
                self.m, self.n, self.k,
                constants=constants,
                peak_flops_per_second=self.peak_flops_per_second,
                memory_bytes_per_second=self.memory_bytes_per_second,
                sm_count=self.sm_count,
                casts=float(quantise),
            )
        )  # fmt: skip


def fit_matmul(
    points: MatmulPoints,
    *,
    dtype: str,
    tile_set: str,
    burst: bool,
    centre: MatmulConstants | None = None,
) -> MatmulConstants:
    """Constants of the closed form for one dtype; centre: the fit over all GPUs, to lean on."""
    quantised = QUANTISED_BYTES.get(dtype, FP8_QUANTISED_BYTES)
    lean = centre is not None and len(points.seconds) < _LEAN_BELOW
    parameters = [
        replace(p, expected=getattr(centre, p.name)) if lean else p
        for p in _PARAMETERS
        if (p.name != "clock_fall" or burst) and (p.name != "quantise_efficiency" or quantised)
    ]
    base = MatmulConstants(
        efficiency=1.0, memory_efficiency=1.0, fixed_seconds=0.0, ramp_k=0.0,
        small_tile_penalty=0.0, wave_rounding=0.0, overlap_power=1.0,
        operand_bytes=OPERAND_BYTES.get(dtype, FP8_OPERAND_BYTES),
        tile_set=tile_set, quantised_bytes=quantised,
    )  # fmt: skip
    products = np.isfinite(points.product_seconds)

    def log_ratio(values: Mapping[str, Any]) -> Array:
        constants = replace(base, **values)
        ratios = np.log(points.predicted(constants) / points.seconds)
        if not products.any():
            return ratios
        # The product alone: the fixed cost there is one kernel's, not that of cast and product.
        alone = replace(constants, fixed_seconds=0.0)
        product = points.predicted(alone, quantise=False)[products]
        known = points.product_seconds[products]
        long = known > 5.0 * constants.fixed_seconds
        return np.concatenate([ratios, np.where(long, np.log(product / known), 0.0)])

    values = fit(log_ratio, parameters, prior_weight=5.0 if lean else 3.0)
    return replace(base, **values)


def with_surface(constants: MatmulConstants, points: MatmulPoints) -> MatmulConstants:
    """The constants with the smoothed residuals of the measured shapes."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    coordinates = np.stack(matmul_coordinates(points.rows, points.n, points.k), axis=1)
    return replace(constants, surface=Surface(coordinates, ratios, _NOISE))
