"""`planner hardware live --json` on described machines, by the installed command, the real
nvidia-ml-py and the fake library."""

from __future__ import annotations

import json
import re

import pytest
from nvml_machines import (
    CLUSTER,
    GIB,
    MIB,
    Machine,
    a100,
    a100_in_mig,
    bridged_3090,
    driver_2021,
    four_4090,
    future,
    gb10,
    h100,
    hgx_h100,
    mig_instance,
    on_bridge,
    on_switch,
    pci,
    rtx_3090,
    rtx_4090,
    uuid,
    with_instances,
)

GPU_KEYS = {
    *("index", "uuid", "name", "profile", "profile_source", "memory_total_bytes"),
    *("memory_free_bytes", "memory_used_bytes", "memory_reserved_bytes", "compute_capability"),
    *("sm_count", "power_limit_watts", "power_default_watts", "pcie_generation", "pcie_width"),
    *("pcie_max_generation", "pcie_max_width", "nvlink", "mig", "processes", "throttled"),
    *("state", "error"),
}


def test_a_healthy_node_with_switches(live):
    ran = live(hgx_h100())
    answer = ran.json
    assert ran.status == 0
    assert ran.stderr == ""
    assert answer["schema_version"] == 1
    assert answer["source"] == "nvml"
    assert (answer["driver_version"], answer["cuda_version"]) == ("550.90.07", "12.4")
    assert answer["warnings"] == []
    assert answer["interconnect"] == {
        "kind": "nvswitch",
        "bytes_per_second_per_direction": 450e9,
        "fabric": None,  # Hopper's fabric has no cluster: it ends at the node
    }
    assert [gpu["index"] for gpu in answer["gpus"]] == list(range(8))
    first = answer["gpus"][0]
    assert set(first) >= GPU_KEYS
    expected = {
        "uuid": uuid(1),
        "name": "NVIDIA H100 80GB HBM3",
        "profile": "h100-sxm-80gb",
        "profile_source": "matched",
        "memory_total_bytes": 81559 * MIB,
        "memory_free_bytes": (81559 - 604) * MIB,
        "memory_used_bytes": 4 * MIB,
        "memory_reserved_bytes": 600 * MIB,
        "compute_capability": "9.0",
        "sm_count": 132,
        "power_limit_watts": 700.0,
        "power_default_watts": 700.0,
        "pcie_generation": 1,
        "pcie_width": 16,
        "pcie_max_generation": 5,
        "pcie_max_width": 16,
        "mig": None,
        "processes": [],
        "throttled": [],
        "state": "ok",
        "error": None,
    }
    assert {key: first[key] for key in expected} == expected
    assert first["nvlink"] == {
        "links": 18,
        "bytes_per_second_per_direction": 450e9,
        "peers": [1, 2, 3, 4, 5, 6, 7],
    }


def test_nothing_is_changed_and_nothing_is_started(live):
    calls = {call.split()[0] for call in live(hgx_h100()).calls}
    asking = re.compile(r"nvml(InitWithFlags|Shutdown|(System|Device)Get\w+)")
    assert calls
    assert [call for call in calls if not asking.fullmatch(call)] == []


def test_a_rack_is_a_fabric_beyond_the_node(live):
    gb200 = [
        on_switch(h100(number), cluster=CLUSTER).but(
            name="NVIDIA GB200", memory=f"{189471 * MIB} {600 * MIB} 0", capability="10.0",
            cores=str(152 * 128), power_enforced="1200000", power_default="1200000",
        )
        for number in range(4)
    ]  # fmt: skip
    answer = live(Machine(tuple(gb200), driver="570.86.10", cuda=12080)).json
    assert answer["warnings"] == []
    assert {gpu["profile"] for gpu in answer["gpus"]} == {"gb200-186gb"}
    assert answer["gpus"][0]["nvlink"]["bytes_per_second_per_direction"] == 900e9
    assert answer["interconnect"]["fabric"] == {
        "cluster_uuid": "1a2b003c-4d5e-6f70-8192-a3b4c5d6e7f8",
        "clique": 7,
    }


