"""Fit of memory-bound kernels: the constants of performance/elementwise.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import MovementConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.elementwise import movement_coordinates, movement_seconds

_EFFICIENCY = Parameter("efficiency", 0.7, 0.5)
_FIXED = Parameter("fixed_seconds", 5e-6, 1.0)
_CACHE = (Parameter("cache_speedup", 2.0, 0.7), Parameter("cache_fraction", 0.6, 0.4))
_NOISE, _LARGEST_RATIO = 0.1, 0.7


@dataclass(frozen=True)
class MovementPoints:
    """Measured kernels; each array has one value per point."""

    rows: Array
    columns: Array
    moved_bytes: Array
    seconds: Array
    memory_bytes_per_second: Array
    warm_cache_bytes: float | None  # L2, where the kernel was repeated without flushing it

    def predicted(self, constants: MovementConstants) -> Array:
        """Predicted times [s]."""
        return np.asarray(
            movement_seconds(
                self.moved_bytes,
                constants=constants,
                memory_bytes_per_second=self.memory_bytes_per_second,
                rows=self.rows,
                columns=self.columns,
                warm_cache_bytes=self.warm_cache_bytes,
            )
        )


def fit_movement(
    points: MovementPoints, *, centre: MovementConstants | None = None
) -> MovementConstants:
    """Constants of the closed form; centre: the fit over all GPUs, to lean on."""
    asked = (_EFFICIENCY, _FIXED, *(_CACHE if points.warm_cache_bytes else ()))
    parameters = [replace(p, expected=getattr(centre, p.name)) if centre else p for p in asked]

    def log_ratio(values: Mapping[str, Any]) -> Array:
        return np.log(points.predicted(MovementConstants(**values)) / points.seconds)

    values = fit(log_ratio, parameters, tolerance=0.05, prior_weight=2.0)
    return MovementConstants(**values)


def with_surface(constants: MovementConstants, points: MovementPoints) -> MovementConstants:
    """The constants with the smoothed residuals of the measured shapes."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    coordinates = np.stack(movement_coordinates(points.rows, points.columns), axis=1)
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    return replace(constants, surface=Surface(coordinates, ratios, _NOISE))
