"""Kernels' time: hand values, scalar = array, monotone, limits, and the measured tables."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.hardware.kernel_constants import AttentionConstants, MatmulConstants, MovementConstants
from planner.hardware.kernel_files import kernel_constants
from planner.hardware.surface import Surface
from planner.performance.attention_time import attention_pairs, attention_seconds
from planner.performance.calibration.movement_fit import composed
from planner.performance.elementwise import movement_seconds
from planner.performance.matmul import matmul_seconds
from planner.performance.roofline import roofline_seconds

IDEAL = MatmulConstants(
    efficiency=1.0,
    memory_efficiency=1.0,
    fixed_seconds=0.0,
    ramp_k=0.0,
    small_tile_penalty=0.0,
    wave_rounding=0.0,
    overlap_power=64.0,  # nearly a sharp maximum
    operand_bytes=2.0,
    tile_set="to 128x256",
)
H100 = {"peak_flops_per_second": 989.4e12, "memory_bytes_per_second": 3.35e12, "sm_count": 132}
DIMENSIONS = st.integers(1, 32768)


def test_ideal_product_takes_its_flops() -> None:
    seconds = matmul_seconds(8192, 8192, 8192, constants=IDEAL, **H100)
    assert seconds == pytest.approx(2 * 8192**3 / 989.4e12, rel=1e-6)


def test_ideal_thin_product_takes_its_bytes() -> None:
    # One row against a large matrix: the matrix crosses the memory bus once.
    seconds = matmul_seconds(1, 16384, 16384, constants=IDEAL, **H100)
    assert seconds == pytest.approx(2 * 16384**2 / 3.35e12, rel=1e-3)


def test_partial_waves_cost_whole_ones() -> None:
    rounded = replace(IDEAL, wave_rounding=1.0)
    # 132 tiles of 128x256 fill the GPU once; one tile more starts a second wave of the same tile,
    # and smaller tiles would need more than one wave too.
    endless = {**H100, "memory_bytes_per_second": 1e18}
    full = matmul_seconds(128 * 132, 256, 8192, constants=rounded, **endless)
    more = matmul_seconds(128 * 133, 256, 8192, constants=rounded, **endless)
    assert full == pytest.approx(2 * 128 * 132 * 256 * 8192 / 989.4e12, rel=1e-3)
    assert more > 1.02 * full


def test_grouped_product_fills_the_gpu_as_one_large_product() -> None:
    grouped = matmul_seconds(1024, 4096, 4096, groups=8, constants=IDEAL, **H100)
    apart = 8 * matmul_seconds(1024, 4096, 4096, constants=IDEAL, **H100)
    assert grouped <= apart * (1 + 1e-9)
    assert grouped == pytest.approx(8 * 2 * 1024 * 4096 * 4096 / 989.4e12, rel=1e-3)


@given(m=DIMENSIONS, n=DIMENSIONS, k=DIMENSIONS)
def test_product_scalar_is_array(m: int, n: int, k: int) -> None:
    constants = kernel_constants("h100-sxm-80gb").matmul["bf16"]
    one = matmul_seconds(m, n, k, constants=constants, **H100)
    many = matmul_seconds(np.array([m, 64.0]), n, np.array([k, 64.0]), constants=constants, **H100)
    assert isinstance(one, float)
    assert many[0] == pytest.approx(one, rel=1e-9)


@given(m=DIMENSIONS, n=DIMENSIONS, k=DIMENSIONS, factor=st.floats(1.0, 8.0))
def test_product_is_never_faster_on_a_slower_gpu(m: int, n: int, k: int, factor: float) -> None:
    constants = kernel_constants("h100-sxm-80gb").matmul["fp8"]
    fast = matmul_seconds(m, n, k, constants=constants, **H100)
    for name in ("peak_flops_per_second", "memory_bytes_per_second"):
        slower = {**H100, name: H100[name] / factor}
        assert matmul_seconds(m, n, k, constants=constants, **slower) >= fast * (1 - 1e-9)


def test_surface_meets_its_points_and_fades() -> None:
    points = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 3.0]])
    surface = Surface(points, np.array([0.2, -0.1]), noise_variance=0.0)
    constants = kernel_constants("h100-sxm-80gb").movement["rms_norm/cudnn/forward/bf16"]
    shaped = replace(constants, surface=surface)
    plain = replace(constants, surface=None)
    rate = 3.35e12
    at = movement_seconds(
        1e9, constants=shaped, memory_bytes_per_second=rate, rows=1.0, columns=1.0
    )
    bare = movement_seconds(
        1e9, constants=plain, memory_bytes_per_second=rate, rows=1.0, columns=1.0
    )
    far = movement_seconds(
        1e9, constants=shaped, memory_bytes_per_second=rate, rows=1.0, columns=2.0**200
    )
    assert at == pytest.approx(bare * np.exp(0.2))
    assert far == pytest.approx(bare)


def test_a_kernel_started_by_the_host_takes_the_longer_of_start_and_movement() -> None:
    eager = MovementConstants(efficiency=0.5, fixed_seconds=1e-4, host_share=1.0)
    graph = replace(eager, host_share=0.0)
    rate = 2e12  # 1 TB/s at half of it
    shape = {"memory_bytes_per_second": rate}
    assert movement_seconds(1e5, constants=eager, **shape) == pytest.approx(1e-4, rel=1e-6)
    assert movement_seconds(1e10, constants=eager, **shape) == pytest.approx(1e-2, rel=1e-6)
    assert movement_seconds(1e10, constants=graph, **shape) == pytest.approx(1.01e-2)
    assert movement_seconds(1e10, constants=eager, launched=False, **shape) == pytest.approx(1e-2)
    rows = movement_seconds(
        1e10,
        constants=replace(graph, row_bytes=1e3),
        rows=1e6,
        columns=5e3,
        launched=False,
        **shape,
    )
    assert rows == pytest.approx(1.1e-2)


@given(
    moved=st.floats(1e3, 1e12),
    share=st.floats(0.0, 1.0),
    start=st.floats(1e-6, 1e-3),
    cache=st.sampled_from((0.0, 5e7)),
)
def test_movement_scalar_is_array_and_grows(
    moved: float, share: float, start: float, cache: float
) -> None:
    constants = MovementConstants(
        efficiency=0.7, fixed_seconds=start, host_share=share, cache_speedup=2.0, row_bytes=30.0
    )
    shape = {"constants": constants, "memory_bytes_per_second": 3e12, "warm_cache_bytes": cache}
    one = movement_seconds(moved, rows=1e3, columns=moved / 2e3, **shape)
    many = movement_seconds(np.array([moved, 2.0 * moved]), rows=1e3, columns=moved / 2e3, **shape)
    assert many[0] == pytest.approx(one, rel=1e-12)
    assert many[1] >= many[0]
    assert one >= start * (1 - 1e-9)


def test_the_times_of_the_parts_add_up() -> None:
    forward = MovementConstants(efficiency=0.8, fixed_seconds=1e-6, row_bytes=100.0)
    backward = MovementConstants(efficiency=0.3, fixed_seconds=1e-6, row_bytes=700.0)
    both = composed(forward, [(2.0, forward), (3.0, backward)])
    shape = {"memory_bytes_per_second": 2e12, "rows": 4096.0, "columns": 8192.0, "launched": False}
    tensor = 4096 * 8192 * 2.0
    parts = movement_seconds(2 * tensor, constants=forward, **shape) + movement_seconds(
        3 * tensor, constants=backward, **shape
    )
    assert movement_seconds(5 * tensor, constants=both, **shape) == pytest.approx(parts)


def test_attention_pairs_of_masks() -> None:
    brute = sum(min(row + 1, 100) for row in range(1000))
    assert attention_pairs(1000, causal=True, window=100) == brute
    assert attention_pairs(1000, causal=False) == 1e6
    assert attention_pairs(1000, causal=True) == 5e5  # the diagonal's half is the kernel's waste
    # A window as long as the sequence is the causal mask with its diagonal.
    assert attention_pairs(1000, causal=True, window=1000) == 500_500


def test_ideal_attention_takes_its_flops() -> None:
    ideal = AttentionConstants(
        head_dims=(64.0, 128.0),
        efficiencies=(1.0, 1.0),
        wasted_pairs=0.0,
        wasted_pairs_window=0.0,
        idle_exponent=1.0,
        wave_rounding=0.0,
        fixed_seconds=0.0,
        key_value_traffic=0.0,
        query_traffic=0.0,
        element_bytes=2.0,
    )
    shape = {"head_dim": 128, "causal": True, "constants": ideal, **H100}
    forward = attention_seconds(4, 32, 8, 8192, **shape)
    assert forward == pytest.approx(4 * 4 * 32 * 128 * 8192**2 / 2 / 989.4e12)
    assert attention_seconds(4, 32, 8, 8192, backward=True, **shape) == pytest.approx(2.5 * forward)
    # A quarter of the queries against all keys, as in context parallelism, is a quarter.
    quarter = attention_seconds(4, 32, 8, 2048, keys=8192, **shape)
    assert quarter == pytest.approx(forward / 4)
    # A kernel that skips nothing takes as long with a window as without.
    unskipped = {**shape, "constants": replace(ideal, unskipped_share=1.0)}
    assert attention_seconds(4, 32, 8, 8192, window=128, **unskipped) == pytest.approx(forward)
    windowed = attention_seconds(4, 32, 8, 8192, window=128, **shape)
    assert windowed == pytest.approx(
        forward * attention_pairs(8192, causal=True, window=128) / 8192**2 * 2
    )
    # Fewer blocks than multiprocessors: the time is that of one block, whatever their number.
    assert attention_seconds(1, 8, 8, 128, **shape) == attention_seconds(1, 16, 8, 128, **shape)


@given(
    batch=st.integers(1, 64),
    heads=st.sampled_from((8, 32, 64)),
    sequence=st.sampled_from((512, 1500, 4096, 16384)),
    backward=st.booleans(),
)
def test_attention_scalar_is_array_and_grows(
    batch: int, heads: int, sequence: int, backward: bool
) -> None:
    held = kernel_constants("gb200-186gb").attention
    constants = held[f"bf16/{'backward' if backward else 'forward'}/causal"]
    asked = {"head_dim": 128, "causal": True, "backward": backward, "constants": constants, **H100}
    one = attention_seconds(batch, heads, 8, sequence, **asked)
    both = attention_seconds(np.array([batch, 2 * batch]), heads, 8, sequence, **asked)
    assert both[0] == pytest.approx(one, rel=1e-9)
    plain = {**asked, "constants": replace(constants, surface=None)}
    assert attention_seconds(2 * batch, heads, 8, sequence, **plain) >= (
        attention_seconds(batch, heads, 8, sequence, **plain) * (1 - 1e-9)
    )


def test_roofline_is_the_slower_of_both() -> None:
    asked = {
        "peak_flops_per_second": 1e15,
        "memory_bytes_per_second": 2e12,
        "compute_efficiency": 0.5,
        "memory_efficiency": 1.0,
    }
    assert roofline_seconds(flops=1e12, moved_bytes=1e9, **asked) == pytest.approx(2e-3)
    bytes_bound = roofline_seconds(flops=1e12, moved_bytes=np.array([1e9, 8e9]), **asked)
    assert bytes_bound == pytest.approx([2e-3, 4e-3])
