"""Every described machine with every form of CUDA_VISIBLE_DEVICES that applies to it."""

from __future__ import annotations

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
    rtx_3090,
    rtx_4090,
    uuid,
)

MACHINES = {
    "8 x H100 with NVSwitch": hgx_h100(),
    "4 x RTX 4090 on PCIe": four_4090(),
    "two boards on a bridge": bridged_3090(),
    "a driver of 2021": driver_2021(),
    "a capped and a busy GPU": Machine(
        (
            h100(0).but(power_enforced="400000"),
            h100(1)
            .but(memory=f"{81559 * MIB} {600 * MIB} {30 * GIB}")
            .having(f"process compute 4242 {30 * GIB}"),
        )
    ),
    "unlike GPUs": Machine((rtx_3090(0), rtx_4090(1))),
    "unified memory": Machine((gb10(0),), driver="580.95.05", cuda=13000),
    "an unknown future GPU": Machine((future(0),), driver="700.10.00", cuda=14020),
    "one of three lost": Machine(
        (rtx_4090(0), rtx_4090(1), rtx_4090(2).having("status nvmlDeviceGetName 15"))
    ),
}
FORMS = ("unset", "number", "numbers", "uuid", "beginning", "mixture", "broken off", "hidden")


def unique_beginning(machine: Machine, number: int) -> str:
    uuids = [gpu.values["uuid"] for gpu in machine.gpus]
    mine = uuids.pop(number)
    length = len("GPU-x")
    while any(other.startswith(mine[:length]) for other in uuids):
        length += 1
    return mine[:length]


def listed_and_expected(machine: Machine, form: str) -> tuple[str | None, list[int]]:
    last = len(machine.gpus) - 1
    every = list(range(last + 1))
    forms = {
        "unset": (None, every),
        "number": ("0", [0]),
        "numbers": (",".join(map(str, reversed(every))), every[::-1]),
        "uuid": (machine.gpus[0].values["uuid"], [0]),
        "beginning": (unique_beginning(machine, 0), [0]),
        "mixture": (",".join(["0", *(gpu.values["uuid"] for gpu in machine.gpus[1:])]), every),
        "broken off": (f"0,{last + 1},{last}", [0]),
        "hidden": ("-1", []),
    }
    return forms[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MACHINES)
def test_what_is_visible(live, name, form):
    machine = MACHINES[name]
    listed, expected = listed_and_expected(machine, form)
    ran = live(machine, **({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}))
    if not expected:
        assert ran.status == 3
        assert "CUDA_VISIBLE_DEVICES" in ran.line()
        return
    answer = ran.json
    assert ran.status == 0
    assert ran.stderr == ""
    assert [gpu["index"] for gpu in answer["gpus"]] == expected
    assert [gpu["uuid"] for gpu in answer["gpus"]] == [
        machine.gpus[index].values["uuid"] for index in expected
    ]
    ignored = [one for one in answer["warnings"] if one.startswith("CUDA_VISIBLE_DEVICES")]
    assert len(ignored) == (form == "broken off")
    usable = [gpu["index"] for gpu in answer["gpus"] if gpu["state"] == "ok"]
    for gpu in answer["gpus"]:
        assert set((gpu["nvlink"] or {"peers": []})["peers"]) <= set(usable) - {gpu["index"]}
    assert (answer["interconnect"] is None) == (len(usable) < 2)
    for index, hidden in enumerate(machine.gpus):
        if index not in expected:
            asked = [call for call in ran.calls if call.endswith(f" {hidden.values['uuid']}")]
            assert {call.split()[0] for call in asked} == {
                "nvmlDeviceGetHandleByIndex_v2",
                "nvmlDeviceGetUUID",
            }


@pytest.mark.parametrize(
    ("listed", "instances"),
    [
        (None, [1, 2]),
        ("0", [1, 2]),
        (uuid(1), [1, 2]),
        ("GPU-0", [1, 2]),
        (uuid(2, "MIG"), [2]),
        ("MIG-00000001", [1]),
        (f"{uuid(2, 'MIG')},5,{uuid(1, 'MIG')}", [2]),
        ("-1", []),
    ],
)
def test_mig(live, listed, instances):
    ran = live(a100_in_mig(), **({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}))
    assert ran.status == (0 if instances else 3)
    if instances:
        found = [gpu["uuid"] for gpu in ran.json["gpus"]]
        assert found == [uuid(number, "MIG") for number in instances]


@pytest.mark.parametrize("listed", ["0", uuid(1), "-1", ""])
@pytest.mark.parametrize("line", ["status nvmlInitWithFlags 9", "status nvmlInitWithFlags 18"])
def test_a_driver_that_does_not_work_is_the_cause_whatever_is_visible(live, line, listed):
    ran = live(Machine((h100(0),), system=(line,)), CUDA_VISIBLE_DEVICES=listed)
    assert ran.status == 3
    assert "driver" in ran.line()
    assert "CUDA_VISIBLE_DEVICES" not in ran.line()


@pytest.mark.parametrize("listed", ["2", uuid(3)])
def test_only_a_sick_gpu_is_visible(live, listed):
    sick = rtx_4090(2).having("status nvmlDeviceGetMemoryInfo_v2 15")
    ran = live(Machine((rtx_4090(0), rtx_4090(1), sick)), CUDA_VISIBLE_DEVICES=listed)
    assert ran.status == 3
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["lost"]
    assert "GPU 2" in ran.line()


@pytest.mark.parametrize(("listed", "status"), [("0,1", 0), ("2", 3), (f"0,{uuid(3)}", 0)])
def test_a_gpu_that_hangs(live, listed, status):
    machine = Machine((rtx_4090(0), rtx_4090(1), rtx_4090(2).having("hang nvmlDeviceGetName")))
    ran = live(machine, CUDA_VISIBLE_DEVICES=listed)
    assert ran.status == status
    assert len(ran.json["warnings"]) == listed.count(uuid(3)) + (listed == "2")
