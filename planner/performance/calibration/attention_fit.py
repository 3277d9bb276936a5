"""Fit of fused attention: the constants of performance/attention_time.py from measured shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.hardware.kernel_constants import AttentionConstants
from planner.hardware.surface import Surface
from planner.numeric import Array
from planner.performance.attention_time import attention_coordinates, attention_seconds
from planner.performance.calibration.solver import Parameter, fit

_SHARED = (
    Parameter("wasted_pairs", 150.0, 1.0),
    Parameter("wasted_pairs_window", 150.0, 1.0),
    Parameter("unskipped_share", 0.002, 5.0, "fraction"),
    Parameter("idle_exponent", 0.7, 1.5, "fraction"),
    Parameter("wave_rounding", 0.27, 1.0, "fraction"),
    Parameter("fixed_seconds", 12e-6, 0.6),
    Parameter("key_value_traffic", 1.0, 1.2),
    Parameter("query_traffic", 0.3, 1.2),
)
_EFFICIENCY, _EFFICIENCY_SPREAD = 0.5, 0.4
# A group with fewer points leans on the fit over all GPUs.
_LEAN_BELOW = 40
_NOISE, _LARGEST_RATIO = 0.15, 0.4
_TOLERANCE = 0.05
# Of what is expected, where points are few and where they are many.
_PRIOR_WEIGHT_FEW, _PRIOR_WEIGHT = 1.0, 0.3


@dataclass(frozen=True)
class AttentionPoints:
    """Measured kernels of one pass and mask; each array has one value per point."""

    batch: Array
    sequence: Array
    query_heads: Array
    kv_heads: Array
    head_dim: Array
    value_head_dim: Array
    window: Array  # NaN: none
    causal: bool
    backward: bool
    seconds: Array
    peak_flops_per_second: Array
    memory_bytes_per_second: Array
    sm_count: Array

    @property
    def windowed(self) -> NDArray[np.bool_]:
        """Which points have a sliding window."""
        return np.isfinite(self.window)

    def predicted(self, constants: AttentionConstants) -> Array:
        """Predicted times [s]."""
        seconds = np.empty(len(self.seconds))
        for windowed in (False, True):
            at = self.windowed == windowed
            if at.any():
                seconds[at] = attention_seconds(
                    self.batch[at], self.query_heads[at], self.kv_heads[at], self.sequence[at],
                    head_dim=self.head_dim[at],
                    value_head_dim=self.value_head_dim[at],
                    causal=self.causal,
                    window=self.window[at] if windowed else None,
                    backward=self.backward,
                    constants=constants,
                    peak_flops_per_second=self.peak_flops_per_second[at],
                    memory_bytes_per_second=self.memory_bytes_per_second[at],
                    sm_count=self.sm_count[at],
                )  # fmt: skip
        return seconds


def fit_attention(
    points: AttentionPoints, *, element_bytes: float, centre: AttentionConstants | None = None
) -> AttentionConstants:
    """Constants of the closed form; centre: the fit over all GPUs, to lean on."""
    dims = sorted({float(dim) for dim in points.head_dim})
    if centre is not None:
        dims = sorted({*dims, *centre.head_dims})
    names = [f"efficiency {dim}" for dim in dims]
    expected = [
        float(np.interp(dim, centre.head_dims, centre.efficiencies)) if centre else _EFFICIENCY
        for dim in dims
    ]
    parameters = [
        *(Parameter(n, e, _EFFICIENCY_SPREAD) for n, e in zip(names, expected, strict=True)),
        *(replace(p, expected=getattr(centre, p.name)) if centre else p for p in _SHARED),
    ]

    def constants(values: Mapping[str, Any]) -> AttentionConstants:
        return AttentionConstants(
            head_dims=tuple(dims),
            efficiencies=tuple(values[name] for name in names),
            element_bytes=element_bytes,
            **{p.name: values[p.name] for p in _SHARED},
        )

    few = len(points.seconds) < _LEAN_BELOW
    values = fit(
        lambda found: np.log(points.predicted(constants(found)) / points.seconds),
        parameters,
        tolerance=_TOLERANCE,
        prior_weight=_PRIOR_WEIGHT_FEW if few else _PRIOR_WEIGHT,
    )
    return constants(values)


def with_surface(constants: AttentionConstants, points: AttentionPoints) -> AttentionConstants:
    """The constants with the smoothed residuals of the measured shapes."""
    ratios = np.log(points.seconds / points.predicted(replace(constants, surface=None)))
    coordinates = np.stack(
        attention_coordinates(
            points.batch, points.sequence, points.query_heads, points.kv_heads, points.head_dim,
            windowed=points.windowed,
        ),
        axis=1,
    )  # fmt: skip
    ratios = np.clip(ratios, -_LARGEST_RATIO, _LARGEST_RATIO)
    return replace(constants, surface=Surface(coordinates, ratios, _NOISE))
