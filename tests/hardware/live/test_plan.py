"""`--gpu live`: planning with the GPUs of a described machine, and their profile as a file."""

from __future__ import annotations

import dataclasses

import pytest
from nvml_machines import (
    GIB,
    MIB,
    Machine,
    a100_in_mig,
    bridged_3090,
    driver_2021,
    four_4090,
    future,
    gb10,
    h100,
    hgx_h100,
    on_switch,
    rtx_3090,
    rtx_4090,
    uuid,
)

from planner.hardware.library import find_gpu
from planner.hardware.power import power_slowdown

# Small enough for every machine here, and large enough that matrix products decide the time.
QUESTION = ("--model", "llama-3.2-1b", "--sequence-length", "2048", "--optimizer", "sgd")


@pytest.fixture
def fit(planner):
    def run(machine: Machine, *arguments: str, **variables: str):
        asked = ("fit", *QUESTION, "--gpu", "live", "--json", *arguments)
        return planner(machine, *asked, **variables)

    return run


@pytest.fixture
def saved(planner, tmp_path):
    """The profile that --save writes, read back by the library."""

    def run(machine: Machine, **variables: str):
        file = tmp_path / "ours.yaml"
        ran = planner(machine, "hardware", "live", "--save", str(file), **variables)
        assert ran.status == 0, ran.stderr
        return find_gpu(str(file))

    return run


def test_all_usable_gpus_are_planned_with(fit):
    ran = fit(hgx_h100())
    assert ran.status == 0, ran.stderr
    answer = ran.json
    assert answer["hardware"] == {"gpu": "h100-sxm-80gb", "gpus": 8, "gpus_per_node": 8}
    assert answer["memory"]["capacity_bytes"] == 81559 * MIB
    assert answer["memory"]["available_bytes"] == (81559 - 604) * MIB


def test_what_is_reserved_and_what_others_hold_is_not_there(fit):
    busy = (
        h100(1)
        .but(memory=f"{81559 * MIB} {600 * MIB} {30 * GIB}")
        .having(f"process compute 4242 {30 * GIB}")
    )
    machine = Machine((h100(0), busy), system=("program 4242 python train.py",))
    ran = fit(machine, "--reserve", "10GiB")
    assert ran.json["memory"]["available_bytes"] == (81559 - 600) * MIB - 40 * GIB
    assert any("pid 4242 (python train.py, 30,720 MiB)" in one for one in ran.json["warnings"])


def test_a_power_cap_makes_the_step_longer(fit):
    free = fit(hgx_h100()).json["time"]["step_seconds"]
    capped = Machine(tuple(gpu.but(power_enforced="350000") for gpu in hgx_h100().gpus))
    slower = fit(capped).json["time"]["step_seconds"]
    assert 1.05 * free < slower < 1.6 * free


def test_one_capped_gpu_slows_all(saved):
    profile = saved(Machine((on_switch(h100(0)), on_switch(h100(1)).but(power_enforced="350000"))))
    whole = find_gpu("h100-sxm-80gb")
    assert profile.peak("bf16") == pytest.approx(whole.peak("bf16") * power_slowdown(350, 700))


def test_a_sick_gpu_is_planned_without(fit):
    sick = rtx_4090(2).having("status nvmlDeviceGetHandleByIndex_v2 15")
    ran = fit(Machine((rtx_4090(0), rtx_4090(1), sick, rtx_4090(3))))
    assert ran.json["hardware"]["gpus"] == 3
    assert any("GPU 2 is left out" in one for one in ran.json["warnings"])


def test_the_smallest_of_unlike_gpus_decides(fit, saved):
    machine = Machine((rtx_3090(0), rtx_4090(1)))
    answer = fit(machine).json
    assert answer["hardware"]["gpus"] == 2
    assert answer["memory"]["capacity_bytes"] == 24564 * MIB  # the 4090's
    profile = saved(machine)
    assert profile.peak("bf16") == find_gpu("rtx-3090").peak("bf16")
    assert profile.memory_bandwidth_bytes_per_second == 936e9  # the 3090's


def test_one_mig_instance_is_planned_with(fit, saved):
    answer = fit(a100_in_mig(), CUDA_VISIBLE_DEVICES=uuid(1, "MIG")).json
    assert answer["hardware"]["gpus"] == 1
    assert answer["memory"]["capacity_bytes"] == 20096 * MIB
    instance = saved(a100_in_mig(), CUDA_VISIBLE_DEVICES=uuid(1, "MIG"))
    board = find_gpu("a100-sxm4-40gb")
    assert instance.id == "a100-sxm4-40gb-mig-3g.20gb"
    assert instance.peak("bf16") == pytest.approx(board.peak("bf16") * 42 / 108)
    assert instance.memory_bandwidth_bytes_per_second == pytest.approx(1555e9 / 2)
    assert instance.link is None


def test_the_smallest_of_several_instances(fit):
    ran = fit(a100_in_mig())
    assert ran.json["memory"]["capacity_bytes"] == 4864 * MIB
    assert ran.json["hardware"]["gpus"] == 1
    assert any("cannot be joined" in one for one in ran.json["warnings"])


