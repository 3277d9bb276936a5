"""CUDA_VISIBLE_DEVICES in all its forms, through the installed command."""

from __future__ import annotations

import pytest
from nvml_machines import (
    Machine,
    a100,
    a100_in_mig,
    four_4090,
    h100,
    hgx_h100,
    mig_instance,
    rtx_3090,
    rtx_4090,
    uuid,
    with_instances,
)

# Two UUIDs with the same first nine characters after "GPU-"
ALIKE = Machine(
    (
        h100(0).but(uuid="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
        h100(1).but(uuid="GPU-8932f937-eeee-4106-c12f-20bd9faed9f7"),
        h100(2).but(uuid="GPU-77777777-0000-0000-0000-000000000000"),
    )
)
MIXED = Machine(
    (
        h100(0).but(uuid="GPU-aaaa0000-0000-0000-0000-000000000000"),
        with_instances(
            a100(1),
            (0, mig_instance(1, "NVIDIA A100-SXM4-40GB", "3g.20gb", sms=42, slices=3, mib=20096)),
            (4, mig_instance(2, "NVIDIA A100-SXM4-40GB", "1g.5gb", sms=14, slices=1, mib=4864)),
        ),
        h100(2),
    )
)


def shown(ran) -> list[int]:
    assert ran.status == 0, ran.stderr
    return [gpu["index"] for gpu in ran.json["gpus"]]


@pytest.mark.parametrize(
    ("listed", "indexes"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),  # in the order that CUDA gives them
        (" 1 , 3 ", [1, 3]),
        ("+1", [1]),
        ("1gpu,2", [1, 2]),  # digits count, what follows them does not
        ("03", [3]),
        ("0,1,", [0, 1]),
        ("0,-1", [0]),
        (uuid(3), [2]),
        ("GPU-00000004", [3]),
        (f"3,{uuid(1)}", [3, 0]),
    ],
)
def test_what_names_a_gpu(live, listed, indexes):
    ran = live(four_4090(), CUDA_VISIBLE_DEVICES=listed)
    assert shown(ran) == indexes
    assert ran.json["warnings"] == []


@pytest.mark.parametrize(
    ("listed", "indexes", "told"),
    [
        ("0,7,1", [0], ["'7'", "1"]),
        ("1,x,0", [1], ["'x'", "0"]),
        ("2,-1,0", [2], ["'-1'", "0"]),
        ("0,,1", [0], ["''", "1"]),
        ("0,GPU-dead,1", [0], ["'GPU-dead'"]),
        ("0,GPU-0000000,1", [0], ["'GPU-0000000'"]),  # begins all of them
        ("0,MIG-dead", [0], ["'MIG-dead'"]),
        ("3,99999999999999999999", [3], ["'99999999999999999999'"]),
    ],
)
def test_the_first_entry_that_names_nothing_ends_the_list(live, listed, indexes, told):
    ran = live(four_4090(), CUDA_VISIBLE_DEVICES=listed)
    assert shown(ran) == indexes
    assert len(ran.json["warnings"]) == 1
    assert "CUDA_VISIBLE_DEVICES" in ran.json["warnings"][0]
    assert all(part in ran.json["warnings"][0] for part in told)


@pytest.mark.parametrize(
    "listed", ["", "-1", " ", "4", "none", "NoDevFiles", "GPU-", "MIG-", "-1,0", "0,0", "8932f937"]
)
def test_nothing_is_left_visible(live, listed):
    ran = live(four_4090(), CUDA_VISIBLE_DEVICES=listed)
    assert ran.status == 3
    assert ran.stdout == ""
    assert "CUDA_VISIBLE_DEVICES" in ran.line()


def test_one_gpu_named_twice_in_two_ways_hides_all(live):
    ran = live(four_4090(), CUDA_VISIBLE_DEVICES=f"0,{uuid(1)}")
    assert ran.status == 3
    assert "twice" in ran.line()


