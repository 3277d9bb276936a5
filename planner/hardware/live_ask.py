"""Asking NVML from outside: a child process asks, this one waits, but not for ever.

A call into a sick driver can sit in the kernel where neither a signal handler nor a thread nor
SIGTERM ends it. So `live_nvml` asks in a child process and tells each fact as it comes; when
nothing comes for a while, the child is killed and another asks on without the GPU that hung.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from planner.errors import MissingPartError
from planner.hardware.live_failures import failure
from planner.hardware.visible_devices import Choice

SYSTEM = "system"
# All answers within 10 s (a promise of the command), of which the program's own start and end take
# their share, also on a busy machine.
ANSWER_SECONDS = 7.0
# No answer to one call for so long: it hangs. A GPU that wakes from rest (no persistence mode) may
# take about 2 s; once one call has hung, the time that is left is shared among the other GPUs.
PATIENCE_SECONDS = 2.5
LEAST_PATIENCE_SECONDS = 0.2
# A killed process is gone at once, unless its call sits in the kernel: then nobody can end it.
END_SECONDS = 0.5
# Without these nothing is known; after any other call of the system one can go on without it.
ESSENTIAL_CALLS = ("nvmlInit", "nvmlDeviceGetCount")
PAIR_CALL = "nvmlDeviceGetP2PStatus"

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from planner.hardware.live_nvml import main; main(sys.argv[2:])"
)


@dataclass
class DeviceAnswers:
    """What one device said: facts by name, and the refused calls with NVML's status and text."""

    facts: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    # what happened to the process that asked: "hung" or "crashed", and in which call
    broken: tuple[str, str] | None = None


@dataclass
class Answers:
    """All that was learnt, by device: "system", "3" a GPU, "3/0" a MIG instance."""

    devices: dict[str, DeviceAnswers] = field(default_factory=dict)
    chosen: tuple[Choice, ...] | None = None
    ignored: tuple[str, ...] = ()
    repeated: str | None = None
    asking: tuple[str, str] | None = None  # the call that has no answer yet: device, function
    outcome: str | None = None  # "done" or "failed"
    failed: tuple[str, int, str] | None = None

    def device(self, name: str) -> DeviceAnswers:
        return self.devices.setdefault(name, DeviceAnswers())

    def take(self, line: list[Any]) -> None:
        """Note one line of the child (its forms: live_nvml)."""
        kind, *rest = line
        if kind == "asking":
            self.asking = (rest[0], rest[1])
            return
        if kind == "fact":
            self.device(rest[0]).facts[rest[1]] = rest[2]
        elif kind == "refused":
            self.device(rest[0]).refusals[rest[1]] = (rest[2], rest[3])
        elif kind == "visible":
            self.chosen = tuple(Choice(gpu, instance) for gpu, instance in rest[0])
            self.ignored, self.repeated = tuple(rest[1]), rest[2]
        elif kind == "failed":
            self.outcome, self.failed = kind, (rest[0], rest[1], rest[2])
        elif kind == "done":
            self.outcome = kind


def ask() -> Answers:
    """Ask NVML about this machine; MissingPartError if nothing at all can be learnt."""
    if importlib.util.find_spec("pynvml") is None:
        raise MissingPartError(
            "nvidia-ml-py, which asks the NVIDIA driver, is not installed",
            "install it with: pip install nvidia-ml-py",
        )
    answers = Answers()
    hung: dict[int, str | None] = {}
    skipped: set[str] = set()
    end = time.monotonic() + ANSWER_SECONDS
    patience = PATIENCE_SECONDS
    while True:
        known = [gpu for gpu in _gpus(answers) if answers.device(str(gpu)).facts.get("complete")]
        task = {"hung": hung, "known": known, "skipped": sorted(skipped)}
        started = time.monotonic()
        how = _follow(answers, task, end, patience)
        if answers.outcome == "failed" and answers.failed and answers.chosen is None:
            raise failure(*answers.failed)
        if answers.outcome is not None:
            return answers
        device, call = answers.asking or (SYSTEM, "its start")
        if device != SYSTEM and call != PAIR_CALL:
            answers.device(device.split("/")[0]).broken = (how, call)
        if time.monotonic() >= end or (
            device == SYSTEM and call in (*ESSENTIAL_CALLS, "its start")
        ):
            if answers.chosen is None:
                raise _no_answer(how, call)
            return answers
        if device == SYSTEM or call == PAIR_CALL:
            skipped.add(call)
        else:
            gpu = int(device.split("/")[0])
            hung[gpu] = answers.device(str(gpu)).facts.get("uuid")
        rounds = max(answers.device(SYSTEM).facts.get("gpu_count", 0) - len(known) - len(hung), 0)
        start_seconds = time.monotonic() - started - patience  # of a process, on this busy machine
        share = (end - time.monotonic()) / (rounds + 1) - max(start_seconds, 0.0)
        patience = max(LEAST_PATIENCE_SECONDS, min(PATIENCE_SECONDS, share))


def _gpus(answers: Answers) -> list[int]:
    return [int(name) for name in answers.devices if name.isdigit()]


def _no_answer(how: str, call: str) -> MissingPartError:
    if how == "crashed":
        return MissingPartError(
            f"the NVIDIA driver's library crashed in {call}",
            "reinstall the driver, or reboot if it was updated while the machine ran",
        )
    return MissingPartError(
        f"the NVIDIA driver gave no answer to {call} within {ANSWER_SECONDS:g} s",
        "a GPU or its driver hangs (see dmesg for NVRM and Xid lines; a reboot helps), or sleeping "
        "GPUs are slow to wake: then try again, or keep them awake with nvidia-smi -pm 1",
    )


def _follow(answers: Answers, task: dict[str, Any], end: float, patience: float) -> str:
    """Run one child and note what it tells; "ended", "hung" or "crashed"."""
    answers.asking = None
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), json.dumps(task)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # its own: a child that cannot be killed must not hold ours open
        stderr=subprocess.DEVNULL,
    )
    try:
        return _listen(answers, child, end, patience)
    finally:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=END_SECONDS)


def _listen(answers: Answers, child: subprocess.Popen[bytes], end: float, patience: float) -> str:
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(child, chunks), daemon=True).start()
    rest = b""
    while answers.outcome is None:
        wait = end - time.monotonic()
        # What a whole system does not answer nobody can go on without, so no second try for it.
        if answers.asking and answers.asking[1] not in ESSENTIAL_CALLS:
            wait = min(wait, patience)
        try:
            chunk = chunks.get(timeout=max(wait, 0.0))
        except queue.Empty:
            return "hung"
        if not chunk:
            return "crashed"
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            answers.take(json.loads(line))
    return "ended"


def _pump(child: subprocess.Popen[bytes], chunks: queue.SimpleQueue[bytes]) -> None:
    """Pass on what the child writes; an empty chunk is its end. Raw reads: a thread that is stuck
    in a buffered one would hold a lock when the program ends."""
    if child.stdout is None:
        return
    with child.stdout as stdout:
        chunk = b"-"
        while chunk:
            chunk = os.read(stdout.fileno(), 65536)
            chunks.put(chunk)
