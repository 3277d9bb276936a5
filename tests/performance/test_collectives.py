"""Collectives: textbook volumes, limits, monotonicity, scalar = array."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.hardware.kernel_constants import CollectiveConstants
from planner.hardware.kernel_files import kernel_constants
from planner.performance.collectives import Operation, bus_factor, collective_seconds

OPERATIONS: tuple[Operation, ...] = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send_receive",
)
PURE = CollectiveConstants(
    fixed_seconds=0.0,
    seconds_per_doubling=0.0,
    root_seconds=0.0,
    efficiency=1.0,
    rank_exponent=0.0,
)
IDEAL: Mapping[str, CollectiveConstants] = {
    name: PURE for op in OPERATIONS for name in (op, f"network/{op}")
}
RATES = {"link_bytes_per_second": 450e9, "network_bytes_per_second": 50e9}


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_textbook_volumes(ranks: int) -> None:
    """A ring all-reduce is a reduce-scatter and an all-gather, each of (n-1)/n of the message."""
    both = bus_factor("reduce_scatter", ranks) + bus_factor("all_gather", ranks)
    assert bus_factor("all_reduce", ranks) == both == 2 * (ranks - 1) / ranks


def test_inside_a_domain_the_link_sets_the_pace() -> None:
    seconds = collective_seconds("all_reduce", 1e9, 8, ranks_per_domain=8, constants=IDEAL, **RATES)
    assert seconds == pytest.approx(1.75e9 / 450e9)


def test_rails_add_up_and_the_domain_limits_them() -> None:
    asked = {"constants": IDEAL, **RATES}
    one_rail = collective_seconds("all_gather", 1e9, 16, ranks_per_domain=1, **asked)
    four_rails = collective_seconds("all_gather", 1e9, 16, ranks_per_domain=4, **asked)
    assert one_rail == pytest.approx(1e9 * 15 / 16 / 50e9)
    assert four_rails == pytest.approx(1e9 * 15 / 16 / 200e9, rel=0.02)
    # 16 rails of 50 GB/s are more than a link of 450 GB/s can feed.
    sixteen = collective_seconds("all_gather", 1e9, 64, ranks_per_domain=16, **asked)
    assert sixteen == pytest.approx(1e9 * 63 / 64 / 450e9, rel=0.05)


def test_all_to_all_sends_only_what_leaves_the_domain() -> None:
    asked = {"constants": IDEAL, **RATES}
    seconds = collective_seconds("all_to_all", 1e9, 32, ranks_per_domain=8, **asked)
    assert seconds == pytest.approx(1e9 * 24 / 32 / 50e9)


def test_one_rank_sends_nothing() -> None:
    for operation in OPERATIONS:
        asked = {"constants": IDEAL, **RATES}
        assert collective_seconds(operation, 1e9, 1, ranks_per_domain=8, **asked) == 0.0


@pytest.mark.parametrize("gpu", ["h100-sxm-80gb", "gb200-186gb", "l40s", "a GPU of next year"])
@given(
    operation=st.sampled_from(OPERATIONS),
    size=st.floats(1e3, 1e10),
    ranks=st.sampled_from((2, 4, 8, 16, 64, 512)),
    factor=st.floats(1.0, 10.0),
)
def test_slower_links_are_never_faster(
    gpu: str, operation: Operation, size: float, ranks: int, factor: float
) -> None:
    constants = kernel_constants(gpu).collectives
    inside = min(ranks, 8)
    fast = collective_seconds(
        operation, size, ranks, ranks_per_domain=inside, constants=constants, **RATES
    )
    assert np.isfinite(fast)
    assert fast > 0
    for name in RATES:
        slower = {**RATES, name: RATES[name] / factor}
        slow = collective_seconds(
            operation, size, ranks, ranks_per_domain=inside, constants=constants, **slower
        )
        assert slow >= fast * (1 - 1e-9)


def test_scalar_is_array_over_the_hierarchy() -> None:
    constants = kernel_constants("h100-sxm-80gb").collectives
    ranks = np.array([1.0, 2.0, 8.0, 16.0, 80.0])
    inside = np.minimum(ranks, 8.0)
    for operation in OPERATIONS:
        many = collective_seconds(
            operation, 1e8, ranks, ranks_per_domain=inside, constants=constants, **RATES
        )
        for at, group in enumerate(ranks):
            one = collective_seconds(
                operation, 1e8, int(group), ranks_per_domain=8, constants=constants, **RATES
            )
            assert many[at] == pytest.approx(one)
