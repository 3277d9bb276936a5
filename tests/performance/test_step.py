"""What must hold of a step's time whatever the constants are."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.answers.request import Request, resolve
from planner.estimate import Estimate, estimate
from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.kernel_files import kernel_constants
from planner.hardware.library import find_gpu
from planner.hardware.profile import GpuProfile
from planner.memory.peak import rows_of, setting_of
from planner.memory.surroundings import columns_of
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.performance.collectives import bus_factor
from planner.performance.constants import FILE, StepConstants
from planner.performance.many import step_times
from planner.performance.step import step_time
from planner.performance.traffic import exposed, shown
from planner.resources import package_file
from planner.training.layout import Layout
from planner.training.precision import precision
from planner.training.recipe import Recipe
from planner.training.stacks import stack as stack_named

LAYOUTS = (
    Request(tensor_parallel=8, pipeline_parallel=2, stack="megatron", sharding="zero1"),
    Request(context_parallel=4, tensor_parallel=2, stack="megatron", sharding="zero1"),
    Request(sharding="zero3", stack="torchtitan", recompute="full"),
    Request(sharding="zero3", stack="fsdp", micro_batch_size=2),
)


@cache
def _model() -> ModelSpec:
    return load_model("llama-3.1-8b")


def _answer(request: Request, gpu: GpuProfile, slower_network: float = 1.0) -> Estimate:
    return _on(32, request, gpu, slower_network)


def _on(gpus: int, request: Request, gpu: GpuProfile, slower_network: float = 1.0) -> Estimate:
    asked = replace(request, gpus=gpus, gradient_accumulation=4)
    plan = resolve(asked, _model(), gpus)
    cluster: Cluster = cluster_of(gpu, gpus)
    links = tuple(
        replace(link, bytes_per_second_per_direction=rate / slower_network)
        for link in cluster.levels
        for rate in (link.bytes_per_second_per_direction,)
    )
    return estimate(_model(), plan.recipe, plan.layout, replace(cluster, levels=links))


def _slower(gpu: GpuProfile, arithmetic: float, memory: float) -> GpuProfile:
    peaks = {name: peak / arithmetic for name, peak in gpu.peak_flops_per_second.items()}
    return replace(
        gpu,
        peak_flops_per_second=peaks,
        memory_bandwidth_bytes_per_second=gpu.memory_bandwidth_bytes_per_second / memory,
    )


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.floats(1.0, 4.0),
    st.floats(1.0, 4.0),
    st.floats(1.0, 4.0),
)
def test_slower_parts_never_make_a_faster_step(
    request: Request, arithmetic: float, memory: float, network: float
) -> None:
    gpu = replace(find_gpu("h100-sxm-80gb"), power_limit_watts=None)
    fast = float(_answer(request, gpu).step.step_seconds)
    slow = float(_answer(request, _slower(gpu, arithmetic, memory), network).step.step_seconds)
    assert slow >= fast * (1 - 1e-9)


@pytest.mark.parametrize("request_", LAYOUTS)
def test_parts_add_up(request_: Request) -> None:
    step = _answer(request_, find_gpu("h100-sxm-80gb")).step
    parts = [float(v) for v in step.breakdown_seconds.values()]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(float(step.step_seconds))


@pytest.mark.parametrize("recompute", ["none", "selective", "full", "full:4"])
def test_both_conventions_of_flops_and_what_recompute_repeats(recompute: str) -> None:
    """Llama 3.1 8B by hand: forward 2 FLOPs a weight and 4 d a pair of tokens; in all 3 times."""
    request = Request(pipeline_parallel=4, stack="megatron", recompute=recompute)
    answer = _answer(request, find_gpu("h100-sxm-80gb"))
    layers, sequence, hidden = 32, 4096, 4096
    weights_of_layer = 218_112_000 - 2 * hidden
    head = 128_256 * hidden
    causal = 4 * hidden * sequence / 2
    forward = layers * (2 * weights_of_layer + causal) + 2 * head
    repeated = {
        "none": 0,
        "selective": layers * causal,
        "full": layers * (2 * weights_of_layer + causal),
        "full:4": 16 * (2 * weights_of_layer + causal),  # four layers on each of four stages
    }[recompute]
    step, run = answer.step, answer.run
    assert step.model_flops_per_token == pytest.approx(3 * forward)
    assert step.full_square_flops_per_token == pytest.approx(3 * (forward + layers * causal))
    assert step.hardware_flops_per_token == pytest.approx(3 * forward + repeated)
    assert run.peak_tflops_per_gpu == 989.4
    done = step.full_square_flops_per_token * float(run.tokens_per_second_per_gpu)
    assert run.model_flops_utilization_full_square == pytest.approx(done / 989.4e12)


def test_no_more_is_repeated_than_there_is() -> None:
    """32 layers on 12 stages: three at most on each, which is all of them."""
    uneven = {"pipeline_parallel": 12, "stack": "megatron"}
    gpu = find_gpu("h100-sxm-80gb")
    some, every = (_on(12, Request(**uneven, recompute=word), gpu) for word in ("full:3", "full"))
    assert some.step.hardware_flops_per_token == every.step.hardware_flops_per_token
    assert some.step.step_seconds == every.step.step_seconds


def test_lower_power_limit_is_slower() -> None:
    full = find_gpu("h100-sxm-80gb")
    limited = replace(full, power_limit_watts=500.0)
    request = LAYOUTS[2]
    ratio = float(_answer(request, limited).step.step_seconds) / float(
        _answer(request, full).step.step_seconds
    )
    # the clock falls to ((500 - 140) / 560)^(1/3) = 0.86 of its own
    assert 1.05 < ratio < 1 / 0.86


@pytest.mark.parametrize(("short", "long"), [("gb300-288gb", "gb200-186gb")])
def test_boards_of_one_silicon_keep_the_order_of_their_power_limits(short: str, long: str) -> None:
    """More watts, less time of long work: in every format, whatever was measured of each."""
    for dtype in ("bf16", "fp8", "nvfp4"):
        most, less = (kernel_constants(gpu).matmul[dtype].sustained_ratio for gpu in (short, long))
        least = kernel_constants("b200-sxm-180gb").matmul[dtype].sustained_ratio
        assert 1.0 <= most <= less <= least


def test_narrow_inputs_are_gathered_narrow() -> None:
    """fp8: half of the gathered bytes, the same scattered ones; less in all than bf16."""
    bf16 = precision("bf16-mixed", "megatron")
    fp8 = precision("fp8-mixed", "megatron")
    assert (bf16.exchanged_input or bf16.compute) == 2 * fp8.exchanged_input
    assert (bf16.gathered, fp8.gathered) == (2, 1)
    request = Request(tensor_parallel=8, stack="megatron", sharding="zero1", micro_batch_size=8)
    gpu = find_gpu("h100-sxm-80gb")
    wide, narrow = (
        _answer(replace(request, precision=word), gpu).step.breakdown_seconds["tensor_parallel"]
        for word in ("bf16-mixed", "fp8-mixed")
    )
    assert 0.5 < float(narrow) / float(wide) < 1.0


def test_what_a_pass_costs_one_stage_of_the_host_is_no_bubble() -> None:
    """Launch-bound: m passes of the slowest stage, and the others' launches once [s]."""
    request = Request(pipeline_parallel=4, stack="megatron", sharding="zero1", sequence_length=256)
    parts = _answer(request, find_gpu("h100-sxm-80gb")).step.breakdown_seconds
    once = stack_named("megatron").host.per_pass
    passes, stages = 4, 4
    on_stage = sum(
        float(value)
        for name, value in parts.items()
        if name not in ("bubble", "data_parallel", "optimizer")
    )
    without = on_stage / passes - once
    assert float(parts["bubble"]) <= (stages - 1) * without * 1.001


