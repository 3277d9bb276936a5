"""Slower parts never make a faster step: arithmetic, memory, links, the host, latencies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.answers.request import Request, resolve
from planner.estimate import estimate
from planner.hardware.cluster import cluster_of
from planner.hardware.library import find_gpu
from planner.hardware.profile import HostLink
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.performance import work
from planner.performance.machine import Machine, machine_of

_PIPELINE = Request(
    pipeline_parallel=4, tensor_parallel=2, stack="megatron", sharding="zero1", micro_batch_size=2
)
LAYOUTS = {
    "1f1b": (_PIPELINE, "llama-3.1-8b"),
    "gpipe": (replace(_PIPELINE, pipeline_schedule="gpipe"), "llama-3.1-8b"),
    "interleaved": (replace(_PIPELINE, virtual_pipeline=4), "llama-3.1-8b"),
    "zero-bubble": (replace(_PIPELINE, pipeline_schedule="zero-bubble"), "llama-3.1-8b"),
    "dualpipe": (replace(_PIPELINE, pipeline_schedule="dualpipe"), "llama-3.1-8b"),
    "experts": (Request(expert_parallel=8, stack="megatron", sharding="zero1"), "mixtral-8x7b"),
    "offload": (
        Request(
            stack="fsdp2", sharding="zero3", offload=("optimizer", "parameters", "activations")
        ),
        "llama-3.1-8b",
    ),
    "selective": (
        Request(context_parallel=4, stack="megatron", sharding="zero1", recompute="selective"),
        "llama-3.1-8b",
    ),
    "lora": (Request(finetune="lora", stack="fsdp2", sharding="zero3"), "llama-3.1-8b"),
}


@cache
def _model(name: str) -> ModelSpec:
    return load_model(name)


def _slow_start(machine: Machine, times: float) -> Machine:
    """The same GPU whose collectives take longer to begin."""
    collectives = {
        name: replace(
            one,
            fixed_seconds=one.fixed_seconds * times,
            seconds_per_doubling=one.seconds_per_doubling * times,
        )
        for name, one in machine.constants.collectives.items()
    }
    return replace(machine, constants=replace(machine.constants, collectives=collectives))


def _seconds(
    layout: str,
    *,
    arithmetic: float = 1.0,
    memory: float = 1.0,
    network: float = 1.0,
    host: float = 1.0,
    latency: float = 1.0,
) -> float:
    """Of a step on 32 H100s whose parts are so many times slower."""
    request, name = LAYOUTS[layout]
    gpu = replace(find_gpu("h100-sxm-80gb"), power_limit_watts=None)
    gpu = replace(
        gpu,
        peak_flops_per_second={k: v / arithmetic for k, v in gpu.peak_flops_per_second.items()},
        memory_bandwidth_bytes_per_second=gpu.memory_bandwidth_bytes_per_second / memory,
        host_link=HostLink("slot", 63e9 / host),
    )
    cluster = cluster_of(gpu, 32)
    levels = tuple(
        replace(link, bytes_per_second_per_direction=link.bytes_per_second_per_direction / network)
        for link in cluster.levels
    )
    plan = resolve(replace(request, gpus=32, gradient_accumulation=8), _model(name), 32)

    def slower(*arguments: object) -> Machine:
        return _slow_start(machine_of(*arguments), latency)

    with mock.patch.object(work, "machine_of", slower):
        answer = estimate(_model(name), plan.recipe, plan.layout, replace(cluster, levels=levels))
    return float(answer.step.step_seconds)


TIMES = st.floats(1.0, 8.0)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), TIMES, TIMES, TIMES, TIMES, TIMES)
def test_slower_parts_never_make_a_faster_step(
    layout: str, arithmetic: float, memory: float, network: float, host: float, latency: float
) -> None:
    parts = {
        "arithmetic": arithmetic,
        "memory": memory,
        "network": network,
        "host": host,
        "latency": latency,
    }
    fast, slow = _seconds(layout), _seconds(layout, **parts)
    assert slow >= fast * (1 - 1e-9)
    for name, times in parts.items():
        assert slow >= _seconds(layout, **{**parts, name: 1.0}) * (1 - 1e-9), name
        assert _seconds(layout, **{name: times}) >= fast * (1 - 1e-9), name
