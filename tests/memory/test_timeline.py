"""The timeline is the peak's own moments, every layer told: its highest is the peak."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.memory.peak import step_peak
from planner.memory.rows import CATEGORIES, GROUPS
from planner.memory.timeline import timeline_of
from planner.model.sources import from_mapping
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.recipe import Recipe
from planner.training.stacks import STACKS

MODELS = [
    from_mapping({"num_hidden_layers": 6, "hidden_size": 512, "vocab_size": 32000, **more})
    for more in (
        {},
        {"tie_word_embeddings": True, "num_hidden_layers": 1},
        {"model_type": "gemma2", "num_attention_heads": 8, "num_key_value_heads": 4},
        {
            "model_type": "qwen3_moe",
            "num_experts": 8,
            "moe_intermediate_size": 128,
            "num_experts_per_tok": 2,
            "mlp_only_layers": [0, 3],
        },
    )
]
LAYOUTS = {
    "ddp": (Sharding.none,),
    "fsdp2": (Sharding.zero2, Sharding.zero3),
    "torchtitan": (Sharding.zero3,),
    "deepspeed": (Sharding.zero1, Sharding.zero2, Sharding.zero3),
    "megatron": (Sharding.none, Sharding.zero1),
}


@st.composite
def situations(draw):
    stack = draw(st.sampled_from(sorted(LAYOUTS)))
    pipeline = draw(st.sampled_from((1, 2))) if STACKS[stack].pipeline else 1
    model = draw(st.sampled_from(MODELS))
    layout = Layout(
        data_parallel=draw(st.sampled_from((1, 2, 8))),
        pipeline_parallel=min(pipeline, len(model.layers)),
        sharding=draw(st.sampled_from(LAYOUTS[stack])),
        micro_batch_size=draw(st.sampled_from((1, 3))),
        gradient_accumulation_steps=draw(st.sampled_from((1, 4))),
        recompute=draw(st.sampled_from((Recompute.none, Recompute.full))),
        recompute_layers=draw(st.sampled_from((None, 2))),
        stack=stack,
    )
    recipe = Recipe(
        draw(st.sampled_from((128, 2048))),
        precision=draw(st.sampled_from(("bf16-pure", "fp32"))),
        attention=draw(st.sampled_from(("flash", "eager"))),
    )
    return model, recipe, layout


@given(situations())
def test_its_highest_moment_is_the_peak_and_every_layer_is_told(situation):
    model, recipe, layout = situation
    peak = step_peak(model, recipe, layout)
    found = timeline_of(model, recipe, layout, peak.stage, 0.0)
    assert found.peak.total == peak.allocated_bytes
    assert (found.peak.phase, found.peak.where) == (peak.phase, peak.where)
    layers = {m.layer for m in found.moments if m.layer is not None}
    if layout.pipeline_parallel == 1:
        assert layers == set(range(len(model.layers)))
    phases = [m.phase for m in found.moments]
    assert phases == sorted(phases, key=("forward", "backward", "optimizer").index)
    forward = [m.layer for m in found.moments if m.phase == "forward" and m.layer is not None]
    backward = [m.layer for m in found.moments if m.phase == "backward" and m.layer is not None]
    assert forward == sorted(forward)
    assert backward == sorted(backward, reverse=True)


def test_every_group_belongs_to_a_category():
    assert set(GROUPS.values()) == set(CATEGORIES) - {"framework"}


@pytest.fixture
def answer():
    return planner.fit("qwen3-8b", gpu="h100", gpus=8, sharding="zero3", sequence_length=4096)


def test_json_adds_up_and_reaches_the_allocated_peak(answer):
    memory = planner.to_dict(answer)["memory"]
    timeline = memory["timeline"]
    moments = timeline["moments"]
    assert all(sum(m["bytes"].values()) == m["allocated_bytes"] for m in moments)
    highest = max(m["allocated_bytes"] for m in moments)
    assert highest == memory["peak_allocated_bytes"]
    at_peak = moments[timeline["peak_index"]]
    assert at_peak["allocated_bytes"] == highest
    assert (at_peak["phase"], at_peak["where"]) == (memory["peak_phase"], memory["peak_where"])
    assert json.dumps(timeline)


@pytest.mark.parametrize("width", [60, 120])
def test_the_drawing_keeps_to_the_width_and_marks_the_peak(answer, width, capsys):
    from rich.console import Console

    from planner.report.timeline_view import print_timeline

    print_timeline(Console(width=width, highlight=False), answer.estimate.timeline)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.endswith("< peak") for line in lines) == 1
    bars = [line for line in lines if line.startswith(("forward", "backward", "optimizer"))]
    longest = max(bars, key=lambda line: len(line.removesuffix(" < peak")))
    assert longest.endswith("< peak")


def test_flag_and_no_colour(run_planner):
    flags = ("--model", "llama-3.2-1b", "--gpu", "h100", "--gpus", "1", "--timeline")
    done = run_planner("fit", *flags, NO_COLOR="1")
    assert done.returncode == 0
    assert "One micro-batch, allocated on one GPU" in done.stdout
    assert "\x1b" not in done.stdout
    several = run_planner("fit", *flags, "--gpu", "a100", "--json")
    assert [e["memory"]["timeline"] for e in json.loads(several.stdout)["estimates"]] == [None] * 2