def test_traffic_of_sharding_as_in_the_textbook() -> None:
    """Rajbhandari et al. 2020, section 7: 2 x parameters without ZeRO-3, 3 x with it."""
    parameters, ranks = 1e9, 64
    gather, reduce = (
        bus_factor("all_gather", ranks) * parameters,
        bus_factor("reduce_scatter", ranks) * parameters,
    )
    assert bus_factor("all_reduce", ranks) * parameters == pytest.approx(gather + reduce)
    assert gather + reduce == pytest.approx(2 * parameters, rel=1 / 32)
    assert 2 * gather + reduce == pytest.approx(3 * parameters, rel=1 / 32)


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.integers(1, 100), st.floats(0.0, 1.0))
def test_hidden_traffic_costs_no_more_than_itself(
    traffic: float, compute: float, units: int, interference: float
) -> None:
    one = float(shown(traffic, compute, interference))
    assert max(traffic - compute, 0) <= one <= traffic * (1 + 1e-12)
    whole = float(exposed(traffic, compute, units, interference))
    assert traffic <= whole * (1 + 1e-12)
    assert whole <= units * traffic * (1 + 1e-9)


def test_constants_have_a_range_and_lie_in_it() -> None:

    rows = json.loads(package_file(FILE).read_text(encoding="utf-8"))["constants"]
    for name, row in rows.items():
        assert name in StepConstants.__dataclass_fields__
        values = row["value"] if isinstance(row["value"], dict) else {"": row["value"]}
        ranges = row["range"] if isinstance(row["range"], dict) else {"": row["range"]}
        for key, value in values.items():
            low, high = ranges[key]
            assert low <= value <= high, f"{name} {key}"


