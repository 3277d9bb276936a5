"""Rows become nouns and errors; what cannot be used is told with a reason."""

from __future__ import annotations

import json

import pytest

from planner.estimate import time_error
from planner.validation.as_json import comparison_json
from planner.validation.compare import comparison_of, ranking_of
from planner.validation.predict import METRICS, compare_run, compare_runs
from planner.validation.runs import RunFile, read_runs, shipped_runs

HEADER = (
    "id,grade,gpu,gpus,model,sequence_length,micro_batch_size,global_batch_size,precision,stack,"
    "sharding,recompute,finetune,lora_rank,lora_targets,peak_allocated_gib,step_seconds,outcome\n"
)
LORA = "own-1,a,h100-sxm-80gb,1,llama-3.1-8b,2048,1,1,bf16-pure,ddp,none,none,lora,8,{},30,1,ran\n"


def rows_of(tmp_path, *lines):
    path = tmp_path / "runs.csv"
    path.write_text(HEADER + "".join(lines))
    return read_runs(path)


def targets_of(tmp_path, words):
    from planner.validation.nouns import nouns_of

    (run,) = rows_of(tmp_path, LORA.format(words)).runs
    (nouns,) = nouns_of(run)
    return nouns.plan.recipe.finetune.targets


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ('"q,v"', ("q_proj", "v_proj")),
        ('"query,value"', ("q_proj", "v_proj")),
        ("linear_qkv", ("q_proj", "k_proj", "v_proj")),
        ('"query,key,value,projection"', ("q_proj", "k_proj", "v_proj", "o_proj")),
        ('"mlp,head"', ("gate_proj", "up_proj", "down_proj")),
        (
            "all linear",
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ),
        ("o_proj", ("o_proj",)),
    ],
)
def test_lora_targets_are_the_models_linears(tmp_path, words, targets):
    assert targets_of(tmp_path, words) == targets


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("llama-3.1-8b", "lama-3.1-8b"), "model lama-3.1-8b: "),
        (("h100-sxm-80gb", "h100-smx"), "unknown gpu 'h100-smx'"),
        ((",2048,", ",,"), "sequence_length is not known"),
        (("a,h100-sxm-80gb,1,", "a,h100-sxm-80gb,,"), "neither gpus nor data_parallel"),
        (("q_proj", "w_pack"), "lora_targets 'w_pack'"),
        (("bf16-pure", "bf16-purest"), "unknown precision 'bf16-purest'"),
        ((",none,lora", ",most,lora"), "unknown recompute 'most'"),
        (("ddp,none", "ddp,zero3"), "sharding zero3: stack ddp"),
    ],
)
def test_a_row_that_cannot_be_used_has_a_reason(tmp_path, change, reason):
    (run,) = rows_of(tmp_path, LORA.format("q_proj").replace(*change)).runs
    row = compare_run(run)
    assert row.skipped is not None
    assert row.skipped.startswith(reason)
    assert row.error == {}


def test_an_error_is_predicted_over_measured_minus_one(tmp_path):
    (run,) = rows_of(tmp_path, LORA.format("q_proj")).runs
    row = compare_run(run)
    predicted = row.predicted["peak_allocated_bytes"]
    assert row.error["peak_allocated_bytes"] == pytest.approx(predicted / (30 * 2**30) - 1)
    assert row.error["step_seconds"] == pytest.approx(row.predicted["step_seconds"] - 1)
    assert row.error["verdict"] == 0


@pytest.mark.parametrize(("outcome", "wrong"), [("ran", 1), ("oom", 0)])
def test_the_verdict_must_not_contradict_the_outcome(tmp_path, outcome, wrong):
    line = LORA.format("q_proj").replace(",2048,1,1,", ",65536,8,8,").replace("ran", outcome)
    row = compare_run(rows_of(tmp_path, line).runs[0])
    assert row.predicted["verdict"] == "does_not_fit"
    assert row.error["verdict"] == wrong


def test_a_row_may_tell_its_network_and_its_pipeline():
    """vTrain's notes have the rate of a node, bigscience's machine is known; both ran DeepSpeed's
    pipeline around Megatron's model."""
    from planner.validation.nouns import nouns_of

    rates = {}
    for run in shipped_runs().runs:
        if run.group in ("vtrain-multi", "bloompre", "korthikanti"):
            nouns = next(nouns_of(run))
            link = nouns.cluster.levels[-1].bytes_per_second_per_direction * 8
            rates.setdefault(run.group, set()).add((nouns.plan.layout.stack, link / 1e9 * 8))
    assert rates == {
        "vtrain-multi": {("megatron-deepspeed", 800)},
        "bloompre": {("megatron-deepspeed", 400)},
        "korthikanti": {("megatron", 1600)},
    }