def test_four_boards_without_links(live):
    answer = live(four_4090()).json
    assert answer["warnings"] == []
    assert [gpu["nvlink"] for gpu in answer["gpus"]] == [None] * 4
    assert [gpu["profile"] for gpu in answer["gpus"]] == ["rtx-4090"] * 4
    assert answer["interconnect"]["kind"] == "pcie"
    assert answer["interconnect"]["bytes_per_second_per_direction"] == pytest.approx(
        31.5e9, rel=1e-2
    )


def test_a_narrow_slot_is_told_and_decides(live):
    slots = ("1 16 4 16", "1 4 4 16", "1 16 4 16", "1 16 4 16")
    machine = Machine(tuple(rtx_4090(n).but(pcie=slot) for n, slot in enumerate(slots)))
    answer = live(machine).json
    assert answer["warnings"] == ["GPU 1 (NVIDIA GeForce RTX 4090): PCIe has 4 of 16 lanes"]
    assert answer["interconnect"]["bytes_per_second_per_direction"] == pytest.approx(
        7.88e9, rel=1e-2
    )


def test_two_boards_on_a_bridge(live):
    answer = live(bridged_3090()).json
    assert answer["warnings"] == []
    assert answer["gpus"][0]["nvlink"] == {
        "links": 4,
        "bytes_per_second_per_direction": 56.25e9,  # the payload, not the line rate of the field
        "peers": [1],
    }
    assert answer["interconnect"] == {
        "kind": "nvlink",
        "bytes_per_second_per_direction": 56.25e9,
        "fabric": None,
    }


def test_two_pairs_are_joined_only_by_pcie(live):
    ends = {0: 1, 1: 0, 2: 3, 3: 2}
    machine = Machine(tuple(on_bridge(rtx_3090(n), to) for n, to in ends.items()))
    answer = live(machine).json
    assert answer["interconnect"]["kind"] == "pcie"
    assert answer["gpus"][2]["nvlink"]["peers"] == [3]


def test_a_board_without_its_bridge_lacks_nothing(live):
    down = tuple("link down gpu 00000000:00:00.0" for _ in range(4))
    answer = live(Machine((rtx_3090(0).having(*down), rtx_3090(1).having(*down)))).json
    assert answer["gpus"][0]["nvlink"] is None
    assert answer["warnings"] == []


def test_links_that_are_down_are_told(live):
    machine = Machine((on_switch(h100(0)), on_switch(h100(1), up=16)))
    answer = live(machine).json
    assert answer["gpus"][1]["nvlink"]["links"] == 16
    assert answer["interconnect"]["bytes_per_second_per_direction"] == 400e9
    assert answer["warnings"] == ["GPU 1 (NVIDIA H100 80GB HBM3): 2 of 18 NVLink links are down"]


def test_more_links_than_the_oldest_binding_knows(live):
    machine = Machine((on_switch(h100(0), links=36), on_switch(h100(1), links=36)))
    assert live(machine).json["gpus"][0]["nvlink"]["links"] == 36


def test_a_fabric_that_is_not_ready(live):
    joining = on_switch(h100(0)).but(fabric=f"2 0 {'0' * 32} 0 0")
    answer = live(Machine((joining, on_switch(h100(1))))).json
    assert len(answer["warnings"]) == 1
    assert answer["warnings"][0].startswith(
        "GPU 0 (NVIDIA H100 80GB HBM3): the NVLink fabric is not"
    )