@pytest.mark.parametrize(
    ("listed", "indexes"),
    [
        ("GPU-7", [2]),
        ("GPU-8932f937-d", [0]),
        ("GPU-8932f937-e,0", [1, 0]),
    ],
)
def test_any_unique_beginning_of_a_uuid(live, listed, indexes):
    assert shown(live(ALIKE, CUDA_VISIBLE_DEVICES=listed)) == indexes


def test_a_beginning_of_two_uuids_names_neither(live):
    assert live(ALIKE, CUDA_VISIBLE_DEVICES="GPU-8932f937").status == 3


def test_a_hidden_gpu_is_asked_for_its_handle_and_uuid_only(live):
    ran = live(hgx_h100(), CUDA_VISIBLE_DEVICES="5")
    assert shown(ran) == [5]
    asked = {call.split()[0] for call in ran.calls if call.split()[1] == uuid(1)}
    assert asked == {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"}
    assert ran.json["gpus"][0]["nvlink"]["peers"] == []
    assert ran.json["interconnect"] is None


@pytest.mark.parametrize(
    ("listed", "instances"),
    [
        (uuid(1, "MIG"), [uuid(1, "MIG")]),
        (uuid(2, "MIG"), [uuid(2, "MIG")]),
        (f"{uuid(2, 'MIG')},{uuid(1, 'MIG')}", [uuid(2, "MIG"), uuid(1, "MIG")]),
        ("MIG-00000002", [uuid(2, "MIG")]),
        ("0", [uuid(1, "MIG"), uuid(2, "MIG")]),
        (uuid(1), [uuid(1, "MIG"), uuid(2, "MIG")]),
    ],
)
def test_mig_instances(live, listed, instances):
    ran = live(a100_in_mig(), CUDA_VISIBLE_DEVICES=listed)
    assert ran.status == 0, ran.stderr
    assert [gpu["uuid"] for gpu in ran.json["gpus"]] == instances


def test_mig_instances_before_they_had_uuids_of_their_own(live):
    old = f"MIG-{uuid(1)}/2/0"
    instance = mig_instance(1, "A100-SXM4-40GB", "3g.20gb", sms=42, slices=3, mib=20096)
    board = a100(0).but(name="A100-SXM4-40GB")
    machine = Machine((with_instances(board, (1, instance.but(uuid=old))),), driver="460.91.03")
    ran = live(machine, CUDA_VISIBLE_DEVICES=old)
    assert [gpu["uuid"] for gpu in ran.json["gpus"]] == [old]
    assert ran.json["gpus"][0]["profile"] == "a100-sxm4-40gb"


@pytest.mark.parametrize("driver", ["550.90.07", "460.91.03"])
def test_a_mixture(live, driver):
    machine = Machine(MIXED.gpus, driver=driver)
    listed = f"2,{uuid(2, 'MIG')},GPU-aaaa"
    ran = live(machine, CUDA_VISIBLE_DEVICES=listed, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert [(gpu["index"], gpu["mig"] is not None) for gpu in ran.json["gpus"]] == [
        (2, False),
        (1, True),
        (0, False),
    ]
    assert len(ran.json["warnings"]) == 1
    assert "cannot be joined with whole GPUs" in ran.json["warnings"][0]


def test_a_full_mig_uuid_leaves_other_gpus_alone(live):
    ran = live(MIXED, CUDA_VISIBLE_DEVICES=uuid(2, "MIG"))
    assert ran.status == 0
    for hidden in (MIXED.gpus[0], MIXED.gpus[2]):
        asked = {call.split()[0] for call in ran.calls if call.split()[1] == hidden.values["uuid"]}
        assert asked == {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"}


def test_a_lost_gpu_keeps_its_number(live):
    lost = rtx_4090(0).having("status nvmlDeviceGetHandleByIndex_v2 15")
    machine = Machine((lost, rtx_4090(1), rtx_4090(2)))
    assert shown(live(machine, CUDA_VISIBLE_DEVICES="1,2")) == [1, 2]


def test_unlike_gpus_of_which_one_is_visible(live):
    ran = live(Machine((rtx_3090(0), rtx_4090(1))), CUDA_VISIBLE_DEVICES="1")
    assert shown(ran) == [1]
    assert ran.json["warnings"] == []
