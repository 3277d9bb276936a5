"""The roofline: what the GPU's peak and its memory allow, whichever is slower."""

from __future__ import annotations

import numpy as np

from planner.numeric import Number


def roofline_seconds(
    *,
    flops: Number,
    moved_bytes: Number,
    peak_flops_per_second: Number,
    memory_bytes_per_second: Number,
    compute_efficiency: Number,
    memory_efficiency: Number,
    fixed_seconds: Number = 0.0,
) -> Number:
    """Time of one kernel from its FLOPs and its bytes [s]; numbers or arrays.

        t = max(flops / (peak x compute_efficiency), bytes / (bandwidth x memory_efficiency)) + t0

    Valid for: kernels that overlap arithmetic with memory traffic perfectly. Matrix products and
    attention have better models (matmul.py, attention_time.py); this one is for what has none.

    >>> float(roofline_seconds(flops=1e12, moved_bytes=1e9, peak_flops_per_second=1e15,
    ...     memory_bytes_per_second=2e12, compute_efficiency=0.5, memory_efficiency=0.8))
    0.002
    """
    compute = flops / (peak_flops_per_second * compute_efficiency)
    memory = moved_bytes / (memory_bytes_per_second * memory_efficiency)
    seconds: Number = np.maximum(compute, memory) + fixed_seconds
    return seconds
