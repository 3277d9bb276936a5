"""A robust least-squares fit of a few parameters, with a prior for each; numpy only, deterministic.

Parameters live on the whole real line: `Parameter` says how each one is turned into its physical
range, what it is expected to be and how sure that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from planner.numeric import Array

_STEPS = 80
_STEP_OF_DERIVATIVE = 1e-4
_SMALLEST_GAIN = 1e-7


@dataclass(frozen=True)
class Parameter:
    """One constant to fit: its expected value and how many e-foldings (or logits) it may move."""

    name: str
    expected: float
    spread: float
    kind: Literal["positive", "fraction", "free"] = "positive"  # fraction: between 0 and 1

    def inner(self, value: float) -> float:
        """The value on the real line."""
        if self.kind == "positive":
            return float(np.log(value))
        if self.kind == "fraction":
            return float(np.log(value / (1.0 - value)))
        return value

    def outer(self, inner: float) -> float:
        """The physical value."""
        if self.kind == "positive":
            return float(np.exp(np.clip(inner, -60.0, 60.0)))
        if self.kind == "fraction":
            return float(1.0 / (1.0 + np.exp(-np.clip(inner, -60.0, 60.0))))
        return inner


def fit(
    log_ratio: Callable[[Mapping[str, Any]], Array],
    parameters: Sequence[Parameter],
    *,
    tolerance: float = 0.04,
    prior_weight: float = 1.5,
) -> dict[str, Any]:
    """The parameters that make log_ratio (log predicted / measured, per point) small.

    Levenberg-Marquardt on the sum of 2 c^2 (sqrt(1 + (r/c)^2) - 1), c = tolerance: quadratic for
    points within c, linear beyond, so that a few odd points do not bend the fit. The prior adds
    (prior_weight c distance / spread)^2 for each parameter: one spread off costs as much as
    prior_weight^2 points that are off by the tolerance.

    >>> x = np.arange(1.0, 100.0)
    >>> found = fit(lambda p: np.log(p["slope"] * x / (3.0 * x)), [Parameter("slope", 2.0, 2.0)])
    >>> round(found["slope"], 2)
    3.0
    """
    expected = np.array([p.inner(p.expected) for p in parameters])
    spread = np.array([p.spread for p in parameters])
    pull = prior_weight * tolerance

    def residuals(inner: Array) -> Array:
        return np.concatenate(
            [log_ratio(_named(parameters, inner)), pull * (inner - expected) / spread]
        )

    def cost(values: Array) -> float:
        scaled = np.sqrt(1.0 + (values / tolerance) ** 2) - 1.0
        return float(2.0 * tolerance**2 * scaled.sum())

    inner = expected.copy()
    values = residuals(inner)
    damping, best = 1e-2, cost(values)
    for _ in range(_STEPS):
        weights = (1.0 + (values / tolerance) ** 2) ** -0.25  # sqrt of the robust weight
        jacobian = np.stack(
            [
                (residuals(inner + step) - values) / _STEP_OF_DERIVATIVE
                for step in np.eye(len(inner)) * _STEP_OF_DERIVATIVE
            ],
            axis=1,
        )
        weighted = jacobian * weights[:, None]
        normal = weighted.T @ weighted
        slope = weighted.T @ (values * weights)
        improved = False
        while damping < 1e8 and not improved:
            damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
            step = np.linalg.solve(damped, slope)
            candidate = inner - np.clip(step, -1.0, 1.0)
            trial = residuals(candidate)
            improved = cost(trial) < best
            damping *= 0.3 if improved else 4.0
        if not improved:
            break
        gain = best - cost(trial)
        inner, values, best = candidate, trial, cost(trial)
        if gain < _SMALLEST_GAIN * best:
            break
    return _named(parameters, inner)


def _named(parameters: Sequence[Parameter], inner: Array) -> dict[str, Any]:
    return {p.name: p.outer(x) for p, x in zip(parameters, inner, strict=True)}
