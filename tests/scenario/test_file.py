"""Scenario files are read strictly: each mistake is one error with file, line, field and advice."""

from __future__ import annotations

import pytest

from planner.answers.scenarios import questions_of
from planner.errors import InputError
from planner.scenario.file import read_scenario

GOOD = """\
name: a run
model: llama-3.1-8b
recipe:
  tokens: 1.0e12
  sequence_length: 8192
  global_batch_size: 512
  precision: bf16-mixed
  optimizer: adamw
  finetune: full
hardware:
  gpu: h100-sxm-80gb
  gpus: 32
  gpus_per_node: 8
layout:
  tensor_parallel: 2
  micro_batch_size: 1
  sharding: zero3
stack: fsdp2
budget:
  usd_per_gpu_hour: 2.50
"""


@pytest.fixture
def asked(tmp_path):
    """The questions of the good scenario with pieces of its text replaced."""

    def ask(*replacements):
        text = GOOD
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return questions_of(read_scenario(path))

    return ask


def test_every_field_reaches_its_place(asked):
    (question,) = asked()
    request, target = question.request, question.target
    assert (question.name, question.model.name) == ("a run", "llama-3.1-8b")
    assert (request.gpus, request.gpus_per_node, target.gpu.id) == (32, 8, "h100-sxm-80gb")
    assert (request.tokens, request.sequence_length, request.global_batch_size) == (1e12, 8192, 512)
    assert (request.precision, request.optimizer, request.stack) == ("bf16-mixed", "adamw", "fsdp2")
    assert (request.tensor_parallel, request.micro_batch_size, request.sharding) == (2, 1, "zero3")
    assert target.usd_per_gpu_hour == 2.5
    assert question.free == {"recompute"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("budget:", "colour: red\nbudget:", ":19: unknown field 'colour': "),
        ("  sharding:", "  shardign:", ":17: layout: unknown field 'shardign': did you mean shard"),
        (
            "  optimizer:",
            "  deadline_days:",
            "field 'deadline_days' is misplaced: it belongs at bud",
        ),
        ("  gpus: 32", "  gpus: 32\n  gpus: 64", ":13: duplicate key 'gpus', first on line 12"),
        ("gpus: 32", "gpus: '32'", ":12: hardware.gpus: got '32', expected a whole number"),
        ("gpus: 32", "gpus: true", ":12: hardware.gpus: got true, expected a whole number"),
        ("gpus: 32", "gpus: 0", ":12: hardware.gpus: got 0, expected a whole number of at least 1"),
        ("gpus: 32", "gpus: -8", ":12: hardware.gpus: got -8, expected"),
        ("gpus: 32", "gpus: 31", ":12: hardware.gpus: 31: not divisible by tensor x pipeline"),
        ("gpus: 32", "gpus: []", ":12: hardware.gpus: an empty list"),
        ("gpus: 32", "gpus: 1.5", ":12: hardware.gpus: got 1.5, expected"),
        ("gpus: 32", "gpus: .inf", ":12: got .inf, expected a finite number"),
        (
            "h100-sxm-80gb",
            "h100-smx",
            ":11: hardware.gpu: unknown gpu 'h100-smx': did you mean h100-",
        ),
        ("h100-sxm-80gb", "mine.yaml", ":11: hardware.gpu: "),
        ("  gpu: h100-sxm-80gb\n", "", ":10: hardware: missing field 'gpu'"),
        (
            "model: llama-3.1-8b",
            "model: lama-3.1-8b",
            ":2: model: unknown model 'lama-3.1-8b': did",
        ),
        ("model: llama-3.1-8b\n", "", "missing field 'model'"),
        (
            "model: llama-3.1-8b",
            "model: {L: 2, d: 100, n_q: 3}",
            "expected a divisor of hidden_size",
        ),
        (
            "model: llama-3.1-8b",
            "model: {L: two}",
            "num_hidden_layers = 'two': expected a whole num",
        ),
        ("model: llama-3.1-8b", "model: none.json", "none.json: no such file"),
        (
            "optimizer: adamw",
            "optimizer: adamx",
            ":8: recipe.optimizer: unknown optimizer 'adamx': d",
        ),
        (
            "bf16-mixed",
            "bf16-mxied",
            ":7: recipe.precision: unknown precision 'bf16-mxied': did you",
        ),
        ("bf16-mixed", "bf16-autocast", ":7: recipe.precision: "),
        ("zero3", "zero1", ":17: layout.sharding: zero1: stack fsdp2 can do only none, zero2"),
        ("tensor_parallel: 2", "tensor_parallel: 3", ":12: hardware.gpus: 32: not divisible"),
        (
            "batch_size: 512",
            "batch_size: 100",
            ":6: recipe.global_batch_size: 100: not divisible by",
        ),
        ("tokens: 1.0e12", "tokens: 0", ":4: recipe.tokens: got 0, expected a number above 0"),
        ("tokens: 1.0e12", "tokens: on", ":4: recipe.tokens: got 'on', expected a number"),
        (
            "tokens: 1.0e12",
            "tokens: 1e12\n  steps: 5",
            ":5: recipe.steps: tokens and steps: give one",
        ),
        (
            "finetune: full",
            "finetune: {rank: 8}",
            ":9: recipe.finetune.rank: only with finetune lora",
        ),
        (
            "finetune: full",
            "finetune: {method: lora, targets: [q_prok]}",
            ":9: recipe.finetune.target",
        ),
        (
            "finetune: full",
            "finetune: lroa",
            "got 'lroa', expected a mapping or one of full, lora, qlora",
        ),
        ("stack: fsdp2", "stack: fsdp3", ":18: stack: unknown stack 'fsdp3': did you mean fsdp"),
        ("micro_batch_size: 1", "data_parallel: 4", ":16: layout.data_parallel: 4: with tensor"),
        (
            "micro_batch_size: 1",
            "global_batch_size: 5",
            ":16: layout.global_batch_size: 5 contradict",
        ),
        (
            "micro_batch_size: 1",
            "pipeline_parallel: 2",
            ":16: layout.pipeline_parallel: 2: stack fsd",
        ),
        (
            "hour: 2.50",
            "hour: -2",
            ":20: budget.usd_per_gpu_hour: got -2, expected a number of at lea",
        ),
        ("hour: 2.50", "hour: 1\n  pue: 0.9", ":21: budget.pue: got 0.9, expected"),
        (
            "  gpus_per_node: 8",
            "  reserve: 2 gigs",
            ":13: hardware.reserve: got '2 gigs', unknown unit",
        ),
        ("  gpus_per_node: 8", "  node: dgx-b200", ":13: hardware.node: dgx-b200 holds b200-sxm"),
        ("name: a run", "name: !!python/object:os.system x", ":1: tag "),
        ("name: a run", "name: [a]", ":1: name: got a list, expected text or null"),
    ],
)
def test_a_mistake_is_one_error_that_names_its_place(asked, old, new, message):
    with pytest.raises(InputError) as caught:
        asked((old, new))
    told = str(caught.value)
    assert "run.yaml" in told or "none.json" in told
    assert message in told
    assert "\n" not in told


