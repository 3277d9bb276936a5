"""Times of kernels on one device, by its own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

Kernel = Callable[[], object]
# A kernel runs so often untimed, and is then timed in so many short runs; the median counts.
_WARM_UP, _RUNS = 3, 7
# One timed run lasts about this long, so that the clock's own step (0.5 us) does not count.
_RUN_SECONDS = 2e-3
# Long work: the GPU reaches its power limit within about a second.
_SUSTAINED_SECONDS = 1.0
# What is written between two runs, so that operands do not lie in the L2 cache (126 MB on B200).
_FLUSHED_BYTES = 256 * 2**20


class Timer:
    """Of one device; on "cpu" by the host's clock, which serves to try the code out."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=self.device)

    def burst(self, kernel: Kernel) -> float:
        """Seconds of one call on a cool device: the median of a few short runs."""
        for _ in range(_WARM_UP):
            kernel()
        once = self._seconds(kernel, 1)
        calls = max(1, min(50, round(_RUN_SECONDS / max(once, 1e-7))))
        return median(self._run(kernel, calls) for _ in range(_RUNS))

    def sustained(self, kernel: Kernel) -> float:
        """Seconds of one call after about a second of the same work, at the power limit."""
        once = self.burst(kernel)
        calls = max(1, round(_SUSTAINED_SECONDS / max(once, 1e-7)))
        self._seconds(kernel, calls)
        return self._seconds(kernel, calls)

    def _run(self, kernel: Kernel, calls: int) -> float:
        self._flushed.zero_()
        return self._seconds(kernel, calls)

    def _seconds(self, kernel: Kernel, calls: int) -> float:
        if self.device.type == "cpu":
            start = time.perf_counter()
            for _ in range(calls):
                kernel()
            return (time.perf_counter() - start) / calls
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        before.record()
        for _ in range(calls):
            kernel()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) * 1e-3 / calls
