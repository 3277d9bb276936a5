"""Exchanges on the links of a cluster: each group runs at the slowest link that it crosses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.performance.collectives import Operation
from planner.performance.constants import step_constants
from planner.performance.machine import machine_of
from planner.performance.traffic import Group, exchange_seconds

MESSAGE = 2.0**30


def _seconds(operation: Operation, cluster: Cluster, ranks: int, stride: int = 1) -> float:
    machine = machine_of(cluster, "bf16", "flash", step_constants())
    return float(exchange_seconds(operation, MESSAGE, Group(ranks, stride), cluster, machine))


def _slower(cluster: Cluster, level: int) -> Cluster:
    links = list(cluster.levels)
    rate = links[level].bytes_per_second_per_direction / 4
    links[level] = replace(links[level], bytes_per_second_per_direction=rate)
    return replace(cluster, levels=tuple(links))


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all", "send_receive"])
@pytest.mark.parametrize(
    ("ranks", "stride", "crossed"),
    # H100 NVL: pairs by NVLink, the eight of a node by PCIe, nodes by the network
    [(2, 1, {0}), (2, 2, {1}), (2, 8, {2})],
)
def test_a_pair_waits_for_the_one_link_between_its_ranks(
    operation: Operation, ranks: int, stride: int, crossed: set[int]
) -> None:
    cluster = cluster_of(find_gpu("h100-nvl"), 64)
    usual = _seconds(operation, cluster, ranks, stride)
    slower = {
        level
        for level in range(3)
        if _seconds(operation, _slower(cluster, level), ranks, stride) > 2 * usual
    }
    assert slower == crossed


def test_a_node_that_is_joined_by_pcie_needs_no_network() -> None:
    cluster = cluster_of(find_gpu("h100-nvl"), 16)
    for operation in ("all_reduce", "all_to_all"):
        inside = _seconds(operation, cluster, 8)
        assert _seconds(operation, _slower(cluster, 2), 8) == inside
        assert _seconds(operation, _slower(cluster, 1), 8) > 2 * inside
        assert _seconds(operation, cluster, 16) > inside


def test_two_gpus_of_a_mesh_have_one_of_its_seven_links() -> None:
    cluster = cluster_of(find_gpu("mi300x"), 8)
    pair, all_eight = _seconds("all_gather", cluster, 2), _seconds("all_gather", cluster, 8)
    # half of the message over one link, against seven eighths over seven
    assert pair > 2 * all_eight
