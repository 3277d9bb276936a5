"""The profiles that are shipped: they load, say where they come from, and are plausible."""

from __future__ import annotations

from collections import Counter

import pytest

from planner.documents import load
from planner.hardware import plausibility
from planner.hardware.cluster import cluster_of
from planner.hardware.gpu_file import read_gpu
from planner.hardware.library import reference_titles
from planner.hardware.node_file import read_node
from planner.resources import HARDWARE_PROFILES, shipped_folder

FOLDER = shipped_folder(HARDWARE_PROFILES)
GPUS = {path.stem: read_gpu(load(path)) for path in (FOLDER / "gpus").glob("*.yaml")}
NODES = {path.stem: read_node(load(path)) for path in (FOLDER / "nodes").glob("*.yaml")}

# From the vendors' datasheets, dense: memory as sold [GB], bandwidth [GB/s], bf16 (V100: fp16)
# [TFLOPS], fp32 [TFLOPS], GPU link per direction [GB/s], power limit [W].
DATASHEETS = {
    "v100-sxm2-32gb": (32, 900, 125, 15.7, 150, 300),
    "a100-sxm4-40gb": (40, 1555, 312, 19.5, 300, 400),
    "a100-sxm4-80gb": (80, 2039, 312, 19.5, 300, 400),
    "h100-sxm-80gb": (80, 3350, 989.5, 67, 450, 700),
    "h100-pcie-80gb": (80, 2000, 756, 51, 300, 350),
    "h200-sxm-141gb": (141, 4800, 989.5, 67, 450, 700),
    "b200-sxm-180gb": (180, 8000, 2250, 80, 900, 1000),
    "l40s": (48, 864, 362.05, 91.6, None, 350),
    "rtx-4090": (24, 1008, 165.2, 82.6, None, 450),
    "mi300x-192gb": (192, 5300, 1307.4, 163.4, 448, 750),
}


def test_there_is_a_profile_for_each_of_the_collected_devices():
    assert len(GPUS) >= 57
    assert len(NODES) >= 49


@pytest.mark.parametrize("name", sorted(GPUS))
def test_gpu_says_where_its_values_come_from(name):
    gpu = GPUS[name]
    groups = {source.group: source for source in gpu.sources}
    needed = {"identity", "memory", "peak"}
    needed |= {"link"} if gpu.link else set()
    needed |= {"price"} if gpu.price else set()
    needed |= {"measured"} if gpu.measured else set()
    needed |= {"chip"} if gpu.sm_count or gpu.power_limit_watts else set()
    assert needed <= set(groups)
    titles = reference_titles()
    for source in gpu.sources:
        assert set(source.references) <= set(titles)
        assert source.references or source.seen == "recalled"


@pytest.mark.parametrize("name", sorted(GPUS))
def test_gpu_breaks_exactly_the_rules_that_it_lists(name):
    broken = {finding.rule for finding in plausibility.check(GPUS[name])}
    assert broken == {exemption.rule for exemption in GPUS[name].exceptions}


@pytest.mark.parametrize("name", sorted(GPUS))
def test_gpu_file_is_named_by_its_id_and_makes_a_cluster(name):
    gpu = GPUS[name]
    assert gpu.id == name
    assert cluster_of(gpu, 1000).outward_bytes_per_second(1000) > 0
    assert 0.95 * gpu.memory_bytes <= gpu.torch_memory_bytes <= gpu.memory_bytes


@pytest.mark.parametrize("name", sorted(NODES))
def test_node_says_where_its_values_come_from_and_holds_a_known_gpu(name):
    node = NODES[name]
    assert node.id == name
    assert [source.group for source in node.sources] == ["node"]
    assert set(node.sources[0].references) <= set(reference_titles())
    gpu = GPUS[node.gpu]
    assert cluster_of(gpu, 100, node=node).node == name
    if node.link is not None and gpu.link is not None and name != "frontier-node":
        assert node.link.kind == gpu.link.kind
        assert node.link.bytes_per_second_per_direction <= gpu.link.bytes_per_second_per_direction


@pytest.mark.parametrize("name", sorted(DATASHEETS))
def test_gpu_agrees_with_its_datasheet(name):
    memory_gb, bandwidth, tensor, fp32, link, watts = DATASHEETS[name]
    gpu = GPUS[name]
    # Sold in GB, reported in MiB: "80 GB" are 81559 to 81920 MiB, and never 80 x 10^9 bytes.
    assert memory_gb * 1e9 < gpu.memory_bytes <= memory_gb * 2**30
    assert gpu.memory_bandwidth_bytes_per_second == pytest.approx(bandwidth * 1e9, rel=1e-3)
    dtype = "bf16" if "bf16" in gpu.peak_flops_per_second else "fp16"
    assert gpu.peak(dtype) == pytest.approx(tensor * 1e12, rel=1e-3)
    assert gpu.peak("fp32") == pytest.approx(fp32 * 1e12, rel=5e-3)
    if link is None:
        assert gpu.link is None
    else:
        assert gpu.link.bytes_per_second_per_direction == link * 1e9
    assert gpu.power_limit_watts == watts


def test_a_gpu_without_bf16_units_runs_it_on_the_fp32_ones():
    v100 = GPUS["v100-sxm2-32gb"]
    assert not v100.runs_natively("bf16")
    assert v100.peak("bf16") == v100.peak("fp32") == 15.7e12
    assert v100.peak("fp8") is None


def test_the_index_of_names_is_that_of_the_profiles():
    index = load(FOLDER / "names.yaml").data
    assert index == {name: [*gpu.aliases, *gpu.nvml_names] for name, gpu in GPUS.items()}


def test_no_name_means_two_gpus():
    names = Counter()
    for gpu in GPUS.values():
        names.update({name.casefold() for name in (gpu.id, *gpu.aliases, *gpu.nvml_names)})
    assert [name for name, count in names.items() if count > 1] == []


def test_every_reference_is_used():
    used = {
        key
        for profile in (*GPUS.values(), *NODES.values())
        for source in profile.sources
        for key in source.references
    }
    assert set(reference_titles()) == used