def test_arrays_are_numbers() -> None:
    """Many layouts at once are timed as each alone."""
    sizes = {
        "data_parallel": [4.0, 8.0, 16.0, 4.0],
        "tensor_parallel": [8.0, 4.0, 2.0, 8.0],
        "micro_batch_size": [1.0, 2.0, 4.0, 3.0],
        "gradient_accumulation_steps": [8.0, 4.0, 2.0, 1.0],
    }
    base = Layout(pipeline_parallel=2, sharding=1, sequence_parallel=True, stack="megatron")
    recipe, model = Recipe(4096), _model()
    cluster = cluster_of(find_gpu("h100-sxm-80gb"), 64)

    def seconds(layout: Layout) -> object:
        policy = precision(recipe.precision, layout.stack)
        rows = rows_of(model, setting_of(model, recipe, policy, layout), "megatron")
        columns = columns_of(recipe, layout)
        return step_time(model, rows, recipe, layout, policy, cluster, columns).step_seconds

    together = seconds(replace(base, **{k: np.array(v) for k, v in sizes.items()}))
    alone = [seconds(replace(base, **{k: v[i] for k, v in sizes.items()})) for i in range(4)]
    assert together == pytest.approx(alone)


def test_a_million_layouts_are_timed_as_each_alone() -> None:
    rng = np.random.default_rng(1)
    names = ("data_parallel", "tensor_parallel", "pipeline_parallel", "micro_batch_size")
    values = {name: 2 ** rng.integers(0, 4, 40) for name in names}
    values["sharding"] = rng.choice([0, 2, 3], 40)
    values["gradient_accumulation_steps"] = rng.integers(1, 33, 40)
    layouts = Layout(stack="torchtitan", **values)
    recipe, model = Recipe(4096), _model()
    cluster = cluster_of(find_gpu("h100-sxm-80gb"), 64)
    together = step_times(model, recipe, layouts, cluster)
    for i in range(0, 40, 8):
        layout = Layout(stack="torchtitan", **{k: int(v[i]) for k, v in values.items()})
        alone = estimate(model, recipe, layout, cluster).step.step_seconds
        assert together[i] == pytest.approx(float(alone))
