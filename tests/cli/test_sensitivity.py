"""`planner sensitivity`, run as users run it."""

from __future__ import annotations

import json

ROW_KEYS = [
    *("field", "factor", "parameters_ratio", "weights_memory_ratio", "optimizer_memory_ratio"),
    *("activation_memory_ratio", "flops_per_token_ratio", "kv_cache_ratio", "step_time_ratio"),
    *("local_exponent", "reason"),
]


def test_json_has_three_rows_a_field(run_planner):
    done = run_planner("sensitivity", "llama-3-8b", "--sequence-length", "8k", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["model"]) == (1, "llama-3-8b")
    assert answer["sequence_length"] == 8192
    assert len(answer["rows"]) == 27
    for row in answer["rows"]:
        assert list(row) == ROW_KEYS
        assert row["step_time_ratio"] is None
        assert (row["reason"] is None) == (row["parameters_ratio"] is not None)


def test_a_gpu_adds_the_time(run_planner):
    done = run_planner("sensitivity", "llama-3.2-1b", "--gpu", "h100", "--json")
    rows = {(r["field"], r["factor"]): r for r in json.loads(done.stdout)["rows"]}
    assert 1.5 < rows[("num_hidden_layers", 2.0)]["step_time_ratio"] < 2
    assert rows[("vocab_size", 0.5)]["step_time_ratio"] < 1
    assert rows[("micro_batch_size", 0.5)]["step_time_ratio"] is None


def test_the_text_gives_the_closed_form_in_the_models_own_numbers(run_planner):
    text = run_planner("sensitivity", "llama-3-8b").stdout
    assert "N = 218,112,000 L + 1,050,677,248; exponent 0.8692" in text
    assert "made by 176,160,768 L (feed forward)" in text
    assert "vocab_size, V = 128,256: N = 8,192 V + 6,979,588,096" in text


def test_bad_input_is_one_line(run_planner):
    for arguments, message in (
        (["llama-3-9b"], "unknown model 'llama-3-9b': did you mean"),
        (["llama-3-8b", "--gpu", "h1000"], "unknown gpu 'h1000'"),
        (["llama-3-8b", "--sequence-length", "0"], "sequence_length 0: expected"),
        (["llama-3-8b", "--mbs", "0"], "Invalid value for"),
    ):
        done = run_planner("sensitivity", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
