"""`planner estimate` and `planner scenario`, run as users run them."""

from __future__ import annotations

import json
import re

import pytest

from planner.resources import SCENARIOS, shipped_folder

WORKED = sorted(shipped_folder(SCENARIOS).glob("*.yaml"))
KEYS = {
    "schema_version": None,
    "name": None,
    "model": {"name", "parameters", "active_parameters"},
    "hardware": {"gpu", "gpus", "gpus_per_node"},
    "recipe": {
        *("sequence_length", "precision", "optimizer", "attention", "cross_entropy", "compile"),
        *("finetune", "tokens", "steps"),
    },
    "layout": {
        *("data_parallel", "tensor_parallel", "sequence_parallel", "pipeline_parallel"),
        *("virtual_pipeline", "context_parallel", "expert_parallel", "sharding"),
        *("micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "recompute"),
        "stack",
    },
    "verdict": None,
    "memory": {
        *("capacity_bytes", "available_bytes", "peak_bytes", "peak_allocated_bytes"),
        *("peak_reserved_bytes", "library_workspace_bytes", "uncertainty_bytes"),
        *("headroom_bytes", "peak_phase", "peak_stage", "breakdown_bytes", "evidence"),
        "not_modelled",
    },
    "limits": {"largest_micro_batch_size", "longest_sequence_length", "fewest_gpus"},
    "remedies": None,
    "time": {
        *("step_seconds", "tokens_per_second", "tokens_per_second_per_gpu"),
        *("model_tflops_per_gpu", "model_flops_utilization", "hardware_flops_utilization"),
        *("breakdown_seconds", "steps", "training_seconds", "gpu_hours", "uncertainty_fraction"),
    },
    "budget": {"cost_usd", "energy_kwh", "carbon_kg", "goodput_fraction", "calendar_days"},
    "assumptions": None,
    "warnings": None,
}


def test_three_worked_scenarios_are_shipped():
    assert len(WORKED) >= 3


@pytest.mark.parametrize("path", WORKED, ids=lambda path: path.stem)
def test_a_worked_scenario_fits_and_adds_up(run_planner, path):
    done = run_planner("estimate", path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    for name, below in KEYS.items():
        assert name in answer
        assert below is None or below <= set(answer[name]), name
    assert answer["verdict"] == "fits"
    memory, time, hardware = answer["memory"], answer["time"], answer["hardware"]
    assert sum(memory["breakdown_bytes"].values()) == memory["peak_bytes"]
    assert memory["headroom_bytes"] == memory["available_bytes"] - memory["peak_bytes"]
    assert sum(time["breakdown_seconds"].values()) == pytest.approx(time["step_seconds"])
    hours = time["training_seconds"] * hardware["gpus"] / 3600
    assert time["gpu_hours"] == pytest.approx(hours)
    layout, recipe = answer["layout"], answer["recipe"]
    per_step = layout["global_batch_size"] * recipe["sequence_length"]
    assert (recipe["steps"] - 1) * per_step < recipe["tokens"] <= recipe["steps"] * per_step
    price = float(re.search(r"usd_per_gpu_hour: ([0-9.]+)", path.read_text("utf-8"))[1])
    assert answer["budget"]["cost_usd"] == pytest.approx(hours * price)
    assert answer["budget"]["calendar_days"] == pytest.approx(time["training_seconds"] / 86400)


@pytest.mark.parametrize("path", WORKED, ids=lambda path: path.stem)
def test_the_text_names_the_scenario_and_its_verdict(run_planner, path):
    done = run_planner("estimate", path)
    assert (done.returncode, done.stderr) == (0, "")
    name = re.search(r"^name: (.*)$", path.read_text("utf-8"), re.MULTILINE)[1]
    assert done.stdout.startswith(f"{name}\nFITS  ")


def test_several_scenarios_are_a_list_of_estimates(run_planner):
    done = run_planner("estimate", *WORKED, "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {"schema_version", "estimates"}
    assert [len(one["name"]) > 0 for one in answer["estimates"]] == [True] * len(WORKED)
    text = run_planner("estimate", *WORKED)
    assert text.returncode == 0
    assert all(one["name"].split()[0] in text.stdout for one in answer["estimates"])


def test_what_does_not_fit_is_answered_with_0(run_planner, tmp_path):
    text = WORKED[0].read_text("utf-8").replace("gpus: 64", "gpus: 8")
    (tmp_path / "small.yaml").write_text(text, encoding="utf-8")
    done = run_planner("estimate", "small.yaml", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "does_not_fit"
    assert answer["limits"]["fewest_gpus"] > 8


def test_limits_that_are_broken_are_warned_of(run_planner, tmp_path):
    text = WORKED[0].read_text("utf-8") + "  deadline_days: 2\n  max_cost_usd: 1000\n"
    (tmp_path / "dear.yaml").write_text(text, encoding="utf-8")
    done = run_planner("estimate", "dear.yaml", "--json")
    assert done.returncode == 0
    first, second = json.loads(done.stdout)["warnings"]
    assert re.fullmatch(r"takes [0-9.]+ days, deadline_days is 2", first)
    assert re.fullmatch(r"costs \$[0-9,]+, max_cost_usd is \$1,000", second)
    assert done.stderr.splitlines() == [f"planner: warning: {w}" for w in (first, second)]


def test_a_budget_field_that_nothing_uses_is_said(run_planner, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(WORKED[0].read_text("utf-8") + "  region: us-east\n  pue: 1.2\n", "utf-8")
    done = run_planner("estimate", path, "--json")
    warnings = json.loads(done.stdout)["warnings"]
    assert warnings == ["region, pue: not used, energy and carbon are not estimated"]


def test_nothing_is_answered_where_one_file_is_wrong(run_planner, tmp_path):
    (tmp_path / "bad.yaml").write_text("model: llama-3.1-8b\nhardwear: {}\n", encoding="utf-8")
    done = run_planner("estimate", WORKED[0], "bad.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "planner: bad.yaml:2: unknown field 'hardwear': did you mean hardware?\n"
    )


def test_a_new_scenario_passes_its_check(run_planner, tmp_path):
    written = run_planner("scenario", "new", "--name", "x: 1", "--gpus", 16, "-o", "run.yaml")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert run_planner("scenario", "new", "--name", "x: 1", "--gpus", 16).stdout == (
        (tmp_path / "run.yaml").read_text("utf-8")
    )
    checked = run_planner("scenario", "check", "run.yaml", "--json")
    assert checked.returncode == 0
    (found,) = json.loads(checked.stdout)["scenarios"]
    assert found["path"] == "run.yaml"
    assert [(q["name"], q["gpus"]) for q in found["questions"]] == [("x: 1", 16)]
    again = run_planner("scenario", "new", "-o", "run.yaml")
    assert (again.returncode, again.stderr) == (
        2,
        "planner: run.yaml: exists already (--force replaces it)\n",
    )
    assert run_planner("scenario", "new", "-o", "run.yaml", "--force").returncode == 0


def test_the_comments_of_a_new_scenario_are_right_too(run_planner, tmp_path):
    """What the template shows commented out is read when the comment sign goes."""
    text = run_planner("scenario", "new").stdout
    (layout,) = re.findall(r"^# layout:\n(?:#   .*\n)+", text, re.MULTILINE)
    text = text.replace("layout: auto\n", "", 1).replace(
        layout, re.sub(r"^# ", "", layout, flags=re.MULTILINE)
    )
    text = re.sub(r"^  # (?=[a-z_]+: )", "  ", text, flags=re.MULTILINE)
    text = text.replace("tensor_parallel: 8", "tensor_parallel: 2")
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    checked = run_planner("scenario", "check", "all.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_schema_has_every_part(run_planner):
    definitions = json.loads(run_planner("scenario", "schema").stdout)["$defs"]
    assert set(definitions["Scenario"]["properties"]) == {
        *("name", "model", "recipe", "hardware", "layout", "stack", "budget"),
    }
    assert definitions["RecipeFields"]["additionalProperties"] is False


def test_a_shipped_scenario_is_found_by_its_name(run_planner):
    listed = json.loads(run_planner("scenario", "list", "--json").stdout)["scenarios"]
    assert [one["name"] for one in listed] == [path.stem for path in WORKED]
    by_name = run_planner("estimate", listed[1]["name"], "--json")
    by_path = run_planner("estimate", listed[1]["path"], "--json")
    assert by_name.returncode == 0
    assert by_name.stdout == by_path.stdout
