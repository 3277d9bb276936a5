"""--trace: a clear refusal without PyTorch, and the same count with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = Path(__file__).parent.parent / "data" / "llama-3.1-8b" / "config.json"
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch and Transformers are installed")
def test_without_pytorch_it_says_what_is_missing(run_planner: Callable[..., Any]) -> None:
    done = run_planner("params", str(CONFIG), "--trace")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "--trace needs PyTorch and Transformers" in done.stderr


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch and Transformers")
def test_the_meta_device_has_as_many() -> None:
    from planner.model.tracing import trace

    assert trace(str(CONFIG)).total == 8_030_261_248
