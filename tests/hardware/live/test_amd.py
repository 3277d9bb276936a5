"""A machine with AMD GPUs: a clear message."""

from __future__ import annotations

from planner.hardware import live_failures


def test_amd_gpus_are_told_apart_from_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(live_failures, "AMD_DEVICE", tmp_path)
    error = live_failures.failure("nvmlInit", live_failures.LIBRARY_NOT_FOUND, "")
    assert error.exit_status == 3
    assert "AMD" in str(error)
    assert "mi300x-192gb" in str(error)