def test_mig_instances_are_small_gpus(live):
    ran = live(a100_in_mig())
    answer = ran.json
    assert ran.status == 0
    assert [gpu["uuid"] for gpu in answer["gpus"]] == [uuid(1, "MIG"), uuid(2, "MIG")]
    assert [gpu["mig"] for gpu in answer["gpus"]] == [
        {"profile": "3g.20gb", "parent_uuid": uuid(1)},
        {"profile": "1g.5gb", "parent_uuid": uuid(1)},
    ]
    small = answer["gpus"][1]
    assert small["index"] == 0
    assert small["profile"] == "a100-sxm4-40gb"
    assert small["profile_source"] == "derived"
    assert small["sm_count"] == 14
    assert small["memory_total_bytes"] == 4864 * MIB
    assert small["compute_capability"] == "8.0"  # these four only the parent knows
    assert small["power_limit_watts"] == 400.0
    assert small["pcie_max_generation"] == 4
    assert small["pcie_width"] == 16
    assert small["nvlink"] is None
    assert answer["interconnect"] is None
    assert len(answer["warnings"]) == 1
    assert "cannot be joined" in answer["warnings"][0]
    assert "CUDA_VISIBLE_DEVICES" in answer["warnings"][0]


@pytest.mark.parametrize("profile", ["1c.3g.20gb", "1g.10gb+me"])
def test_other_names_of_mig_profiles(live, profile):
    instance = mig_instance(1, "NVIDIA A100-SXM4-40GB", profile, sms=14, slices=1, mib=9856)
    answer = live(Machine((with_instances(a100(0), (3, instance)),))).json
    assert answer["gpus"][0]["mig"]["profile"] == profile
    assert answer["warnings"] == []


def test_a_capped_gpu(live):
    capped = on_switch(h100(1)).but(power_enforced="400000")
    answer = live(Machine((on_switch(h100(0)), capped))).json
    assert answer["gpus"][1]["power_limit_watts"] == 400.0
    assert answer["gpus"][1]["power_default_watts"] == 700.0
    assert len(answer["warnings"]) == 1
    assert "GPU 1" in answer["warnings"][0]
    assert "400 W of 700 W" in answer["warnings"][0]


def test_a_busy_gpu(live):
    busy = (
        h100(0)
        .but(memory=f"{81559 * MIB} {600 * MIB} {30 * GIB}", throttle="0x24")
        .having(
            f"process compute 4242 {20 * GIB}",
            f"process graphics 4242 {20 * GIB}",
            "process compute 77 unknown",
            "process mps 99 1048576",
        )
    )
    machine = Machine((busy,), system=("program 4242 python train.py",))
    answer = live(machine).json
    gpu = answer["gpus"][0]
    assert gpu["processes"] == [
        {"pid": 77, "name": None, "used_bytes": None},
        {"pid": 99, "name": None, "used_bytes": MIB},
        {"pid": 4242, "name": "python train.py", "used_bytes": 20 * GIB},
    ]
    assert gpu["throttled"] == ["sw_power_cap", "sw_thermal_slowdown"]
    told = " | ".join(answer["warnings"])
    assert "pid 4242 (python train.py, 20,480 MiB)" in told
    assert "MPS" in told
    assert "sw_thermal_slowdown" in told
    assert "sw_power_cap" not in told  # at its power limit is where a busy GPU belongs


def test_memory_that_nobody_owns_up_to(live):
    busy = h100(0).but(memory=f"{81559 * MIB} {600 * MIB} {10 * GIB}")
    warnings = live(Machine((busy,))).json["warnings"]
    assert len(warnings) == 1
    assert "10,240 MiB are used by programs that NVML does not list" in warnings[0]


def test_processes_that_may_not_be_asked(live):
    refused = tuple(
        f"status nvmlDeviceGet{kind}RunningProcesses{version} 4"
        for kind in ("Compute", "Graphics", "MPSCompute")
        for version in ("", "_v2", "_v3")
    )
    answer = live(Machine((h100(0).having(*refused),))).json
    assert answer["gpus"][0]["processes"] is None
    assert len(answer["warnings"]) == 1
    assert "may not be asked" in answer["warnings"][0]


def test_prohibited_compute_mode(live):
    warnings = live(Machine((h100(0).but(compute_mode="2"),))).json["warnings"]
    assert len(warnings) == 1
    assert "prohibited" in warnings[0]


