"""Fit of collectives: the constants of performance/collectives.py from measured messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import CollectiveConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.calibration.solver import Parameter, fit
from planner.performance.collectives import (
    Operation,
    collective_seconds,
    domain_coordinates,
    network_coordinates,
)

_DOMAIN = (
    Parameter("fixed_seconds", 10e-6, 0.7),
    Parameter("seconds_per_doubling", 2e-6, 1.5),
    Parameter("root_seconds", 0.15e-6, 1.5),
    Parameter("efficiency", 0.8, 0.4),
    Parameter("rank_exponent", 0.03, 1.5),
)
_NETWORK = (
    Parameter("fixed_seconds", 40e-6, 0.7),
    Parameter("seconds_per_doubling", 15e-6, 1.0),
    Parameter("root_seconds", 1e-6, 1.5),
    Parameter("efficiency", 0.9, 0.3),
    Parameter("rank_exponent", 0.005, 1.0),
)
_NOISE, _LARGEST_RATIO = 0.03, 1.5


@dataclass(frozen=True)
class CollectivePoints:
    """Measured messages of one operation; each array has one value per point."""

    operation: Operation
    message_bytes: Array
    ranks: Array
    domains: Array
    link_bytes_per_second: Array
    network_bytes_per_second: Array
    seconds: Array

    @property
    def ranks_per_domain(self) -> Array:
        """Ranks that share a domain."""
        return self.ranks / self.domains

    def predicted(self, local: CollectiveConstants, remote: CollectiveConstants) -> Array:
        """Predicted times [s]."""
        return np.asarray(
            collective_seconds(
                self.operation,
                self.message_bytes,
                self.ranks,
                ranks_per_domain=self.ranks_per_domain,
                link_bytes_per_second=self.link_bytes_per_second,
                network_bytes_per_second=self.network_bytes_per_second,
                constants={self.operation: local, f"network/{self.operation}": remote},
            )
        )


def fit_domain(
    points: CollectivePoints, *, centre: CollectiveConstants | None = None
) -> CollectiveConstants:
    """Constants inside a domain; centre: the fit over all GPUs, to lean on."""

    def log_ratio(values: Mapping[str, Any]) -> Array:
        constants = CollectiveConstants(**values)
        return np.log(points.predicted(constants, constants) / points.seconds)

    return CollectiveConstants(**fit(log_ratio, _centred(_DOMAIN, centre), tolerance=0.08))


def fit_network(
    points: CollectivePoints,
    local: CollectiveConstants,
    *,
    centre: CollectiveConstants | None = None,
) -> CollectiveConstants:
    """Constants between domains, given those inside."""

    def log_ratio(values: Mapping[str, Any]) -> Array:
        predicted = points.predicted(local, CollectiveConstants(**values))
        return np.log(predicted / points.seconds)

    return CollectiveConstants(**fit(log_ratio, _centred(_NETWORK, centre), tolerance=0.1))


def with_domain_surface(
    constants: CollectiveConstants, points: CollectivePoints
) -> CollectiveConstants:
    """The constants with the smoothed residuals of the measured messages inside a domain."""
    plain = replace(constants, surface=None)
    at = np.stack(domain_coordinates(points.message_bytes, points.ranks), axis=1)
    return replace(constants, surface=_surface(points, points.predicted(plain, plain), at))


def with_network_surface(
    constants: CollectiveConstants, points: CollectivePoints, local: CollectiveConstants
) -> CollectiveConstants:
    """The constants with the smoothed residuals of the measured messages between domains."""
    predicted = points.predicted(local, replace(constants, surface=None))
    at = network_coordinates(points.message_bytes, points.ranks_per_domain, points.domains)
    return replace(constants, surface=_surface(points, predicted, np.stack(at, axis=1)))


def _centred(
    parameters: tuple[Parameter, ...], centre: CollectiveConstants | None
) -> list[Parameter]:
    return [replace(p, expected=getattr(centre, p.name)) if centre else p for p in parameters]


def _surface(points: CollectivePoints, predicted: Array, coordinates: Array) -> Surface:
    ratios = np.log(points.seconds / predicted)
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    return Surface(coordinates, ratios, _NOISE)
