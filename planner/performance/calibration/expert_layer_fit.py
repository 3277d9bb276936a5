"""Fit of a whole layer with experts: the constants of performance/expert_layer.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import ExpertLayerConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.expert_layer import expert_layer_coordinates, expert_layer_seconds

# What rows cost and what large products cost grow alike: the efficiency of products, which rows
# cannot tell, stays near that of dense ones.
_PARAMETERS = (
    Parameter("efficiency", 0.7, 0.25, "fraction"),
    Parameter("memory_efficiency", 0.8, 1.0, "fraction"),
    Parameter("row_efficiency", 0.5, 1.0),
    Parameter("activation_efficiency", 0.6, 1.0),
    Parameter("token_efficiency", 0.6, 1.0),
    Parameter("routing_seconds", 0.3e-12, 1.5),
    Parameter("uneven_ratio", 1.05, 0.2),
    Parameter("fixed_seconds", 30e-6, 1.0),
)
_TOLERANCE = 0.08
# Up to one row in seven of a table ran a kernel that was tuned for another shape, 1.5 to 12 times
# slower than its neighbours: what is larger than this says nothing about a neighbour.
_NOISE, _LARGEST_RATIO = 0.1, 0.2


@dataclass(frozen=True)
class ExpertLayerPoints:
    """Measured layers; each array has one value per point, named as in expert_layer_seconds."""

    tokens: Array
    hidden: Array
    inner: Array
    experts: Array
    top_k: Array
    local_experts: Array
    rows: Array
    touched: Array
    branches: Array
    uneven: Array
    seconds: Array
    peak_flops_per_second: Array
    memory_bytes_per_second: Array
    sm_count: Array

    def predicted(self, constants: ExpertLayerConstants) -> Array:
        """Predicted times [s]."""
        given = {name: value for name, value in vars(self).items() if name != "seconds"}
        return np.asarray(expert_layer_seconds(**given, constants=constants))


def fit_expert_layer(
    points: ExpertLayerPoints,
    *,
    operand_bytes: float,
    tile_set: str,
    centre: ExpertLayerConstants | None = None,
) -> ExpertLayerConstants:
    """Constants of the closed form; centre: the fit over all GPUs, to lean on."""
    parameters = [
        replace(p, expected=getattr(centre, p.name)) if centre else p for p in _PARAMETERS
    ]

    def constants(values: Mapping[str, Any]) -> ExpertLayerConstants:
        return ExpertLayerConstants(operand_bytes=operand_bytes, tile_set=tile_set, **values)

    def log_ratio(values: Mapping[str, Any]) -> Array:
        return np.log(points.predicted(constants(values)) / points.seconds)

    return constants(fit(log_ratio, parameters, tolerance=_TOLERANCE))


def with_surface(
    constants: ExpertLayerConstants, points: ExpertLayerPoints
) -> ExpertLayerConstants:
    """The constants with the smoothed residuals of the measured layers."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    at = expert_layer_coordinates(
        points.tokens, points.rows, points.hidden, points.inner, points.local_experts,
        points.experts, points.top_k, points.uneven,
    )  # fmt: skip
    return replace(constants, surface=Surface(np.stack(at, axis=1), ratios, _NOISE))
