"""--cuda-graph, --moe-dispatcher, --overlap: what they change, and what they cannot be."""

from __future__ import annotations

import json

import pytest

from planner import cli

QUESTION = (
    *("fit", "--model", "qwen3-30b-a3b", "--gpu", "h100", "--gpus", "16", "--stack", "megatron"),
    *("--expert-parallel", "16", "--sharding", "zero1", "--gradient-accumulation", "16"),
)
OTHER_STACK = ("--stack", "ddp", "--sharding", "none", "--expert-parallel", "1")


def _answer(capsys, *flags):
    assert cli.main([*QUESTION, *flags, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_what_is_not_given_is_the_stacks_own(capsys):
    layout = _answer(capsys)["layout"]
    assert (layout["cuda_graph"], layout["moe_dispatcher"], layout["overlap"]) == (
        "none",
        None,
        None,
    )


def test_each_is_echoed_and_never_makes_a_step_slower(capsys):
    plain = _answer(capsys)
    for flags, field, value in (
        (("--cuda-graph", "full"), "cuda_graph", "full"),
        (("--cuda-graph", "te:attn+moe_router"), "cuda_graph", "te:attn+moe_router"),
        (("--moe-dispatcher", "hybridep"), "moe_dispatcher", "hybridep"),
        (("--overlap", "dp,ep"), "overlap", ["dp", "ep"]),
    ):
        answer = _answer(capsys, *flags)
        assert answer["layout"][field] == value
        assert answer["time"]["step_seconds"] <= plain["time"]["step_seconds"]
    none = _answer(capsys, "--overlap", "none")
    assert none["layout"]["overlap"] == ["none"]


def test_experts_are_not_divided_among_more_gpus_than_there_are(capsys):
    assert "expert_tensor_parallel" not in " ".join(_answer(capsys)["assumptions"])
    divided = _answer(capsys, "--tensor-parallel", "2")
    (note,) = [line for line in divided["assumptions"] if "expert_tensor_parallel" in line]
    assert note == "expert_tensor_parallel 1: 2 would need more GPUs in a stage"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--moe-dispatcher", "hybrid"), "did you mean hybridep"),
        (("--moe-dispatcher", "deepep", *OTHER_STACK), "stack ddp has none to choose"),
        (("--cuda-graph", "whole"), "unknown cuda_graph 'whole'"),
        (("--cuda-graph", "te:atn"), "did you mean attn"),
        (("--overlap", "dp,none"), "overlap dp,none: none stands alone"),
        (("--overlap", "db"), "unknown overlap 'db'"),
    ],
)
def test_words_that_cannot_be_are_one_line(capsys, flags, message):
    assert cli.main([*QUESTION, *flags]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert message in done.err


def test_a_scenario_says_the_same(capsys, tmp_path):
    text = json.dumps(
        {
            "model": "qwen3-30b-a3b",
            "recipe": {"sequence_length": 4096},
            "hardware": {"gpu": "h100-sxm-80gb", "gpus": 16},
            "stack": "megatron",
            "layout": {
                "expert_parallel": 16,
                "sharding": "zero1",
                "gradient_accumulation_steps": 16,
                "moe_dispatcher": "hybridep",
                "cuda_graph": "full",
                "overlap": ["dp", "ep"],
            },
        }
    )
    file = tmp_path / "scenario.yaml"
    file.write_text(text)
    assert cli.main(["estimate", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    layout = answer.get("estimates", [answer])[0]["layout"]
    assert layout["moe_dispatcher"] == "hybridep"
    assert layout["overlap"] == ["dp", "ep"]
    flags = ("--moe-dispatcher", "hybridep", "--cuda-graph", "full", "--overlap", "dp,ep")
    assert layout == _answer(capsys, *flags)["layout"]


def test_graphs_keep_memory_that_is_not_modelled(run_planner):
    asked = ("fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--tp", "8")
    plain, graphed = (
        json.loads(run_planner(*asked, *more, "--json").stdout)["memory"]["not_modelled"]
        for more in ((), ("--cuda-graph", "full"))
    )
    assert set(graphed) - set(plain) == {
        "what the private pools of CUDA graphs keep from other allocations"
    }
