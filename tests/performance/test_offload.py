"""Offloading: what it costs in time, what it needs of the host, and where it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import cli
from planner.answers.request import Request, resolve
from planner.estimate import Estimate, estimate
from planner.hardware.cluster import cluster_of
from planner.hardware.library import find_gpu, find_node
from planner.hardware.profile import GpuProfile, HostLink
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.performance.offload import HOST_LINK_EFFICIENCY, HOST_OPTIMIZER_BYTES_PER_SECOND

BASE = Request(
    gpus=8, sharding="zero3", stack="fsdp2", sequence_length=2048, gradient_accumulation=2
)
OFFLOADS = (
    ("optimizer",),
    ("parameters",),
    ("activations",),
    ("activations:8",),
    ("optimizer", "parameters", "activations"),
)


@cache
def _model() -> ModelSpec:
    return load_model("llama-3.1-8b")


def _answer(request: Request, gpu: GpuProfile | None = None) -> Estimate:
    plan = resolve(request, _model(), 8)
    cluster = cluster_of(gpu or find_gpu("h100-sxm-80gb"), 8)
    return estimate(_model(), plan.recipe, plan.layout, cluster)


def _with_link(bytes_per_second: float) -> GpuProfile:
    return replace(find_gpu("h100-sxm-80gb"), host_link=HostLink("test", bytes_per_second))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(OFFLOADS), st.floats(5e9, 1e12), st.floats(1.0, 10.0))
def test_a_slower_link_never_makes_a_faster_step(
    offload: tuple[str, ...], rate: float, slower: float
) -> None:
    request = replace(BASE, offload=offload)
    fast, slow = (
        float(_answer(request, _with_link(r)).step.step_seconds) for r in (rate, rate / slower)
    )
    assert slow >= fast
    assert fast >= float(_answer(BASE).step.step_seconds) or "optimizer" in offload


def test_the_optimizer_on_the_host() -> None:
    """All 8.03e9 parameters by the CPUs of one node: 28 bytes of AdamW each; copies in bf16."""
    e = _answer(replace(BASE, offload=("optimizer",)))
    parts = e.step.breakdown_seconds
    host = 8.03e9 * 28 / HOST_OPTIMIZER_BYTES_PER_SECOND
    assert float(parts["optimizer"]) == pytest.approx(host, rel=0.01)
    link = 63e9 * HOST_LINK_EFFICIENCY
    # new parameters come back whole; the gradients hide behind the last backward pass
    itemsize = 4  # bf16-mixed of FSDP: float32 parameters
    assert float(parts["offload"]) == pytest.approx(8.03e9 / 8 * itemsize / link, rel=0.01)
    assert any("CPUs" in one for one in e.assumptions)


def test_activations_come_back_as_fast_as_the_link() -> None:
    """With a link so slow that nothing hides: out, and in again, of all but the last two layers."""
    rate = 1e6
    e = _answer(replace(BASE, offload=("activations",), gradient_accumulation=1), _with_link(rate))
    moved = 2 * float(e.memory.host_bytes) / (rate * HOST_LINK_EFFICIENCY)
    assert float(e.step.breakdown_seconds["offload"]) == pytest.approx(moved, rel=0.01)


def test_fewer_offloaded_layers_need_less_of_the_host() -> None:
    all_layers, some = (
        _answer(replace(BASE, offload=(word,))).memory for word in ("activations", "activations:12")
    )
    # 32 layers, of which the last two stay on the GPU: the first 12 are all away
    assert some.host_bytes / all_layers.host_bytes == pytest.approx(12 / 30)
    assert some.peak_bytes > all_layers.peak_bytes


def test_what_the_host_keeps_is_not_on_the_gpu() -> None:
    """The moments, and the float32 gradients that the host's optimizer needs beside them."""
    plain, offloaded = (
        _answer(replace(BASE, offload=offload)).memory for offload in ((), ("optimizer",))
    )
    states = plain.breakdown_bytes["optimizer_states"]
    gradients = plain.breakdown_bytes["gradients"]
    assert offloaded.breakdown_bytes["optimizer_states"] == 0
    assert offloaded.host_bytes == pytest.approx(states + 4 * 8.03e9 / 8, rel=0.01)
    assert gradients > 0


def test_grace_is_a_faster_host() -> None:
    assert find_gpu("gh200-96gb").host_bytes_per_second == 450e9
    assert find_gpu("gb200-186gb").host_bytes_per_second == 225e9
    assert find_gpu("h100-sxm-80gb").host_bytes_per_second == 63e9


def test_a_host_that_is_too_small_does_not_fit() -> None:
    """DGX H100 has 2 TiB: 405e9 parameters' states on one node do not go into it."""
    model = load_model("llama-3.1-405b")
    request = replace(BASE, offload=("optimizer", "parameters"))
    plan = resolve(request, model, 8)
    node = find_node("dgx-h100")
    cluster = cluster_of(find_gpu(node.gpu), 8, node=node)
    e = estimate(model, plan.recipe, plan.layout, cluster)
    assert e.memory.host_available_bytes == 2048 * 2**30 / 8
    assert e.memory.host_bytes > e.memory.host_available_bytes
    assert e.verdict == "does_not_fit"
    assert any("host memory" in warning for warning in e.warnings)


def test_offload_in_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    question = ["fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--json"]
    question += ["--stack", "fsdp2", "--sharding", "zero3", "--offload", "optimizer,activations:4"]
    assert cli.main(question) in (0, 1)
    done = capsys.readouterr()
    answer = json.loads(done.out)
    assert answer["memory"]["host_bytes"] > 0
    assert answer["memory"]["host_available_bytes"] is None
    assert answer["time"]["breakdown_seconds"]["offload"] > 0
    assert "is not checked" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--offload", "parameters"), "only parameters that are gathered unit by unit are"),
        (("--offload", "optimizer:3"), "expected activations:N"),
        (("--offload", "activations:0"), "expected activations:N"),
    ],
)
def test_what_cannot_be_offloaded(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert cli.main(["fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", *flags]) == 2
    assert message in capsys.readouterr().err
