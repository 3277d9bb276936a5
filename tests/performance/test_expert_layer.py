"""Layers with experts and their dispatch: hand values, scalar = array, monotone, limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.hardware.cluster import cluster_of
from planner.hardware.kernel_constants import DispatchConstants, ExpertLayerConstants
from planner.hardware.kernel_files import kernel_constants
from planner.hardware.library import find_gpu
from planner.performance.constants import step_constants
from planner.performance.dispatch import copies_sent, dispatch_seconds
from planner.performance.expert_layer import expert_layer_seconds
from planner.performance.machine import machine_of
from planner.validation.routed_loads import even_load, power_law_load

ROWS_ALONE = ExpertLayerConstants(
    efficiency=1.0,
    memory_efficiency=1.0,
    row_efficiency=0.5,
    activation_efficiency=1.0,
    token_efficiency=1.0,
    routing_seconds=1e-12,
    uneven_ratio=1.1,
    fixed_seconds=20e-6,
    operand_bytes=2.0,
    tile_set="to 128x256",
)
H100 = {"peak_flops_per_second": 989.4e12, "memory_bytes_per_second": 3.35e12, "sm_count": 132}
QWEN = {"hidden": 2048, "inner": 768, "experts": 128, "top_k": 8}  # Qwen3-30B-A3B
ENDLESS = {**H100, "peak_flops_per_second": 1e30}


def layer(tokens, *, ranks=8, hardware=H100, constants=ROWS_ALONE, uneven=0.0):
    load = even_load(tokens, QWEN["experts"], QWEN["top_k"], ranks)
    return expert_layer_seconds(
        tokens, **QWEN, **hardware,
        local_experts=128 // ranks,
        rows=load.rows,
        touched=load.touched,
        uneven=uneven,
        constants=constants,
    )  # fmt: skip


def test_a_layer_moves_its_rows_and_its_weights() -> None:
    tokens, rows = 4096, 4096.0
    weights = 16 * 3 * 2048 * 768 * 2
    operands = rows * (2048 + 2 * 768 + 768 + 2048) * 2
    moved = rows * (3 * 2048 / 0.5 + 3 * 768) * 2 + tokens * 2 * 2048 * 2
    expected = (weights + operands + moved) / 3.35e12 + tokens * 128 * 8 * 1e-12 + 20e-6
    assert layer(tokens, hardware=ENDLESS) == pytest.approx(expected, rel=0.01)


def test_uneven_loads_take_the_told_ratio() -> None:
    assert layer(4096, uneven=1.0) == pytest.approx(1.1 * layer(4096), rel=1e-9)


@given(tokens=st.integers(256, 65536), ranks=st.sampled_from([1, 2, 8, 32]))
def test_layer_scalar_is_array_and_grows_with_tokens(tokens: int, ranks: int) -> None:
    constants = kernel_constants("h100-sxm-80gb").expert_layer["bf16/moe_torch_flow_cutlass"]
    plain = replace(constants, surface=None)
    one = layer(tokens, ranks=ranks, constants=constants)
    many = expert_layer_seconds(
        np.array([tokens, 64.0]), **QWEN, **H100,
        rows=np.array([tokens * 8 / ranks, 64.0]),
        local_experts=128 // ranks,
        touched=128 // ranks,
        constants=constants,
    )  # fmt: skip
    assert isinstance(one, float)
    assert many[0] == pytest.approx(one, rel=1e-9)
    assert layer(2 * tokens, ranks=ranks, constants=plain) >= layer(
        tokens, ranks=ranks, constants=plain
    )


def test_more_ranks_leave_each_less_to_do() -> None:
    times = [layer(16384, ranks=ranks) for ranks in (1, 2, 4, 8, 16)]
    assert times == sorted(times, reverse=True)


PLAIN = DispatchConstants(
    fixed_seconds=10e-6,
    root_seconds=0.0,
    token_seconds=0.0,
    efficiency=1.0,
    element_bytes=2.0,
    once_per_rank=True,
)
RATES = {"link_bytes_per_second": 450e9, "network_bytes_per_second": 50e9}
DEEPSEEK = {"hidden": 7168, "top_k": 8, "experts": 256}


def dispatch(tokens, ranks, domains=1, constants=PLAIN, **more):
    return dispatch_seconds(
        tokens, **DEEPSEEK, ranks=ranks, domains=domains, constants=constants, **RATES, **more
    )


def test_a_token_goes_once_to_each_rank_that_has_one_of_its_experts() -> None:
    reached = 8 * (1 - (7 / 8) ** 8) * 7 / 8
    expected = 10e-6 + 4096 * 7168 * 2 * reached / 450e9
    assert dispatch(4096, 8) == pytest.approx(expected, rel=1e-9)


def test_the_network_has_one_copy_for_each_node() -> None:
    once, _ = copies_sent(8, 64, 8, once_per_rank=True)
    each, _ = copies_sent(8, 64, 8, once_per_rank=False)
    assert once == pytest.approx(8 * (1 - (7 / 8) ** 8) * 7 / 8)
    assert each == pytest.approx(8 * 56 / 64)
    assert dispatch(4096, 64, 8) > dispatch(4096, 8)


@given(tokens=st.integers(1, 131072), ranks=st.sampled_from([2, 4, 8]))
def test_dispatch_scalar_is_array_and_grows(tokens: int, ranks: int) -> None:
    constants = kernel_constants("b200-sxm-180gb").dispatch["deepep/normal/dispatch"]
    one = dispatch(tokens, ranks, constants=constants, multiprocessors=24)
    many = dispatch(np.array([tokens, 8.0]), ranks, constants=constants, multiprocessors=24)
    assert isinstance(one, float)
    assert many[0] == pytest.approx(one, rel=1e-9)
    plain = replace(constants, surface=None)
    assert dispatch(2 * tokens, ranks, constants=plain) > dispatch(tokens, ranks, constants=plain)


def test_more_multiprocessors_are_never_slower() -> None:
    constants = kernel_constants("b200-sxm-180gb").dispatch["deepep/normal/combine"]
    plain = replace(constants, surface=None)
    times = [dispatch(4096, 8, constants=plain, multiprocessors=sms) for sms in (4, 12, 24, 64)]
    assert times == sorted(times, reverse=True)


@given(
    tokens=st.sampled_from([256, 4096, 16384]),
    ranks=st.sampled_from([1, 2, 8, 64]),
    exponent=st.sampled_from([1.01, 1.2]),
)
def test_the_fullest_rank_has_at_least_its_share(tokens: int, ranks: int, exponent: float) -> None:
    load = power_law_load(tokens, 128, 8, ranks, exponent)
    assert load.rows >= even_load(tokens, 128, 8, ranks).rows * (1 - 1e-9)
    assert load.rows <= tokens * min(8, 128 // ranks) * (1 + 1e-9) + tokens
    assert 1 <= load.touched <= 128 // ranks


def test_a_steeper_power_law_fills_one_rank_more() -> None:
    gentle, steep = (power_law_load(4096, 128, 8, 32, exponent).rows for exponent in (1.01, 1.2))
    assert steep > gentle


@pytest.mark.parametrize(
    ("gpu", "least", "most"),
    # torch's grouped kernel was measured on B200: 1.2 to 1.5 times its dense products under load
    [("b200-sxm-180gb", 1.15, 1.7), ("h100-sxm-80gb", 1.0, 1.0)],
)
def test_experts_under_torch_run_its_grouped_kernel(gpu: str, least: float, most: float) -> None:
    machine = machine_of(cluster_of(find_gpu(gpu), 8), "bf16", "cudnn", step_constants())
    shapes = ((8192, 4096, 7168), (8192, 7168, 4096), (4096, 7168, 8192))
    own = sum(machine.product_seconds(*shape, groups=4, library="torch") for shape in shapes)
    dense = sum(machine.product_seconds(*shape, groups=4) for shape in shapes)
    assert least * dense <= own <= most * dense
