"""`planner compare`: things of one kind side by side."""

from __future__ import annotations

import json

import pytest

from planner import cli
from planner.resources import SCENARIOS, shipped_folder

WORKED = [str(path) for path in sorted(shipped_folder(SCENARIOS).glob("*.yaml"))]
MODELS = ("llama-3.2-1b", "qwen3-0.6b")


def answer(capsys, *arguments):
    status = cli.main(["compare", *arguments, "--json"])
    out, _ = capsys.readouterr()
    assert status == 0
    return json.loads(out)


def test_models_by_what_they_are(capsys):
    found = answer(capsys, *MODELS, "mamba-2.8b", "--seq-len", "1k")
    assert found["sequence_length"] == 1024
    llama, _, mamba = found["models"]
    assert (llama["model"], llama["parameters"]) == ("llama-3.2-1b", 1_235_814_400)
    assert llama["weights_bytes"] == 4 * llama["parameters"]
    # 2 x 16 layers x 8 heads x 64 x 2 bytes for each of 1,024 positions
    assert llama["kv_cache_bytes"] == 2 * 16 * 8 * 64 * 2 * 1024
    assert mamba["kv_cache_bytes"] == 0


def test_gpus_and_models_in_the_order_of_their_names(capsys):
    found = answer(capsys, "t4", "h100", "--model", MODELS[0], "--gpus", "1")
    assert [one["hardware"]["gpu"] for one in found["estimates"]] == ["t4", "h100-sxm-80gb"]
    rented = "gcp-a3-highgpu-8g"
    assert cli.main(["compare", "h100", rented, "--model", MODELS[0], "--gpus", "1"]) == 0
    named = [line.split()[1] for line in capsys.readouterr().out.splitlines() if MODELS[0] in line]
    assert named == ["h100-sxm-80gb", rented]
    found = answer(capsys, *MODELS, "--gpu", "h100", "--gpus", "1")
    assert [one["model"]["name"] for one in found["estimates"]] == list(MODELS)


def test_scenarios_are_answered_as_estimate_does(capsys):
    found = answer(capsys, *WORKED)
    assert cli.main(["estimate", *WORKED, "--json"]) == 0
    assert found == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["h100"], "expected at least two things"),
        (["h100", "llama-3.2-1b"], "h100 is a GPU, llama-3.2-1b is a model: expected things of"),
        (["h100", "lama-3.2-1b"], "'lama-3.2-1b' is no scenario file, GPU or model: did you mean"),
        (["h100", "a100"], "--model is missing"),
        (["h100", "a100", "--gpu", "t4", "--model", "llama-3.2-1b"], "GPUs are named already"),
        ([*MODELS, "--tp", "2"], "without --gpu --tensor-parallel would change nothing"),
        ([*WORKED, "--gpus", "4"], "--gpus would change nothing"),
        ([*WORKED, "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_what_cannot_be_compared_is_one_line(capsys, arguments, message):
    assert cli.main(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
