"""A whole run: steps, evaluations, checkpoints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import cli
from planner.memory.checkpoint import checkpoint_bytes
from planner.memory.peak import rows_of, setting_of
from planner.model.parameters import count_parameters
from planner.model.sources import load_model
from planner.performance.run import RunEstimate, run_of
from planner.training.layout import Layout
from planner.training.precision import policy_of
from planner.training.recipe import Finetune, Pauses, Recipe
from planner.training.stacks import stack


def _run(pauses: Pauses, *, steps: float | None = 1000, step: float = 2.0) -> RunEstimate:
    return run_of(
        step_seconds=step,
        evaluation_step_seconds=step / 3,
        tokens_per_step=1e6,
        gpus=8,
        model_flops_per_token=6e9,
        full_square_flops_per_token=7e9,
        hardware_flops_per_token=8e9,
        peak_flops_per_second=1e15,
        tokens=None,
        steps=steps,
        pauses=pauses,
        checkpoint_bytes=14e9,
    )


def test_pauses_lengthen_the_run() -> None:
    run = _run(
        Pauses(
            evaluation_every_steps=100,
            evaluation_steps=6,
            checkpoint_every_steps=250,
            storage_bytes_per_second=1e9,
        )
    )
    assert run.evaluation_seconds == pytest.approx(10 * 6 * 2 / 3)
    assert run.checkpoint_seconds == pytest.approx(4 * 14)
    assert run.training_seconds == pytest.approx(2000 + 40 + 56)
    assert run.gpu_hours == pytest.approx((2000 + 40 + 56) * 8 / 3600)
    # the rate is that of training
    assert run.tokens_per_second == pytest.approx(1e6 / 2)


def test_no_pauses_no_seconds() -> None:
    run = _run(Pauses())
    assert (run.evaluation_seconds, run.checkpoint_seconds) == (None, None)
    assert run.training_seconds == pytest.approx(2000)
    unknown = _run(Pauses(evaluation_every_steps=10, evaluation_steps=1), steps=None)
    assert (unknown.evaluation_seconds, unknown.training_seconds) == (None, None)


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 100))
def test_pausing_more_often_never_makes_a_shorter_run(steps: int, every: int, batches: int) -> None:
    def seconds(often: int) -> float:
        run = _run(Pauses(evaluation_every_steps=often, evaluation_steps=batches), steps=steps)
        assert run.training_seconds is not None
        return float(run.training_seconds)

    assert seconds(every) >= seconds(2 * every) >= float(steps * 2)


@pytest.mark.parametrize(
    ("kind", "precision", "each"),
    [("megatron", "bf16-mixed", 14), ("fsdp2", "bf16-mixed", 12), ("fsdp2", "bf16-pure", 6)],
)
def test_checkpoint_of_adamw(kind: str, precision: str, each: int) -> None:
    """Weights, master copies and two moments, of every parameter once."""
    model, recipe = load_model("llama-3.2-1b"), Recipe(4096, precision=precision)
    layout = Layout(stack=kind)
    policy = policy_of(recipe, kind)
    rows = rows_of(model, setting_of(model, recipe, policy, layout), stack(kind).kernels)
    assert checkpoint_bytes(rows, recipe, policy) == each * count_parameters(model).total


def test_checkpoint_of_adapters_is_theirs_alone() -> None:
    model = load_model("llama-3.2-1b")
    recipe = Recipe(4096, finetune=Finetune("lora", 16, ("q_proj", "v_proj")))
    policy = policy_of(recipe, "fsdp2")
    rows = rows_of(model, setting_of(model, recipe, policy, Layout(stack="fsdp2")), "transformers")
    # 16 layers: A and B of q (2048 x 2048) and of v (2048 x 512), float32 with two moments
    adapters = 16 * 16 * ((2048 + 2048) + (2048 + 512))
    assert checkpoint_bytes(rows, recipe, policy) == 12 * adapters


QUESTION = ("fit", "--model", "llama-3.2-1b", "--gpu", "h100", "--gpus", "8", "--steps", "10000")
PAUSES = (
    *("--evaluation-every-steps", "1000", "--evaluation-steps", "50"),
    *("--checkpoint-every-steps", "500", "--storage-bandwidth", "10GB/s"),
)


def test_pauses_in_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*QUESTION, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["time"]["evaluation_seconds"] is None
    assert plain["recipe"]["checkpoint_every_steps"] is None
    assert cli.main([*QUESTION, *PAUSES, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    time = answer["time"]
    assert answer["recipe"]["storage_bytes_per_second"] == 10e9
    pauses = time["evaluation_seconds"] + time["checkpoint_seconds"]
    assert time["training_seconds"] == pytest.approx(plain["time"]["training_seconds"] + pauses)
    # forward is less than half of a step, and more than a fifth of it
    batches = 10 * 50 * time["step_seconds"]
    assert batches / 5 < time["evaluation_seconds"] < batches / 2
    assert cli.main([*QUESTION, *PAUSES]) == 0
    assert "of the run evaluations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (PAUSES[:2], "evaluation_every_steps 1000: needs evaluation_steps"),
        (PAUSES[2:4], "evaluation_steps 50: needs evaluation_every_steps"),
        (PAUSES[4:6], "checkpoint_every_steps 500: needs storage_bandwidth"),
        (("--storage-bandwidth", "fast"), "expected a rate such as 900 GB/s"),
        (
            ("--checkpoint-every-steps", "500", "--storage-bandwidth", "20"),
            "storage_bandwidth 20: expected a rate with its unit",
        ),
        ((*PAUSES[:2], "--evaluation-steps", "0"), "evaluation_steps 0: expected a whole number"),
    ],
)
def test_half_of_a_pause_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert cli.main([*QUESTION, *flags]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert message in done.err
