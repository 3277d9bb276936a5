"""Fit of memory-bound kernels: the constants of performance/elementwise.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import MovementConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.elementwise import movement_coordinates, movement_seconds

_ALWAYS = (
    Parameter("efficiency", 0.7, 1.0),
    Parameter("fixed_seconds", 5e-6, 2.0),
    Parameter("host_share", 0.5, 3.0, "fraction"),
    Parameter("row_bytes", 100.0, 3.0),
)
_CACHE = (Parameter("cache_speedup", 2.0, 0.7), Parameter("cache_fraction", 0.6, 0.4))
# Only of one GPU: caches of several that are fitted as one turn at several places.
_EDGE = Parameter("cache_edge", 4.0, 0.7)
# Groups are small and unlike each other: their points count for more than what is expected.
_PRIOR_WEIGHT = 0.7
# Starts of kernels of the same kind are more alike than those of all kinds, by this factor.
_ALIKE = {"fixed_seconds": 0.5}
_NOISE, _LARGEST_RATIO = 0.1, 0.7


@dataclass(frozen=True)
class MovementPoints:
    """Measured kernels; each array has one value per point."""

    rows: Array
    columns: Array
    moved_bytes: Array
    seconds: Array
    memory_bytes_per_second: Array
    warm_cache_bytes: Array  # L2 where the kernel was repeated without flushing it, else 0

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
    asked = (*_ALWAYS, *(_CACHE if points.warm_cache_bytes.any() else ()))
    if centre and _CACHE[0] in asked and np.ptp(points.warm_cache_bytes) == 0.0:
        asked = (*asked, _EDGE)
    parameters = [_centred(p, centre) if centre else p for p in asked]

    def log_ratio(values: Mapping[str, Any]) -> Array:
        return np.log(points.predicted(MovementConstants(**values)) / points.seconds)

    values = fit(log_ratio, parameters, tolerance=0.05, prior_weight=_PRIOR_WEIGHT)
    return MovementConstants(**values)


def _centred(parameter: Parameter, centre: MovementConstants) -> Parameter:
    return replace(
        parameter,
        expected=getattr(centre, parameter.name),
        spread=parameter.spread * _ALIKE.get(parameter.name, 1.0),
    )


def composed(
    centre: MovementConstants,
    parts: Sequence[tuple[float, MovementConstants]],
) -> MovementConstants:
    """What to expect of a kernel that does the work of several: their times add up.

    parts: bytes that each moves, in any unit, and its constants. The start is the centre's own: it
    is the host's, which starts the parts in one go.
    """
    moved = sum(weight for weight, _ in parts)
    efficiency = moved / sum(weight / one.efficiency for weight, one in parts)
    rows = sum(one.row_bytes / one.efficiency for _, one in parts)
    return replace(centre, efficiency=efficiency, row_bytes=efficiency * rows)


def with_surface(constants: MovementConstants, points: MovementPoints) -> MovementConstants:
    """The constants with the smoothed residuals of the measured shapes."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    coordinates = np.stack(movement_coordinates(points.rows, points.columns), axis=1)
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    return replace(constants, surface=Surface(coordinates, ratios, _NOISE))