@pytest.mark.parametrize(
    ("machine", "variables", "told"),
    [
        (Machine(()), {}, "no NVIDIA GPU"),
        (four_4090(), {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
        (Machine((h100(0).having("status every 15"),)), {}, "fallen off the bus"),
    ],
)
def test_without_a_gpu_it_says_so(fit, machine, variables, told):
    ran = fit(machine, **variables)
    assert ran.status == 3
    assert ran.stdout == ""
    assert told in ran.line()


def test_links_are_those_of_the_machine(saved):
    switched = saved(hgx_h100()).link
    assert (switched.topology, switched.gpus_reached) == ("switch", 8)
    assert switched.bytes_per_second_per_direction == 450e9
    bridged = saved(bridged_3090()).link
    assert (bridged.topology, bridged.gpus_reached) == ("bridge", 2)
    assert bridged.bytes_per_second_per_direction == 56.25e9
    assert saved(Machine((rtx_3090(0), rtx_3090(1)))).link is None


def test_an_unknown_gpu_has_the_rates_of_its_units(saved):
    profile = saved(Machine((future(0),)))
    # nearest known capability 12.0: 1024 bf16 FLOPs per clock and multiprocessor
    assert profile.peak("bf16") == pytest.approx(200 * 2.5e9 * 1024)
    assert profile.memory_bandwidth_bytes_per_second == pytest.approx(5000e6 * 2 * 16384 / 8)
    assert profile.memory_bytes == 500_000 * MIB
    assert any(note.startswith("Derived") for note in profile.notes)


@pytest.mark.parametrize(
    "gpu_id", ["v100-sxm2-16gb", "t4", "a10", "a30", "a100-sxm4-80gb", "h100-sxm-80gb",
               "l4", "l40s", "b200-sxm-180gb", "rtx-3090", "rtx-4090", "rtx-5090",
               "rtx-pro-6000-blackwell"],
)  # fmt: skip
def test_known_boards_would_be_derived_right(gpu_id):
    """Forget a board, derive it from its clocks and units, and compare with what is published."""
    from planner.hardware.library import all_gpus
    from planner.hardware.live_match import derive
    from planner.hardware.live_silicon import chip_of
    from planner.hardware.live_types import Clocks, LiveGpu

    board = find_gpu(gpu_id)
    gpu = LiveGpu(
        0,
        "ok",
        name=board.nvml_names[0],
        compute_capability=board.compute_capability,
        memory_total_bytes=board.memory_bytes,
        sm_count=board.sm_count,
        clocks=Clocks(None, round(board.boost_clock_hz / 1e6), None, None),
    )
    assert chip_of(board.compute_capability).architecture
    others = [one for one in all_gpus() if one.id != gpu_id]
    derived = derive(gpu, others)
    assert set(derived.peak_flops_per_second) == set(board.peak_flops_per_second)
    for dtype, peak in board.peak_flops_per_second.items():
        assert derived.peak(dtype) == pytest.approx(peak, rel=0.12), dtype


def test_unified_memory_is_planned_with(fit):
    ran = fit(Machine((gb10(0),), driver="580.95.05", cuda=13000))
    assert ran.status in (0, 1), ran.stderr
    assert any("unified" in one for one in ran.json["warnings"])


def test_a_driver_of_2021_is_enough_to_plan(fit):
    answer = fit(driver_2021()).json
    assert answer["hardware"] == {"gpu": "v100-sxm2-16gb", "gpus": 4, "gpus_per_node": 4}


@pytest.mark.parametrize(
    "machine", [hgx_h100(), four_4090(), a100_in_mig(), Machine((future(0),)), driver_2021()]
)
def test_a_saved_profile_answers_alike_elsewhere(planner, fit, tmp_path, machine):
    file = tmp_path / "ours.yaml"
    planner(machine, "hardware", "live", "--save", str(file))
    here = fit(machine, "--gpus", "1").json
    elsewhere = planner(
        machine, "fit", *QUESTION, "--gpus", "1", "--gpu", str(file), "--json",
        LD_LIBRARY_PATH=str(tmp_path),  # a machine without a driver
    ).json  # fmt: skip
    assert elsewhere["memory"]["peak_bytes"] == here["memory"]["peak_bytes"]
    assert elsewhere["memory"]["capacity_bytes"] == here["memory"]["capacity_bytes"]
    assert elsewhere["time"]["step_seconds"] == pytest.approx(here["time"]["step_seconds"])


def test_saving_twice_replaces_and_leaves_nothing_else(planner, tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    for machine in (four_4090(), hgx_h100()):
        planner(machine, "hardware", "live", "--save", str(folder / "ours.yaml"))
    assert [path.name for path in folder.iterdir()] == ["ours.yaml"]
    assert find_gpu(str(folder / "ours.yaml")).id == "h100-sxm-80gb"


def test_a_place_where_nothing_can_be_saved(planner, tmp_path):
    file = tmp_path / "none" / "ours.yaml"
    ran = planner(four_4090(), "hardware", "live", "--json", "--save", str(file))
    assert ran.status == 2
    assert str(file) in ran.line()


def test_nothing_of_the_profile_is_lost_in_the_file(saved):
    """All that is not in the file is where it was read from."""
    profile = saved(Machine((h100(0),)))
    shipped = find_gpu("h100-sxm-80gb")
    same = ("memory_bytes", "usable_memory_bytes", "memory_bandwidth_bytes_per_second", "l2_bytes",
            "peak_flops_per_second", "boost_clock_hz", "power_limit_watts", "sm_count", "price",
            "measured", "nvml_names", "architecture", "network_bytes_per_second")  # fmt: skip
    for field in same:
        assert getattr(profile, field) == getattr(shipped, field), field
    assert dataclasses.asdict(profile)["compute_capability"] == "9.0"
