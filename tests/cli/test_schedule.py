"""--pipeline-schedule: what it changes in the answer, and what it cannot do, on one line."""

from __future__ import annotations

import json

import pytest

from planner import cli

QUESTION = (
    *("fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "64", "--stack", "megatron"),
    *("--pipeline-parallel", "8", "--gradient-accumulation", "32"),
)


def _answer(capsys, *flags):
    assert cli.main([*QUESTION, *flags, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_each_schedule_is_echoed_and_timed(capsys):
    bubbles, peaks = {}, {}
    for name in ("1f1b", "gpipe", "zero-bubble", "dualpipe"):
        answer = _answer(capsys, "--pipeline-schedule", name)
        assert answer["layout"]["pipeline_schedule"] == name
        bubbles[name] = answer["time"]["breakdown_seconds"]["bubble"]
        peaks[name] = answer["memory"]["peak_bytes"]
    assert bubbles["dualpipe"] < bubbles["zero-bubble"] < bubbles["1f1b"]
    assert bubbles["gpipe"] == bubbles["1f1b"]
    assert peaks["1f1b"] < peaks["gpipe"]
    assert peaks["1f1b"] < peaks["dualpipe"]


def test_the_default_is_told(capsys):
    assert _answer(capsys)["layout"]["pipeline_schedule"] == "1f1b"
    chunks = _answer(capsys, "--virtual-pipeline", "2")
    assert chunks["layout"]["pipeline_schedule"] == "interleaved"
    alone = _answer(capsys, "--pipeline-parallel", "1")
    assert alone["layout"]["pipeline_schedule"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pipeline-schedule", "zero-buble"), "did you mean zero-bubble"),
        (
            ("--pipeline-schedule", "gpipe", "--virtual-pipeline", "2"),
            "has one chunk a stage, virtual_pipeline is 2: expected interleaved",
        ),
        (("--pipeline-schedule", "interleaved"), "needs virtual_pipeline above 1"),
        (
            ("--pipeline-schedule", "gpipe", "--pipeline-parallel", "1"),
            "needs pipeline_parallel above 1",
        ),
        (
            ("--pipeline-schedule", "dualpipe", "--gradient-accumulation", "8"),
            "expected a gradient_accumulation of at least 16, got 8",
        ),
        (
            ("--pipeline-schedule", "dualpipe", "--gradient-accumulation", "33"),
            "expected an even pipeline_parallel and gradient_accumulation",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(capsys, flags, message):
    assert cli.main([*QUESTION, *flags]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert message in done.err
    assert len(done.err.strip().splitlines()) <= 2