def test_gpus_may_be_several_and_several_gpus_may_be_named(asked):
    questions = asked(("gpus: 32", "gpus: [32, 64]"), ("gpu: h100-sxm-80gb", "gpu: [h100, a100]"))
    assert [q.name for q in questions] == [
        "a run on h100-sxm-80gb x 32",
        "a run on h100-sxm-80gb x 64",
        "a run on a100-sxm4-80gb x 32",
        "a run on a100-sxm4-80gb x 64",
    ]


def test_a_model_may_be_a_file_beside_the_scenario_or_its_fields(asked, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    for name in ("mine", "mine/config.json"):
        (question,) = asked(("model: llama-3.1-8b", f"model: {name}"))
        assert (question.model.name, len(question.model.layers)) == ("mine", 3)
    fields = "{L: 4, d: 64, d_ff: 128, n_q: 4, n_kv: 2, V: 100}"
    (question,) = asked(("model: llama-3.1-8b", f"model: {fields}"))
    assert (question.model.hidden_size, len(question.model.layers)) == (64, 4)


def test_a_node_type_stands_for_its_gpu(asked):
    (question,) = asked(("gpu: h100-sxm-80gb", "node: dgx-h100"))
    assert question.target.gpu.id == "h100-sxm-80gb"
    assert question.target.cluster(32).node == "dgx-h100"


def test_data_parallel_settles_what_is_left_out(asked):
    (question,) = asked(("  tensor_parallel: 2\n", "  data_parallel: 8\n"))
    assert question.request.tensor_parallel == 4
    (question,) = asked(("  gpus: 32\n", ""), ("micro_batch_size: 1", "data_parallel: 8"))
    assert question.request.gpus == 16
