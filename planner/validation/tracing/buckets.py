"""DDP's reducer: flat buckets that live through the step."""

from __future__ import annotations

from typing import Any

import torch

from planner.validation.tracing.tracker import StorageTracker

# PyTorch 2.13, DistributedDataParallel: bucket_cap_mb, and dist._DEFAULT_FIRST_BUCKET_BYTES.
BUCKET_BYTES = 25 * 2**20
FIRST_BUCKET_BYTES = 2**20


class Buckets:
    """DDP's reducer: flat buckets that live always; gradients are copied, or are views."""

    def __init__(self, parameters: list[Any], views: bool, tracker: StorageTracker) -> None:
        self.on = True
        self._tracker, self._views = tracker, views
        self._place: dict[Any, Any] = {}
        for bucket in self._divide(parameters):
            size = sum(p.numel() for p in bucket)
            with tracker.labelled("Bucket"):
                flat = torch.zeros(size, dtype=bucket[0].dtype)
            tracker.hold(flat, "Bucket", "bucket")
            for parameter, part in zip(
                bucket, flat.split([p.numel() for p in bucket]), strict=True
            ):
                self._place[parameter] = part.view(parameter.shape)
                parameter.register_post_accumulate_grad_hook(self._ready)

    @staticmethod
    def _divide(parameters: list[Any]) -> list[list[Any]]:
        buckets: list[list[Any]] = [[]]
        held, limit = 0, FIRST_BUCKET_BYTES
        for parameter in reversed(parameters):
            buckets[-1].append(parameter)
            held += parameter.numel() * parameter.element_size()
            if held >= limit:
                buckets.append([])
                held, limit = 0, BUCKET_BYTES
        return [bucket for bucket in buckets if bucket]

    def _ready(self, parameter: Any) -> None:
        self._tracker.relabel(parameter.grad, "Gradient")
        if not self.on:
            return
        place = self._place[parameter]
        with torch.no_grad():
            place.copy_(parameter.grad)
        if self._views:
            parameter.grad = place
            self._tracker.relabel(place, "Bucket")
