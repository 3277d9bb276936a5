"""What a pipeline schedule keeps: activations of micro-batches in flight, copies of parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory.operands import operands
from planner.memory.peak import PeakMemory, rows_of, setting_of, step_peak
from planner.memory.sizes import COLUMN
from planner.memory.stages import stages_of
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.precision import policy_of
from planner.training.recipe import Recipe

RECIPE = Recipe(4096)
BASE = Layout(
    pipeline_parallel=8,
    gradient_accumulation_steps=32,
    data_parallel=4,
    sharding=1,
    stack="megatron",
    vocabulary_multiple=128,
)


@cache
def _model() -> ModelSpec:
    return load_model("llama-3.1-8b")


def _peak(layout: Layout) -> PeakMemory:
    return step_peak(_model(), RECIPE, layout)


def _activations(layout: Layout) -> float:
    """Of the first stage, at its worst."""
    rows = [row for row in _peak(layout).rows if row.stage == "first"]
    return max(float(row.of("activations")) for row in rows)


def test_gpipe_keeps_every_micro_batch() -> None:
    few, many = (
        _activations(replace(BASE, pipeline_schedule="gpipe", gradient_accumulation_steps=m))
        for m in (8, 32)
    )
    assert _activations(BASE) == pytest.approx(few)
    assert many / few == pytest.approx(4, rel=0.05)


def test_zero_bubble_costs_its_first_stage_nothing() -> None:
    """ZB-H1's bound is 1F1B's; its later stages keep operands of as many micro-batches."""
    plain, late = _peak(BASE), _peak(replace(BASE, pipeline_schedule="zero-bubble"))
    for stage, more in (("first", 0), ("inner", 1), ("last", 7)):
        (one, two) = (
            max(float(r.of("activations")) for r in peak.rows if r.stage == stage)
            for peak in (plain, late)
        )
        # 4 layers of 3 h + f inputs, and the gradients of q, k, v, of o, gate and up, and down
        h, f, kv = 4096, 14336, 1024
        each = 4 * ((3 * h + f) + (h + 2 * kv) + h + 2 * f + h) * 4096 * 2
        assert two - one == pytest.approx(more * each)


def test_dualpipe_holds_two_stages() -> None:
    """Twice the parameters, p + 1 micro-batches in one of the two stages each (table 2)."""
    layout = replace(BASE, pipeline_schedule="dualpipe")
    rows = rows_of(
        _model(),
        setting_of(_model(), RECIPE, policy_of(RECIPE, "megatron"), layout),
        "megatron",
    )
    first, inner = stages_of(rows, layout)
    assert (first.holds_embedding, first.holds_head) == (True, True)
    assert (inner.holds_embedding, inner.holds_head) == (False, False)
    assert inner.model.layer_count == 2 * 32 / 8
    assert inner.model.layer_count * inner.in_flight == 32 / 8 * (8 + 1)
    one, two = _peak(BASE), _peak(layout)
    plain, both = (next(r for r in peak.rows if r.stage == "inner").parts for peak in (one, two))
    assert both["weights"] == pytest.approx(2 * plain["weights"])
    # twice as many ranks hold each parameter, and share its optimizer states
    assert both["optimizer_states"] == pytest.approx(plain["optimizer_states"])


@given(
    st.sampled_from(["1f1b", "zero-bubble", "gpipe"]),
    st.sampled_from([2, 4, 8, 16]),
    st.integers(1, 40),
)
def test_more_micro_batches_never_need_less(name: str, stages: int, passes: int) -> None:
    layout = replace(BASE, pipeline_schedule=name, pipeline_parallel=stages)
    one, more = (
        _peak(replace(layout, gradient_accumulation_steps=m)).allocated_bytes
        for m in (passes, passes + 1)
    )
    assert more >= one


def test_operands_of_experts_count_every_copy_of_a_token() -> None:
    model = load_model("mixtral-8x7b")
    setting = setting_of(model, RECIPE, policy_of(RECIPE, "megatron"), BASE)
    found = operands(model.layers[0].block, setting)
    # 2 experts a token: input 4096, both halves of the gate 2 x 14336, its product, output 4096
    assert found[COLUMN["tokens_expert"]] == 2 * (4096 + 2 * 14336 + 14336 + 4096) * 2
