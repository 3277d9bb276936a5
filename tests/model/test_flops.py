"""FLOPs against counts that know nothing of the operations: PyTorch's counter, and loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.model.flops import attended, block_flops, model_flops, operation_flops
from planner.model.operations import Operation
from planner.model.sources import from_mapping, load_model
from planner.performance.attention_time import attention_pairs

CASES = json.loads((Path(__file__).parents[1] / "data" / "flops.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_product_that_pytorch_counts(case: dict[str, Any]) -> None:
    """To the FLOP, forward and backward, with written-out attention."""
    model = from_mapping(case["config"], name=case["name"])
    count = model_flops(model, case["sequence"], full_square=True)
    tokens = case["batch"] * case["sequence"]
    assert count.forward * tokens == case["forward"]
    assert (count.training - count.forward) * tokens == case["backward"]


def _multiply_adds(op: Operation) -> int:
    """Of one token, product by product: each output element takes as many as there are inputs."""
    total = 0
    for weight in op.weights:
        *stacked, outputs, inputs = weight.shape
        if weight.kind in ("matrix", "embedding") and not stacked:
            total += sum(inputs for _ in range(outputs))
        elif weight.kind == "expert":
            total += sum(outputs * inputs for _ in range(op.number("top_k")))
    return total


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gemma-3-27b"])
def test_products_by_their_shapes(name: str) -> None:
    blocks = {id(place.block): place.block for place in load_model(name).layers}
    found = 0
    for block in blocks.values():
        for op in block.operations:
            if op.kind in ("linear", "experts", "router"):
                found += 1
                assert op.flops_per_token == 2 * _multiply_adds(op), op.name
    assert found >= 4


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
def test_attention_by_its_heads(name: str) -> None:
    """A query and a key: a dot product over the head, and a weighted value."""
    (op,) = {
        op.name: op
        for place in load_model(name).layers
        for op in place.block.operations
        if op.kind == "attention"
    }.values()
    both = op.number("head_dim") + op.number("value_head_dim")
    assert op.flops_per_pair == 2 * op.number("heads") * both


def _pairs(sequence: int, window: int | None) -> int:
    """Query-key pairs that a causal mask and a window leave, one by one."""
    return sum(
        key <= query and (window is None or query - key < window)
        for query in range(sequence)
        for key in range(sequence)
    )


@given(st.integers(1, 60), st.integers(1, 80))
def test_pairs_within_a_window_are_all_counted(sequence: int, window: int) -> None:
    pairs = _pairs(sequence, window)
    if window < sequence:
        assert attended(sequence, window, True) * sequence == pytest.approx(pairs)
    assert attention_pairs(sequence, causal=True, window=window) == pytest.approx(pairs)


@given(st.integers(1, 60))
def test_causal_pairs_are_half_of_the_square(sequence: int) -> None:
    """As the field counts them: without the half of the diagonal that is left over."""
    pairs = _pairs(sequence, None)
    assert pairs - sequence / 2 == attended(sequence, None, True) * sequence
    assert pairs - sequence / 2 == attention_pairs(sequence, causal=True)
    assert attended(sequence, None, False) == sequence


def test_six_flops_per_parameter_and_token() -> None:
    """Kaplan et al. 2020, section 2.1: 6 N per token, N without the embedding's look-up."""
    model = load_model("llama-3.1-8b")
    matrices = sum(
        weight.elements
        for place in model.places[1:]
        for weight in place.block.weights
        if weight.kind in ("matrix", "embedding")
    )
    count = model_flops(model, 8192)
    assert 3 * count.products == 6 * matrices
    # and half of the 12 L s d of Chowdhery et al. 2022, appendix B, for causal attention
    assert 3 * count.attention == 6 * 32 * 8192 * 4096


def test_parts_of_a_block_add_up() -> None:
    block = load_model("llama-3.1-8b").layers[0].block
    whole = sum(operation_flops(op, 4096) for op in block.operations)
    assert block_flops(block, 4096).forward == whole