def test_unlike_gpus(live):
    machine = Machine((rtx_3090(0), rtx_4090(1)))
    answer = live(machine).json
    assert [gpu["profile"] for gpu in answer["gpus"]] == ["rtx-3090", "rtx-4090"]
    assert len(answer["warnings"]) == 2
    assert "rtx-3090, rtx-4090" in answer["warnings"][0]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in answer["warnings"][1]
    ordered = live(machine, CUDA_DEVICE_ORDER="PCI_BUS_ID").json
    assert ordered["warnings"] == answer["warnings"][:1]


def test_unified_memory_is_the_hosts(live):
    ran = live(Machine((gb10(0),), driver="580.95.05", cuda=13000))
    gpu = ran.json["gpus"][0]
    assert ran.status == 0
    assert gpu["state"] == "ok"
    assert gpu["memory_total_bytes"] > gpu["memory_free_bytes"] > 0
    assert gpu["memory_total_bytes"] % 1024 == 0
    assert gpu["memory_reserved_bytes"] is None
    assert gpu["sm_count"] == 48
    assert any("unified" in warning for warning in ran.json["warnings"])


def test_memory_that_is_not_supported_elsewhere_is_an_error(live):
    ran = live(Machine((h100(0).but(memory=None), h100(1))))
    assert ran.status == 0
    assert ran.json["gpus"][0]["state"] == "error"
    assert "memory cannot be read" in ran.json["gpus"][0]["error"]


def test_an_unknown_future_gpu(live):
    ran = live(Machine((future(0),), driver="700.10.00", cuda=14020))
    gpu = ran.json["gpus"][0]
    assert ran.status == 0
    assert gpu["profile"] == "nvidia-x900-512gb"
    assert gpu["profile_source"] == "derived"
    assert gpu["sm_count"] == 200
    assert ran.json["cuda_version"] == "14.2"
    assert len(ran.json["warnings"]) == 1
    assert "derived" in ran.json["warnings"][0]


def test_links_of_a_future_gpu_have_the_payload_of_their_line_rate(live):
    gpus = [on_switch(future(n)).but(nvlink_speed="106250") for n in range(2)]
    answer = live(Machine(tuple(gpus))).json
    rate = answer["gpus"][0]["nvlink"]["bytes_per_second_per_direction"]
    assert rate == pytest.approx(18 * 100e9)


def test_a_virtual_gpu_is_not_its_board(live):
    part = a100(0).but(memory=f"{10240 * MIB} {100 * MIB} 0")
    gpu = live(Machine((part,))).json["gpus"][0]
    assert (gpu["profile"], gpu["profile_source"]) == ("nvidia-a100-sxm4-40gb", "derived")


