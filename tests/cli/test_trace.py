"""`planner trace`: the actual model's step beside the prediction, and what cannot be traced."""

from __future__ import annotations

import importlib.util
import json

import pytest

needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "peft")),
    reason="needs PyTorch, Transformers and peft",
)
SMALL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 1000,
    "head_dim": 32,
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


@needs_torch
@pytest.mark.parametrize(
    "flags",
    [
        ("--precision", "bf16-pure", "--layers", "2"),
        ("--attention", "eager", "--precision", "fp32", "--recompute", "full"),
        ("--stack", "fsdp2", "--gpus", "4", "--gradient-accumulation", "2"),
        ("--stack", "torchtitan", "--tensor-parallel", "2", "--gpus", "8"),
        ("--finetune", "qlora", "--lora-rank", "8", "--lora-targets", "all-linear"),
    ],
    ids=" ".join,
)
def test_predicted_and_traced_agree(run_planner, config, flags):
    done = run_planner("trace", config, "--seq-len", "256", "--mbs", "2", *flags, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert abs(found["peak"]["error"]) < 0.01
    assert found["parameters"]["traced"] == found["parameters"]["predicted"] or "lora" in flags[1]
    for kind in ("predicted_bytes", "traced_bytes"):
        parts = sum(part[kind] for part in found["parts"].values())
        if (
            kind == "traced_bytes"
            or found["peak"]["predicted_phase"] == found["peak"]["traced_phase"]
        ):
            assert parts == pytest.approx(found["peak"][kind], abs=len(found["parts"]))


@needs_torch
def test_the_table_and_the_tensors_of_a_moment(run_planner, config):
    done = run_planner("trace", config, "--seq-len", "128", "--dump", "peak", "--limit", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "activations and temporaries" in done.stdout
    assert "bytes after optimizer" in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--stack", "megatron"), "stack megatron: the tracer runs ddp, fsdp2, torchtitan"),
        (("--stack", "fsdp2", "--tp", "2"), "tensor_parallel 2"),
        (("--precision", "bf16-mixed"), "precision bf16-mixed"),
        (("--finetune", "qlora", "--precision", "bf16-pure"), "precision bf16-pure"),
        (("--optimizer", "lion"), "optimizer lion: the tracer runs adamw"),
        (("--recompute", "selective"), "recompute selective: expected none or full"),
        (("--recompute", "full:2"), "recompute full:2: expected none or full"),
        (("--limit", "-3"), "-3 is not in the range"),
        (("--json", "--dump", "peak"), "--dump lists as text: expected it without --json"),
        (("--stack", "fsdp2", "--finetune", "lora"), "finetune lora"),
        (("--stack", "fsdp2", "--sharding", "zero1"), "sharding zero1"),
        (("--layers", "9"), "layers 9: expected at most 4"),
    ],
)
def test_what_the_tracer_cannot_run_is_one_error(run_planner, config, flags, told):
    done = run_planner("trace", config, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_error_names_it(run_planner, config, tmp_path):
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "torch.py").write_text("raise ImportError('No module named torch')")
    done = run_planner("trace", config, PYTHONPATH=str(missing))
    assert (done.returncode, done.stdout) == (3, "")
    assert "llm-training-planner[torch]" in done.stderr
