"""What a question leaves open takes its stack's own value, and the answer says so."""

from __future__ import annotations

import pytest

from planner.answers.request import Request, resolve
from planner.model.sources import load_model

LLAMA = load_model("llama-3.1-8b")


@pytest.mark.parametrize(
    ("stack", "compiled", "given", "loss"),
    [
        ("torchtitan", True, None, "fused"),
        ("torchtitan", True, "standard", "standard"),
        ("torchtitan", False, None, "standard"),
        ("fsdp2", True, None, "standard"),
    ],
)
def test_a_compiled_torchtitan_compiles_its_loss(stack, compiled, given, loss):
    request = Request(
        stack=stack, compile=compiled, cross_entropy=given, sharding="zero3", sequence_length=1024
    )
    plan = resolve(request, LLAMA, 8)
    assert plan.recipe.cross_entropy == loss
    told = any(note.startswith("cross_entropy fused") for note in plan.assumptions)
    assert told == (loss == "fused")
