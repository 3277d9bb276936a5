from __future__ import annotations

import pytest

from planner import errors


def test_each_error_has_its_exit_status():
    assert errors.InputError("x").exit_status == 2
    assert errors.MissingPartError("x").exit_status == 3
    assert errors.PlannerError("x").exit_status == 70


def test_an_error_reads_as_one_line_with_its_hint():
    assert str(errors.InputError("no such file", "did you mean a.json?")) == (
        "no such file (did you mean a.json?)"
    )


@pytest.mark.parametrize(
    ("known", "advice"),
    [
        (["h100-sxm-80gb", "a100"], "did you mean h100-sxm-80gb?"),
        (["zzz", "yyy"], "known: yyy, zzz"),
        ([f"zzz{i}" for i in range(20)], "20 are known, none is close"),
    ],
)
def test_an_unknown_name_gets_advice(known, advice):
    message = errors.unknown("gpu", "H100-SMX", known, "--gpu").message
    assert message == f"--gpu: unknown gpu 'H100-SMX': {advice}"
