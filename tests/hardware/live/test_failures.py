"""Each way in which NVML or a GPU fails: one clear line, or the other GPUs' answer."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nvml_machines import (
    Board,
    Machine,
    a100,
    a100_in_mig,
    four_4090,
    h100,
    hgx_h100,
    rtx_4090,
    with_instances,
)

from planner.errors import MissingPartError
from planner.hardware.live_ask import ANSWER_SECONDS, ask

PROGRAM = Path(sys.executable).with_name("planner")


def with_gpu(board: Board) -> Machine:
    """Four boards, of which the third is sick."""
    return Machine((rtx_4090(0), rtx_4090(1), board, rtx_4090(3)))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (4, "no permission"),
        (9, "driver is not loaded"),
        (18, "reboot"),
        (999, "unknown error"),
        (4242, "4242"),  # the binding has no name for it
    ],
)
def test_nvml_does_not_start(live, status, told):
    ran = live(Machine((h100(0),), system=(f"status nvmlInitWithFlags {status}",)))
    assert ran.status == 3
    assert ran.stdout == ""
    assert told in ran.line()


def test_nvml_is_absent(planner, tmp_path):
    ran = planner(four_4090(), "hardware", "live", LD_LIBRARY_PATH=str(tmp_path))
    assert ran.status == 3
    assert ran.stdout == ""
    assert "libnvidia-ml.so.1" in ran.line()


def test_nvml_is_not_a_library(planner, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    ran = planner(four_4090(), "hardware", "live", LD_LIBRARY_PATH=str(tmp_path))
    assert ran.status == 3
    assert "libnvidia-ml.so.1" in ran.line()


def test_the_binding_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match="pip install nvidia-ml-py"):
        ask()


def test_there_is_no_gpu(live):
    ran = live(Machine(()))
    assert ran.status == 3
    assert "no NVIDIA GPU" in ran.line()


def test_the_count_is_refused(live):
    ran = live(Machine((h100(0),), system=("status nvmlDeviceGetCount_v2 999",)))
    assert ran.status == 3
    assert "unknown error" in ran.line()


@pytest.mark.parametrize(
    ("line", "state", "told"),
    [
        ("status nvmlDeviceGetHandleByIndex_v2 15", "lost", "fallen off the bus"),
        ("status nvmlDeviceGetName 15", "lost", "fallen off the bus"),
        ("status nvmlDeviceGetMemoryInfo_v2 15", "lost", "fallen off the bus"),
        ("status nvmlDeviceGetComputeRunningProcesses_v3 15", "lost", "fallen off the bus"),
        ("status nvmlDeviceGetHandleByIndex_v2 4", "error", "no permission"),
        ("status nvmlDeviceGetHandleByIndex_v2 4242", "error", "4242"),
        ("status nvmlDeviceGetPowerUsage 16", "error", "reset"),
        ("status every 999", "error", "unknown error"),
    ],
)
def test_one_sick_gpu_among_four(live, line, state, told):
    ran = live(with_gpu(rtx_4090(2).having(line)))
    answer = ran.json
    assert ran.status == 0
    assert ran.stderr == ""
    assert [gpu["index"] for gpu in answer["gpus"]] == [0, 1, 2, 3]
    assert [gpu["state"] for gpu in answer["gpus"]] == ["ok", "ok", state, "ok"]
    assert told in answer["gpus"][2]["error"]
    assert len(answer["warnings"]) == 1
    assert answer["warnings"][0].startswith("GPU 2")
    assert told in answer["warnings"][0]
    assert answer["interconnect"]["kind"] == "pcie"


def test_what_a_sick_gpu_did_say_is_given(live):
    ran = live(with_gpu(rtx_4090(2).having("status nvmlDeviceGetComputeRunningProcesses_v3 15")))
    gpu = ran.json["gpus"][2]
    assert gpu["name"] == "NVIDIA GeForce RTX 4090"
    assert gpu["power_limit_watts"] == 450.0
    assert gpu["processes"] is None


def test_peers_are_only_the_usable(live):
    gpus = list(hgx_h100().gpus)
    gpus[7] = gpus[7].having("status nvmlDeviceGetMemoryInfo_v2 15")
    answer = live(Machine(tuple(gpus))).json
    assert answer["gpus"][0]["nvlink"]["peers"] == [1, 2, 3, 4, 5, 6]
    assert answer["interconnect"]["kind"] == "nvswitch"


def test_mig_mode_without_an_instance(live):
    ran = live(Machine((with_instances(a100(0)), a100(1))))
    assert ran.status == 0
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["error", "ok"]
    assert "MIG mode without an instance" in ran.json["gpus"][0]["error"]
    alone = live(Machine((with_instances(a100(0)),)))
    assert alone.status == 3
    assert "MIG mode without an instance" in alone.line()


def test_a_lost_instance_is_listed(live):
    whole = a100_in_mig().gpus[0]
    sick = tuple(
        (slot, one.having("status nvmlDeviceGetMemoryInfo_v2 15") if slot == 2 else one)
        for slot, one in whole.instances
    )
    ran = live(Machine((Board(whole.values, whole.more, sick),)))
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["ok", "lost"]


def test_none_is_left(live):
    sick = tuple(rtx_4090(n).having("status nvmlDeviceGetHandleByIndex_v2 15") for n in range(2))
    ran = live(Machine(sick))
    assert ran.status == 3
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["lost", "lost"]
    assert "GPU 0" in ran.line()
    assert "GPU 1" in ran.line()


# -- calls that hang, and a library that crashes


@pytest.mark.parametrize(
    "call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode"]
)
def test_one_gpu_hangs(live, call):
    ran = live(with_gpu(rtx_4090(2).having(f"hang {call}")))
    assert ran.status == 0
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["ok", "ok", "error", "ok"]
    assert "gave no answer" in ran.json["gpus"][2]["error"]
    assert len(ran.json["warnings"]) == 1


def test_a_gpu_that_hangs_is_still_named_by_its_uuid(live):
    sick = rtx_4090(2).having("hang nvmlDeviceGetName")
    listed = f"{sick.values['uuid']},{rtx_4090(0).values['uuid']}"
    ran = live(with_gpu(sick), CUDA_VISIBLE_DEVICES=listed)
    assert [(gpu["index"], gpu["state"]) for gpu in ran.json["gpus"]] == [(2, "error"), (0, "ok")]


def test_the_start_hangs(live):
    ran = live(Machine((h100(0),), system=("hang nvmlInitWithFlags",)))
    assert ran.status == 3
    assert ran.stdout == ""
    assert f"within {ANSWER_SECONDS:g} s" in ran.line()


def test_several_gpus_hang_and_all_get_an_answer(live):
    calls = "nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMigMode"
    sick = [rtx_4090(n).having(f"hang {call}") for n, call in enumerate(calls)]
    ran = live(Machine((*sick, rtx_4090(3))))
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["error", "error", "error", "ok"]


def test_a_name_that_hangs_costs_no_gpu(live):
    busy = h100(0).having("process compute 4242 1048576")
    ran = live(Machine((busy,), system=("hang nvmlSystemGetProcessName",)))
    assert ran.status == 0
    assert ran.json["gpus"][0]["state"] == "ok"
    assert ran.json["gpus"][0]["processes"] == [{"pid": 4242, "name": None, "used_bytes": 1048576}]


def test_the_end_hangs(live):
    ran = live(Machine((h100(0),), system=("hang nvmlShutdown",)))
    assert ran.status == 0
    assert ran.json["warnings"] == []


def test_the_bound_is_below_ten_seconds():
    assert ANSWER_SECONDS <= 9


@pytest.mark.parametrize("call", ["nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex_v2"])
def test_a_crash_over_one_gpu(live, call):
    ran = live(with_gpu(rtx_4090(2).having(f"crash {call}")))
    assert ran.status == 0
    assert [gpu["state"] for gpu in ran.json["gpus"]] == ["ok", "ok", "error", "ok"]
    assert "crashed" in ran.json["gpus"][2]["error"]


def test_a_crash_at_the_start(live):
    ran = live(Machine((h100(0),), system=("crash nvmlInitWithFlags",)))
    assert ran.status == 3
    assert "crashed" in ran.line()


def children_asking(folder: Path) -> list[int]:
    """Processes that ask this test's machine: its folder stands in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # gone, or not ours
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_no_process_is_left_behind(live, tmp_path):
    live(with_gpu(rtx_4090(2).having("hang nvmlDeviceGetName")))
    assert children_asking(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_planner_that_is_stopped_leaves_nothing(environment, tmp_path, sent, status):
    machine = Machine((h100(0),), system=("hang nvmlInitWithFlags",))
    with subprocess.Popen(
        [PROGRAM, "hardware", "live"],
        env=environment(machine),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as planner:
        while not (tmp_path / "calls").exists():  # until the child hangs in its first call
            time.sleep(0.02)
        planner.send_signal(sent)
        planner.communicate(timeout=30)
        assert planner.returncode == status
    for _ in range(250):  # the kernel ends a killed one's child a moment later
        if not children_asking(tmp_path):
            break
        time.sleep(0.02)
    assert children_asking(tmp_path) == []


def test_watch_goes_on_until_interrupted(environment):
    with subprocess.Popen(
        [PROGRAM, "hardware", "live", "--watch", "--json", "--interval", "0.2"],
        env=environment(four_4090()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as planner:
        seen = 0
        while seen < 3:  # the third document: it asks again and again
            seen += planner.stdout.readline() == "{\n"
        planner.send_signal(signal.SIGINT)
        planner.communicate(timeout=30)
        assert planner.returncode == 130
