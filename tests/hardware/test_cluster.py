"""Which links join a group of ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.hardware.cluster import cluster_of
from planner.hardware.library import find_gpu, find_node
from planner.hardware.profile import Link

GB_PER_SECOND = 1e9


def ring_rate(cluster, size, stride=1):
    """Bus bandwidth of a ring: the nearest link's, or what its ranks have outwards together."""
    nearest = cluster.nearest(size, stride)
    near = cluster.nearest_bytes_per_second(size, stride) if nearest > 1 else float("inf")
    return min(near, nearest * cluster.outward_bytes_per_second(size, stride))


def rates(cluster, *groups):
    return [ring_rate(cluster, size, stride) / GB_PER_SECOND for size, stride in groups]


def test_a_node_of_h100_and_its_network():
    cluster = cluster_of(find_gpu("h100"), 64)
    assert (cluster.nodes, cluster.gpus_per_node) == (8, 8)
    assert cluster.levels[0].kind == "nvlink4"
    assert cluster.levels[-1].bytes_per_second_per_direction == 50e9  # 400 Gb/s
    assert cluster.usd_per_gpu_hour == 6.88
    assert cluster.assumptions == ()
    # tensor parallel in the node; data parallel over tensor parallel 8 and 4; all GPUs
    assert rates(cluster, (8, 1), (8, 8), (16, 4), (64, 1)) == [450, 50, 100, 400]
    # a group of 3 does not divide a node of 8: the third one straddles two nodes
    assert rates(cluster, (3, 1)) == [50]


def test_a_group_of_one_has_nothing_to_wait_for():
    assert ring_rate(cluster_of(find_gpu("h100"), 8), 1) == float("inf")


def test_one_node_needs_no_network():
    cluster = cluster_of(find_gpu("h100"), 8)
    assert rates(cluster, (3, 1), (2, 3), (8, 1)) == [450, 450, 450]


def test_an_nvlink_rack_is_larger_than_a_node():
    gb200 = find_gpu("gb200")
    one_rack = cluster_of(gb200, 72)
    assert (one_rack.gpus_per_node, one_rack.nodes) == (4, 18)
    assert rates(one_rack, (72, 1), (9, 8)) == [900, 900]
    two_racks = cluster_of(gb200, 128)
    assert two_racks.levels[0].gpus_reached == 64
    assert "64 of the 72" in two_racks.assumptions[0]
    assert rates(two_racks, (64, 1), (2, 64)) == [900, 50]
    asked = cluster_of(gb200, 128, gpus_per_node=32)
    assert asked.levels[0].gpus_reached == 32
    assert asked.assumptions == ()


def test_a_smaller_node_has_a_smaller_nvlink_domain():
    cluster = cluster_of(find_gpu("h100"), 8, gpus_per_node=4)
    assert cluster.nodes == 2
    assert rates(cluster, (4, 1), (8, 1)) == [450, 200]


def test_nvlink_ends_with_a_smaller_node_that_says_nothing_of_it():
    half = replace(find_node("dgx-h100"), gpus_per_node=4, link=None)
    assert cluster_of(find_gpu("h100"), 16, node=half).levels[0].gpus_reached == 4
    tray = replace(find_node("gb200-nvl72"), link=None)
    assert cluster_of(find_gpu("gb200"), 16, node=tray).levels[0].gpus_reached == 72


def test_a_mesh_gives_a_small_group_few_of_its_links():
    cluster = cluster_of(find_gpu("mi300x"), 8)
    assert rates(cluster, (2, 1), (4, 1), (8, 1)) == [64, 192, 448]


def test_bridged_pairs_then_pcie_then_network():
    cluster = cluster_of(find_gpu("h100-nvl"), 16)
    assert [link.gpus_reached for link in cluster.levels] == [2, 8, None]
    assert rates(cluster, (2, 1), (2, 2), (8, 1)) == [300, 63, 126]


def test_above_its_pods_a_network_may_be_oversubscribed():
    cluster = cluster_of(find_gpu("h100"), 16384, node=find_node("meta-grand-teton-h100"))
    assert [link.gpus_reached for link in cluster.levels] == [8, 3072, None]
    # eight rails of 50 in the pod; a ring over two pods shares what its 3,072 ranks have upwards
    assert rates(cluster, (3072, 1), (6144, 1)) == [400, 400]
    # a pair that leaves the pod has a seventh, one that stays has all
    assert rates(cluster, (2, 8), (2, 3072)) == pytest.approx([50, 50 / 7])
    # each to each of 64 nodes over two pods: half of what is sent crosses at a seventh
    outward = cluster.outward_bytes_per_second(128, 48, each_to_each=True)
    assert outward == pytest.approx(50e9 / 7 * 127 / 64)


