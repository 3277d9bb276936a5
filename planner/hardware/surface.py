"""What a closed form leaves unexplained, smoothed between the measured points.

A kernel's closed form (performance/matmul.py and its neighbours) misses what only the library
knows: which tile it picks, where it changes the algorithm. Such misses are alike for neighbouring
shapes, so the measured log(time / closed form) is kept per measured shape and smoothed by a
Gaussian process. Far from every measured shape the correction goes to zero and the closed form
stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.numeric import Array, Number, once_each


@dataclass(frozen=True, eq=False)
class Surface:
    """Measured log(time / closed form) at points, in coordinates of one unit per length scale."""

    points: Array  # (points, coordinates), each already divided by its length scale
    log_ratios: Array  # (points,)
    noise_variance: float  # of one point, relative to the variance of the surface
    solved: Array | None = None  # the weights, where they were worked out before

    @cached_property
    def weights(self) -> Array:
        """(points,): the correction is the covariance with the points times these."""
        if self.solved is not None:
            return self.solved
        noise: Array = np.eye(len(self.points)) * self.noise_variance
        covariance = _covariance(self.points, self.points) + noise
        return np.asarray(np.linalg.solve(covariance, self.log_ratios), float)


def correction(surface: Surface | None, coordinates: Sequence[Number]) -> Number:
    """The factor on the closed form's time at `coordinates` (each a number or an array).

    1 without a surface; tends to 1 away from the measured points. The covariance of two points at
    distance d is (1 + sqrt(3) d) exp(-sqrt(3) d) (Matern 3/2: Rasmussen and Williams, Gaussian
    Processes for Machine Learning, equation 4.17).

    >>> import numpy as np
    >>> one = Surface(np.array([[0.0]]), np.array([0.1]), noise_variance=0.0)
    >>> float(round(correction(one, [0.0]), 4)), float(round(correction(one, [50.0]), 4))
    (1.1052, 1.0)
    """
    if surface is None:
        return 1.0

    def factor(*asked: Number) -> Number:
        covariance = _covariance(np.stack(asked, axis=1), surface.points)
        factors: Array = np.exp(covariance @ surface.weights)
        return factors

    # Many layouts ask for few shapes.
    factors = np.asarray(once_each(factor, *(np.asarray(value, float) for value in coordinates)))
    return float(factors) if factors.ndim == 0 else factors


def _covariance(first: Array, second: Array) -> Array:
    squared = (
        np.sum(first**2, axis=1)[:, None]
        + np.sum(second**2, axis=1)[None, :]
        - 2.0 * first @ second.T
    )
    distance = np.sqrt(3.0 * np.maximum(squared, 0.0))
    covariance: Array = (1.0 + distance) * np.exp(-distance)
    return covariance
