"""`planner hardware list` and `show`, as users run them."""

from __future__ import annotations

import json

import pytest


def test_list_shows_every_gpu(run_planner):
    done = run_planner("hardware", "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["GPU", "memory", "bandwidth"]
    assert len(lines) == 58
    (h100,) = [line for line in lines if line.startswith("h100-sxm-80gb ")]
    for value in ("79.6 GiB", "3.35 TB/s", "989 TFLOP/s", "450 GB/s x 8 GPUs", "700 W", "6.88"):
        assert value in h100
    assert "\x1b" not in done.stdout


def test_list_shows_nodes(run_planner):
    done = run_planner("hardware", "list", "--nodes")
    assert done.returncode == 0
    (dgx,) = [line for line in done.stdout.splitlines() if line.startswith("dgx-h100 ")]
    assert "8 x h100-sxm-80gb" in dgx


def test_list_json_has_all(run_planner):
    done = run_planner("hardware", "list", "--json")
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert len(answer["gpus"]) == 57
    assert len(answer["nodes"]) == 49
    by_id = {gpu["id"]: gpu for gpu in answer["gpus"]}
    assert by_id["h100-sxm-80gb"]["memory_bytes"] == 81559 * 2**20
    assert by_id["h100-sxm-80gb"]["origin"] == "shipped"
    assert by_id["h100-sxm-80gb"]["problem"] is None


def test_a_users_profile_wins_and_a_broken_one_is_told(run_planner, tmp_path):
    shown = json.loads(run_planner("hardware", "show", "h100", "--json").stdout)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "h100.yaml").write_text(
        "id: h100-sxm-80gb\nname: Ours\nvendor: nvidia\narchitecture: Hopper\n"
        "memory: {kind: HBM3, total: 40 GiB, bandwidth: 3 TB/s}\n"
        "peak: {bf16: 900 TFLOPS}\nsources: {memory: {seen: recalled}}\n"
    )
    (folder / "broken.yaml").write_text("id: broken\n")
    settings = {"PLANNER_HARDWARE_PATH": str(folder)}
    ours = json.loads(run_planner("hardware", "show", "h100-sxm-80gb", "--json", **settings).stdout)
    assert shown["memory_bytes"] == 81559 * 2**20
    assert ours["memory_bytes"] == 40 * 2**30
    assert ours["origin"] == "PLANNER_HARDWARE_PATH"
    done = run_planner("hardware", "list", **settings)
    assert done.returncode == 0
    assert "broken.yaml:1: missing fields 'name'" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("h100-sxm-80gb ")]
    assert line.endswith("PLANNER_HARDWARE_PATH")
    assert run_planner("hardware", "show", "broken", **settings).returncode == 2


def test_show_json_is_the_profile(run_planner):
    answer = json.loads(run_planner("hardware", "show", "4090", "--json").stdout)
    assert answer["schema_version"] == 1
    assert answer["id"] == "rtx-4090"
    assert answer["memory_bytes"] == 24564 * 2**20
    assert answer["usable_memory_bytes"] == 24084 * 2**20
    assert answer["peak_flops_per_second"]["bf16"] == 165.2e12
    assert answer["link"] is None
    assert {source["group"] for source in answer["sources"]} >= {"memory", "peak"}
    node = json.loads(run_planner("hardware", "show", "dgx-h100", "--json").stdout)
    assert node["network"]["bytes_per_second_per_direction"] == 50e9


def test_show_prints_values_notes_and_sources(run_planner):
    done = run_planner("hardware", "show", "NVIDIA GeForce RTX 3090")
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("24.0 GiB GDDR6X", "936 GB/s", "71.0 TFLOP/s", "bought apart", "Notes", "Sources"):
        assert part in done.stdout
    assert "exception" in done.stdout
    assert run_planner("hardware", "show", "gb200-nvl72").stdout.count("900 GB/s x 72 GPUs") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "h100-smx"], "unknown gpu 'h100-smx': did you mean h100-sxm-80gb?"),
        (["show", "no.yaml"], "no.yaml: no such file"),
        (["show"], "Missing argument 'NAME'"),
        (["lst"], "No such command 'lst'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run_planner, arguments, message):
    done = run_planner("hardware", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_show_says_how_the_time_models_constants_are_known(run_planner):
    done = run_planner("hardware", "show", "4090")
    assert (done.returncode, done.stderr) == (0, "")
    (products,) = [line for line in done.stdout.splitlines() if line.startswith("matmul bf16 ")]
    assert "borrowed" in products
    assert "l40s" in products
    (overlap,) = [line for line in done.stdout.splitlines() if line.startswith("interference ")]
    assert "fitted" in overlap
    answer = json.loads(run_planner("hardware", "show", "h100", "--json").stdout)
    known = {row["kernel"]: row for row in answer["kernels"]}
    assert known["matmul bf16"]["evidence"] == "measured"
    assert 0 < known["matmul bf16"]["median_error"] < known["matmul bf16"]["p90_error"]
    assert known["matmul nvfp4"]["evidence"] == "assumed"
    constants = answer["step_constants"]
    assert constants["interference"]["evidence"] == "fitted"
    of_dispatchers = constants["dispatch_seconds"]["evidence"]
    assert of_dispatchers == {"alltoall": "fitted", "hybridep": "fitted"}
    assert "kernels" not in json.loads(run_planner("hardware", "show", "dgx-h100", "--json").stdout)


def test_a_node_type_is_planned_with_its_network_and_price(run_planner, tmp_path):
    def planned(gpu):
        done = run_planner(
            "fit", "--model", "qwen3-30b-a3b", "--gpu", gpu, "--gpus", "256", "--stack", "megatron",
            "--ep", "128", "--mbs", "1", "--gbs", "512", "--steps", "10", "--json",
        )  # fmt: skip
        assert done.stderr == ""
        return json.loads(done.stdout)

    pod = tmp_path / "our-pod.yaml"
    text = (
        "id: our-pod\nname: Ours\ngpu: h100-sxm-80gb\ngpus_per_node: 8\n"
        "network: {kind: roce, rate: 50 GB/s, gpus_reached: 64, oversubscription: 7}\n"
        "sources: {node: {seen: recalled}}\n"
    )
    pod.write_text(text)
    usual, rented, divided = planned("h100"), planned("gcp-a3-highgpu-8g"), planned(str(pod))
    assert {answer["hardware"]["gpu"] for answer in (usual, rented, divided)} == {"h100-sxm-80gb"}
    experts = [
        answer["time"]["breakdown_seconds"]["expert_parallel"]
        for answer in (usual, rented, divided)
    ]
    # an eighth of the traffic stays in a node; 12.5 in place of 50 GB/s; half leaves its pod
    assert experts[1] > 3 * experts[0]
    assert experts[2] > 2 * experts[0]
