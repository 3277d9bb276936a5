"""Fit of dispatch and combine: the constants of performance/dispatch.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import DispatchConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.dispatch import dispatch_coordinates, dispatch_seconds

_ALWAYS = (
    Parameter("fixed_seconds", 20e-6, 1.0),
    Parameter("root_seconds", 0.1e-6, 1.5),
    Parameter("token_seconds", 1e-9, 2.0),
    Parameter("efficiency", 0.7, 0.5),
)
# Where ranks differ in number, where they are on several domains, where multiprocessors are told.
_OF_RANKS = (Parameter("seconds_per_doubling", 2e-6, 1.5),)
_OF_DOMAINS = (
    Parameter("network_efficiency", 0.9, 0.4),
    Parameter("domain_exponent", 0.1, 1.5),
)
_OF_MULTIPROCESSORS = (Parameter("sm_bytes_per_second", 12e9, 1.0),)
_TOLERANCE = 0.05
_NOISE, _LARGEST_RATIO = 0.03, 1.0


@dataclass(frozen=True)
class DispatchPoints:
    """Measured dispatches or combines; each array has one value per point."""

    tokens: Array
    hidden: Array
    top_k: Array
    experts: Array
    ranks: Array
    domains: Array
    multiprocessors: Array  # 1 where they are not told
    link_bytes_per_second: Array
    network_bytes_per_second: Array
    seconds: Array
    element_bytes: float
    once_per_rank: bool

    def predicted(self, constants: DispatchConstants) -> Array:
        """Predicted times [s]."""
        apart = ("seconds", "element_bytes", "once_per_rank")
        given = {name: value for name, value in vars(self).items() if name not in apart}
        return np.asarray(dispatch_seconds(**given, constants=constants))


def fit_dispatch(
    points: DispatchPoints, *, centre: DispatchConstants | None = None
) -> DispatchConstants:
    """Constants of the closed form; centre: the fit over all GPUs, to lean on."""
    asked = [*_ALWAYS]
    if len(set(points.ranks)) > 1:
        asked += _OF_RANKS
    if np.any(points.domains > 1):
        asked += _OF_DOMAINS
    if np.any(points.multiprocessors > 1):
        asked += _OF_MULTIPROCESSORS
    parameters = [replace(p, expected=getattr(centre, p.name)) if centre else p for p in asked]

    def constants(values: Mapping[str, Any]) -> DispatchConstants:
        return DispatchConstants(
            element_bytes=points.element_bytes, once_per_rank=points.once_per_rank, **values
        )

    def log_ratio(values: Mapping[str, Any]) -> Array:
        return np.log(points.predicted(constants(values)) / points.seconds)

    return constants(fit(log_ratio, parameters, tolerance=_TOLERANCE))


def with_surface(constants: DispatchConstants, points: DispatchPoints) -> DispatchConstants:
    """The constants with the smoothed residuals of the measured messages."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    at = dispatch_coordinates(
        points.tokens, points.hidden, points.top_k, points.experts, points.multiprocessors,
        points.ranks,
    )  # fmt: skip
    return replace(constants, surface=Surface(np.stack(at, axis=1), ratios, _NOISE))
