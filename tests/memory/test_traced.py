"""Predicted against traced: one training step on one device, weights, states, saved tensors, peak.

The cases come from running the real models on fake tensors (tests/data/README.md); none of their
numbers was made by the planner. memory_small.json has narrow models, small vocabularies and a step
without an optimizer's temporaries, so that layers and not logits hold the peak.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from planner.validation.traced import case_of, predicted, predicted_saved_bytes

DATA = Path(__file__).parents[1] / "data"
VISIBLE = json.loads((DATA / "memory_visible.json").read_text(encoding="utf-8"))
SMALL = json.loads((DATA / "memory_small.json").read_text(encoding="utf-8"))


def relative(found: float, traced: float) -> float:
    return found / traced - 1


def identify(row: dict) -> str:
    return f"{row['id']}-{row['config']['model_type']}"


@pytest.mark.parametrize("row", VISIBLE, ids=identify)
def test_states_saved_tensors_and_peak(row) -> None:
    case = case_of(row)
    peak, traced = predicted(case), case.result["peak"]
    assert abs(relative(peak.allocated_bytes, case.peak_bytes)) < 0.001
    end = next(x for x in peak.rows if x.phase == "optimizer")
    assert abs(relative(end.parts["weights"], case.result["params"])) < 0.001
    assert abs(relative(end.parts["gradients"], case.result["after_backward"]["Gradient"])) < 0.001
    if states := case.result["after_backward"]["Optstate"]:
        assert abs(relative(end.parts["optimizer_states"], states)) < 0.001
    if traced_saved := case.result["saved_for_backward"]:
        assert abs(relative(predicted_saved_bytes(case), traced_saved)) < 0.001
    assert sum(peak.breakdown.values()) == pytest.approx(peak.allocated_bytes)
    assert traced["Parameter"] == case.result["params"]


@pytest.mark.parametrize("row", SMALL, ids=identify)
def test_layers_of_every_family(row) -> None:
    case = case_of(row)
    error = relative(predicted(case).allocated_bytes, case.peak_bytes)
    assert abs(error) < 0.005
    if traced_saved := case.result["saved_for_backward"]:
        assert abs(relative(predicted_saved_bytes(case), traced_saved)) < 0.005


@pytest.mark.parametrize("rows", [VISIBLE, SMALL], ids=["visible", "small"])
def test_errors_of_all_cases_and_their_table(rows, capsys) -> None:
    errors = {}
    lines = []
    for row in rows:
        case = case_of(row)
        found = predicted(case)
        errors[case.id] = relative(found.allocated_bytes, case.peak_bytes)
        lines.append(
            f"{case.id:40} {case.model.model_type:12} traced {case.peak_bytes / 2**30:8.3f} GiB, "
            f"predicted {found.allocated_bytes / 2**30:8.3f} GiB, {errors[case.id]:+.4%}, "
            f"{found.phase} {found.where}"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert median(map(abs, errors.values())) < 0.0005