def test_an_unknown_recompute_is_the_lightest_that_fits(tmp_path):
    line = LORA.format("q_proj").replace(",none,lora", ",,lora")
    row = compare_run(rows_of(tmp_path, line).runs[0])
    assert "recompute none: the lightest that fits" in row.assumptions
    long = line.replace(",2048,1,1,", ",32768,2,2,")
    row = compare_run(rows_of(tmp_path, long).runs[0])
    assert "recompute full: the lightest that fits" in row.assumptions


def test_a_micro_batch_that_is_not_told_follows_from_the_others(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "gpu,model,sequence_length,gpus,data_parallel,global_batch_size,"
        "gradient_accumulation_steps,stack,sharding\n"
        "h100-sxm-80gb,llama-3.1-8b,2048,8,8,64,4,fsdp2,zero3\n"
    )
    row = compare_run(read_runs(path).runs[0])
    assert any(note.startswith("micro_batch_size 2") for note in row.assumptions)


def test_a_whole_run_without_a_layout_is_assumed_one(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "gpu,model,sequence_length,tokens,gpu_hours,stack\n"
        "a100-sxm4-80gb,llama-3.1-70b,4096,1e12,1e6,megatron\n"
    )
    row = compare_run(read_runs(path).runs[0])
    assert row.assumptions[0].startswith("1024 GPUs, tensor parallel ")
    assert row.predicted["gpu_hours"] > 0
    assert row.predicted["verdict"] != "does_not_fit"


def test_a_sweep_is_one_training_in_several_layouts(tmp_path):
    """LoRA and full fine-tuning of one batch are two; the loss is the chosen layout's measured time
    over the fastest's."""

    def ranking(adapted, *times):
        lines = [
            f"own-{i},a,h100-sxm-80gb,8,llama-3.1-8b,512,{2**i},64,bf16-mixed,fsdp2,zero3,full,"
            f"{'lora,8' if i in adapted else 'full,'},,,{seconds},ran\n"
            for i, seconds in zip((0, 1, 2, 3, 0, 1), times, strict=True)
        ]
        return ranking_of(compare_runs(rows_of(tmp_path, *lines).runs))

    assert ranking((0, 1), 1, 1, 1, 1, 1, 1) == {}
    (sweeps, loss) = ranking((), 2, 2, 2, 2, 2, 2)["own"]
    assert (sweeps, loss) == (1, 0)
    (sweeps, loss) = ranking((), 4, 4, 4, 2, 4, 4)["own"]  # the largest micro-batch is chosen
    assert (sweeps, loss) == (1, 0)
    (sweeps, loss) = ranking((), 2, 2, 2, 3, 2, 2)["own"]
    assert (sweeps, loss) == (1, 0.5)


def test_json_has_every_row_and_every_metric():
    shipped = shipped_runs()
    some = RunFile(shipped.runs[::40], ((7, "bad", "gpus 'x': expected a number"),), ())
    answer = comparison_json(some, comparison_of(compare_runs(some.runs)))
    json.dumps(answer, allow_nan=False)
    assert len(answer["rows"]) == len(some.runs) + 1
    for row in answer["rows"]:
        for part in ("predicted", "measured", "error"):
            assert set(row[part]) == set(METRICS)
        assert row["skipped"] is None or row["predicted"]["verdict"] is None
    told = sum(entry["rows"] for entry in answer["skipped"])
    assert told == sum(row["skipped"] is not None for row in answer["rows"])


def test_the_times_error_is_measured():
    assert 0 < time_error("torchtitan") < 1
    assert 0 < time_error("a stack that nobody measured") < 1


def test_the_command_prints_tables_and_json(run_planner, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(HEADER + LORA.format("q_proj") + LORA.format("q_proj").replace("h100", "h1"))
    plain = run_planner("validate", "--runs", str(path))
    assert plain.returncode == 0, plain.stderr
    assert "1 of 2 rows used" in plain.stdout
    assert "unknown gpu" in plain.stdout
    answer = json.loads(run_planner("validate", "--runs", str(path), "--json").stdout)
    assert [row["id"] for row in answer["rows"]] == ["own-1", "own-1"]
    path.write_text(HEADER + LORA.format("q_proj").replace("h100", "h1"))
    for file, reason in (
        (path, "no usable row: line 2: "),
        (tmp_path / "none.csv", "no such file"),
    ):
        refused = run_planner("validate", "--runs", str(file))
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert reason in refused.stderr
