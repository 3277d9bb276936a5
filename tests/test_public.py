"""The Python API: what is listed is there, and importing it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import planner


def test_all_is_sorted_and_is_what_is_visible():
    assert planner.__all__ == sorted(planner.__all__)
    assert planner.__all__ == dir(planner) == list(planner._PUBLIC)
    for name in planner.__all__:
        assert getattr(planner, name) is not None
    visible = {
        name
        for name, value in vars(planner).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("planner.")
    }
    assert visible == set(planner.__all__)


def test_the_version_is_the_packages():
    assert planner.__version__.startswith("0.")


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        planner.fitt  # noqa: B018 - the access is the test


def test_importing_the_package_imports_nothing_else():
    code = "import sys, planner; print([m for m in sys.modules if m.startswith('planner.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_fit_answers_as_the_command_does(run_planner):
    answer = planner.fit(
        "llama-3.2-1b", gpu="h100", gpus=2, sharding="zero3", sequence_length=2048, tokens=1e9
    )
    done = run_planner(
        *("fit", "--model", "llama-3.2-1b", "--gpu", "h100", "--gpus", "2", "--sharding", "zero3"),
        *("--seq-len", "2048", "--tokens", "1e9", "--json"),
    )
    assert planner.to_dict(answer) == json.loads(done.stdout)


def test_models_may_be_given_in_every_way(tmp_path):
    fields = {"num_hidden_layers": 2, "hidden_size": 256, "vocab_size": 1000}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **fields}))
    ways = [fields, path, str(path), planner.load_model(str(path))]
    peaks = {
        planner.fit(way, gpu="h100", gpus=1, sequence_length=512).estimate.memory.peak_bytes
        for way in ways
    }
    assert len(peaks) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpu": "h1000"}, "unknown gpu 'h1000'"),
        ({"gpu": "h100", "shardin": "zero3"}, "unknown argument 'shardin': did you mean sharding?"),
        ({"gpu": "any"}, "gpu any: names "),
        ({"gpu": "h100", "gpus": 0}, "gpus 0: expected a whole number of at least 1"),
        ({"gpu": "h100", "gpus": True}, "gpus True: expected a whole number"),
        ({"gpu": "h100", "reserve": "2 gigs"}, "reserve: got '2 gigs'"),
    ],
)
def test_wrong_arguments_are_input_errors(arguments, message):
    with pytest.raises(planner.InputError) as caught:
        planner.fit("llama-3.2-1b", **arguments)
    assert message in str(caught.value)


def test_a_scenario_may_be_answered(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {L: 2, d: 256, V: 1000}\nhardware: {gpu: rtx-4090, gpus: [1, 2]}\n", "utf-8"
    )
    answers = planner.estimate_scenario(path)
    assert [answer.estimate.layout.gpus for answer in answers] == [1, 2]
