"""Finding profiles: by path, id, alias, driver's name; in the users' folders before the shipped."""

from __future__ import annotations

import os

import pytest

from planner.errors import InputError
from planner.hardware import library
from planner.hardware.library import (
    GPU,
    NODE,
    all_gpus,
    all_nodes,
    find,
    find_gpu,
    find_node,
    list_files,
)

MINE = """\
id: {id}
name: Mine
vendor: nvidia
architecture: Hopper
aliases: [{alias}]
memory: {{kind: HBM3, total: 40 GiB, bandwidth: 3 TB/s}}
peak: {{bf16: 900 TFLOPS}}
sources: {{memory: {{seen: recalled}}}}
"""
MY_NODE = """\
id: my-node
name: My node
gpu: h100-sxm-80gb
gpus_per_node: 4
sources: {node: {seen: recalled}}
"""


@pytest.fixture
def environment(tmp_path):
    """Two folders of PLANNER_HARDWARE_PATH and a config folder, all empty."""
    for name in ("first", "second", "config/hardware_profiles"):
        (tmp_path / name).mkdir(parents=True)
    folders = os.pathsep.join(str(tmp_path / name) for name in ("first", "second"))
    return {"PLANNER_HARDWARE_PATH": folders, "PLANNER_CONFIG_DIR": str(tmp_path / "config")}


def put(path, name="mine", alias="my-alias"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINE.format(id=name, alias=alias))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("h100", "h100-sxm-80gb"),
        ("H100", "h100-sxm-80gb"),
        ("a100", "a100-sxm4-80gb"),
        ("b200", "b200-sxm-180gb"),
        ("v100", "v100-sxm2-32gb"),
        ("4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("rtx_4090", "rtx-4090"),
        ("mi300x", "mi300x-192gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("nvidia geforce rtx 3090", "rtx-3090"),
        ("AMD Instinct MI250X/MI250", "mi250x-128gb"),
    ],
)
def test_gpus_are_found_by_any_of_their_names(name, found, environment):
    gpu = find_gpu(name, environment)
    assert gpu.id == found
    assert gpu.origin == "shipped"
    assert find(name, environment) == gpu


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100-smx", "unknown gpu 'h100-smx': did you mean h100-sxm-80gb?"),
        ("RTX 4099", "unknown gpu 'RTX 4099': did you mean rtx-4090?"),
        ("qqq", "unknown gpu 'qqq': 57 are known, none is close"),
        ("", "unknown gpu '': 57 are known"),
        ("x" * 10_000, f"unknown gpu '{'x' * 100}'"),
        ("no/such.yaml", "no/such.yaml: no such file"),
        ("~nobody-here/gpu.yaml", "~nobody-here/gpu.yaml: no such file"),
        ("nul\0.yaml", "cannot be read"),
        (".", "is a folder, expected a file"),
    ],
)
def test_an_unknown_gpu_is_one_line(name, message, environment):
    with pytest.raises(InputError) as caught:
        find_gpu(name, environment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_looked_for_among_gpus_and_nodes(environment):
    with pytest.raises(InputError, match="unknown gpu 'dgx-h10': did you mean dgx-h100"):
        find("dgx-h10", environment)
    assert find("dgx-h100", environment) == find_node("dgx-h100", environment)


def test_a_path_is_read_as_what_it_is(tmp_path, environment):
    put(tmp_path / "any-name.yaml")
    (tmp_path / "node.yaml").write_text(MY_NODE)
    gpu = find_gpu(str(tmp_path / "any-name.yaml"), environment)
    assert (gpu.id, gpu.origin) == ("mine", "path")
    assert find(str(tmp_path / "any-name.yaml"), environment) == gpu
    assert find(str(tmp_path / "node.yaml"), environment).gpus_per_node == 4
    with pytest.raises(InputError, match="is the profile of a node, expected that of a gpu"):
        find_gpu(str(tmp_path / "node.yaml"), environment)
    with pytest.raises(InputError, match="is the profile of a gpu, expected that of a node"):
        find_node(str(tmp_path / "any-name.yaml"), environment)


def test_search_order(tmp_path, environment):
    places = [
        tmp_path / "config/hardware_profiles/gpus/h100-sxm-80gb.yaml",
        tmp_path / "second/h100-sxm-80gb.yaml",
        tmp_path / "first/gpus/other-name.yaml",
    ]
    origins = ["user", "PLANNER_HARDWARE_PATH", "PLANNER_HARDWARE_PATH"]
    assert find_gpu("h100-sxm-80gb", environment).origin == "shipped"
    for place, origin in zip(places, origins, strict=True):
        put(place, "h100-sxm-80gb")
        found = find_gpu("h100-sxm-80gb", environment)
        assert (found.path, found.origin) == (str(place), origin)
        assert found.memory_bytes == 40 * 2**30
    listed = [one for one in list_files(GPU, environment) if one.id == "h100-sxm-80gb"]
    assert [one.path for one in listed][:3] == [str(place) for place in reversed(places)]
    assert [one.replaced_by for one in listed] == [None, *[str(places[-1])] * 3]
    gpus = all_gpus(environment)
    assert len(gpus) == 57
    assert [gpu.path for gpu in gpus if gpu.id == "h100-sxm-80gb"] == [str(places[-1])]


def test_users_profiles_answer_to_their_aliases_and_are_suggested(tmp_path, environment):
    put(tmp_path / "first/thing.yaml", "lab-gpu", "labby")
    (tmp_path / "first/nodes").mkdir()
    (tmp_path / "first/nodes/my-node.yaml").write_text(MY_NODE)
    assert find_gpu("Labby", environment).id == "lab-gpu"
    assert find_node("my-node", environment).gpus_per_node == 4
    assert "lab-gpu" in {gpu.id for gpu in all_gpus(environment)}
    assert "my-node" in {node.id for node in all_nodes(environment)}
    with pytest.raises(InputError, match="did you mean lab-gpu"):
        find_gpu("lab-gpo", environment)


def test_a_broken_file_harms_only_itself(tmp_path, environment):
    broken = tmp_path / "first/lab-gpu.yaml"
    broken.write_text("id: lab-gpu\nid: again\n")
    assert find_gpu("h100", environment).origin == "shipped"
    with pytest.raises(InputError, match=r"lab-gpu\.yaml:2: duplicate key 'id'"):
        find_gpu("lab-gpu", environment)
    listed = list_files(GPU, environment)
    assert [one.path for one in listed if one.problem] == [str(broken)]
    assert "duplicate key" in listed[0].problem
    with pytest.raises(InputError, match="duplicate key"):
        all_gpus(environment)


def test_finding_by_alias_reads_two_files(environment, monkeypatch):
    read = []
    load = library.load
    monkeypatch.setattr(library, "load", lambda path: read.append(path) or load(path))
    library._shipped_names.cache_clear()
    find_gpu("h100", environment)
    assert [path.name for path in read] == ["names.yaml", "h100-sxm-80gb.yaml"]


def test_nodes_list(environment):
    assert len(list_files(NODE, environment)) == 49