def test_the_network_is_no_near_link_where_nodes_have_one_gpu():
    pod = Link("ethernet", "network", 12.5e9, 4)
    spine = Link("ethernet", "network", 2.5e9)
    single = replace(find_node("pcie-8xl40s"), gpus_per_node=1, link=None, network=pod, spine=spine)
    cluster = cluster_of(find_gpu("l40s"), 8, node=single)
    assert cluster.levels == (pod, spine)
    assert (cluster.gpus_nearest, cluster.nearest(4), cluster.nearest(2, 4)) == (1, 1, 1)
    # a ring in one pod, and one through both, whose four ranks each share what leads upwards
    assert rates(cluster, (4, 1), (8, 1), (2, 4)) == [12.5, 10, 2.5]


def test_bridges_that_are_bought_apart_are_not_assumed():
    cluster = cluster_of(find_gpu("a100-pcie"), 8)
    assert cluster.levels[0].kind == "pcie"
    assert rates(cluster, (2, 1)) == [31.5]
    assert any("bought apart" in line for line in cluster.assumptions)


def test_a_named_node_brings_its_links_and_its_price():
    h100 = find_gpu("h100")
    cluster = cluster_of(h100, 16, node=find_node("gcp-a3-highgpu-8g"))
    assert cluster.levels[-1].bytes_per_second_per_direction == 12.5e9
    assert cluster.levels[-1].kind == "ethernet"
    assert cluster.node == "gcp-a3-highgpu-8g"
    assert cluster_of(h100, 8, node=find_node("nebius-8xh100")).usd_per_gpu_hour == 2.95
    assert cluster_of(h100, 8, usd_per_gpu_hour=1.5).usd_per_gpu_hour == 1.5
    workstation = cluster_of(find_gpu("4090"), 4, node=find_node("workstation-4x4090"))
    assert rates(workstation, (4, 1)) == [20]


def test_a_network_that_is_given_is_shared_by_the_nodes_gpus():
    h100 = find_gpu("h100")
    given_network = cluster_of(
        h100, 64, gpus_per_node=4, node_network_bytes_per_second=100e9, node=find_node("dgx-h100")
    )
    assert given_network.levels[-1].bytes_per_second_per_direction == 25e9
    assert rates(given_network, (16, 1)) == [100]
    assert cluster_of(find_gpu("t4"), 16, node_network_bytes_per_second=25e9).assumptions == (
        "8 GPUs share a node: the usual node of t4 is not known",
    )


def test_what_is_not_known_is_assumed_and_said():
    one = cluster_of(find_gpu("t4"), 1)
    assert one.assumptions == ()
    many = cluster_of(find_gpu("t4"), 16)
    assert many.gpus_per_node == 8
    assert [line.split(":")[0] for line in many.assumptions] == [
        "8 GPUs share a node",
        "100 Gb/s of network a node",
    ]
    assert rates(many, (16, 1)) == [12.5]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"gpus": 0}, "gpus: got 0, expected at least 1"),
        ({"gpus": 8, "gpus_per_node": 0}, "gpus_per_node: got 0"),
        ({"gpus": 8, "node": find_node("dgx-a100-80gb")}, "holds a100-sxm4-80gb, the GPU given"),
        ({"gpus": 8, "node_network_bytes_per_second": 0}, "got 0, expected more than 0"),
    ],
)
def test_a_cluster_that_cannot_be(keywords, message):
    with pytest.raises(InputError, match=message):
        cluster_of(find_gpu("h100"), **keywords)


@given(
    st.sampled_from(["h100", "gb200", "mi300x", "h100-nvl", "rtx-4090", "t4", "gh200"]),
    st.integers(1, 2048),
    st.lists(st.tuples(st.integers(1, 512), st.integers(1, 512)), min_size=1, max_size=8),
)
def test_arrays_give_what_numbers_give(name, gpus, groups):
    cluster = cluster_of(find_gpu(name), gpus)
    sizes, strides = (np.array(column, float) for column in zip(*groups, strict=True))
    for each_to_each in (False, True):
        asked = {"each_to_each": each_to_each}
        together = cluster.outward_bytes_per_second(sizes, strides, **asked)
        apart = [cluster.outward_bytes_per_second(*group, **asked) for group in groups]
        assert np.broadcast_to(together, sizes.shape).tolist() == apart
    near = np.broadcast_to(cluster.nearest_bytes_per_second(sizes, strides), sizes.shape)
    assert near.tolist() == [cluster.nearest_bytes_per_second(*group) for group in groups]
    for size, stride in groups:
        rate = ring_rate(cluster, size, stride)
        if size > 1:
            slowest = min(link.bytes_per_second_per_direction for link in cluster.levels)
            # a pair in a mesh of 8 has a seventh of the link
            assert slowest / 8 <= rate <= cluster.levels[0].bytes_per_second_per_direction * size
        assert 1 <= cluster.members(0, size, stride) <= size