@pytest.mark.parametrize(
    ("name", "total_mib", "capability", "profile"),
    [
        ("NVIDIA H200", 143771, "9.0", "h200-sxm-141gb"),
        ("NVIDIA H200 NVL", 143771, "9.0", "h200-nvl-141gb"),
        ("NVIDIA H20", 97871, "9.0", "h20-96gb"),
        ("NVIDIA L40", 46068, "8.9", "l40"),
        ("NVIDIA L40S", 46068, "8.9", "l40s"),
        ("NVIDIA A10", 23028, "8.6", "a10"),
        ("NVIDIA A10G", 22731, "8.6", "a10g"),
        ("NVIDIA GH200 480GB", 97871, "9.0", "gh200-96gb"),
        ("A100-SXM4-80GB", 81251, "8.0", "a100-sxm4-80gb"),
        ("Tesla T4", 15109, "7.5", "t4"),
        ("NVIDIA GeForce RTX 4090 D", 24564, "8.9", "nvidia-geforce-rtx-4090-d"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "8.9", "nvidia-geforce-rtx-4090-laptop-gpu"),
        ("NVIDIA H100 80GB HBM3", 81559, "9.1", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA H800", 143771, "9.0", "nvidia-h800"),
    ],
)
def test_the_whole_name_memory_and_capability_decide(live, name, total_mib, capability, profile):
    one = h100(0).but(name=name, memory=f"{total_mib * MIB} 0 0", capability=capability)
    assert live(Machine((one,))).json["gpus"][0]["profile"] == profile


def test_a_driver_of_2021(live):
    ran = live(driver_2021())
    answer = ran.json
    first = answer["gpus"][0]
    assert ran.status == 0
    assert answer["warnings"] == []
    assert (answer["driver_version"], answer["cuda_version"]) == ("460.91.03", "11.2")
    assert first["profile"] == "v100-sxm2-16gb"
    assert first["sm_count"] == 80  # the profile's: this driver cannot count
    assert first["memory_reserved_bytes"] is None
    assert first["memory_used_bytes"] == 604 * MIB  # with what the driver reserves
    assert first["processes"] == []
    assert first["nvlink"]["peers"] == [1, 2, 3]
    assert first["nvlink"]["bytes_per_second_per_direction"] == 150e9
    assert answer["interconnect"]["kind"] == "nvlink"


@pytest.mark.parametrize(
    "driver", ["440.33.01", "460.91.03", "470.82.01", "510.47.03", "550.90.07"]
)
def test_processes_through_every_generation_of_lists(live, driver):
    busy = a100(0).having(f"process compute 4242 {GIB}", "process compute 4243 unknown")
    machine = Machine((busy,), driver=driver, system=("program 4242 train",))
    assert live(machine).json["gpus"][0]["processes"] == [
        {"pid": 4242, "name": "train", "used_bytes": GIB},
        {"pid": 4243, "name": None, "used_bytes": None},
    ]


def test_switches_before_the_driver_named_them(live):
    """Before 470 nobody says what is at a link's other end: all reach the same, which is no GPU."""
    machine = Machine(
        tuple(on_switch(a100(number), links=12) for number in range(4)), driver="460.91.03"
    )
    answer = live(machine).json
    assert answer["interconnect"]["kind"] == "nvswitch"
    assert answer["interconnect"]["bytes_per_second_per_direction"] == 300e9


def test_what_one_gpu_lacks_costs_no_other_fact(live):
    whole = live(Machine((h100(0),))).json["gpus"][0]
    lacking = h100(0).but(ecc=None, pcie=None, throttle=None, power_default=None, cores=None)
    answer = live(Machine((lacking,))).json
    gone = {"pcie_width", "pcie_generation", "pcie_max_generation", "pcie_max_width"}
    gone |= {"ecc", "throttled", "power_default_watts"}
    assert {key for key, value in answer["gpus"][0].items() if value != whole[key]} == gone
    assert all(answer["gpus"][0][key] is None for key in gone)


def test_the_table_is_for_people(planner):
    ran = planner(Machine((h100(0), h100(1).but(power_enforced="500000"))), "hardware", "live")
    assert ran.status == 0
    assert "h100-sxm-80gb" in ran.stdout
    assert "500 of 700" in ran.stdout
    assert "2 of 2 usable" in ran.stdout
    assert "500 W of 700 W" in ran.stderr


def test_a_name_in_brackets_is_shown_as_it_is(planner):
    ran = planner(Machine((h100(0).but(name="NVIDIA [bold]X900[/bold]"),)), "hardware", "live")
    assert "NVIDIA [bold]X900[/bold]" in ran.stdout


def test_addresses_match_whatever_their_digits(live):
    short = tuple(f"link up gpu {pci(1)[4:].lower()}" for _ in range(4))
    machine = Machine((rtx_3090(0).having(*short), on_bridge(rtx_3090(1), 0)))
    assert live(machine).json["gpus"][0]["nvlink"]["peers"] == [1]


def test_json_is_one_document(live):
    ran = live(four_4090())
    assert json.loads(ran.stdout)
    assert ran.stdout.endswith("}\n")
