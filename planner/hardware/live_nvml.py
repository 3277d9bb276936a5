"""The NVML adapter: asks the driver for every fact, each on its own. Only it and its
live_nvml_* parts import pynvml.

It runs in a process of its own, started by `live_ask`, because a call into a sick driver may never
return or may crash. Nothing here changes a setting or makes a CUDA context: only queries.

What it learns is written to stdout at once, one JSON list per line, so that what arrived before a
hang is not lost. DEVICE is "system", a GPU's number "3", or a MIG instance "3/0" (GPU 3, slot 0).
    ["asking", DEVICE, CALL]                  before each call: who hangs, if nothing follows
    ["fact", DEVICE, NAME, VALUE]
    ["refused", DEVICE, CALL, STATUS, TEXT]   STATUS is NVML's number
    ["failed", CALL, STATUS, TEXT]            NVML as a whole cannot be asked; nothing follows
    ["visible", CHOICES, IGNORED, REPEATED]   what CUDA_VISIBLE_DEVICES leaves
    ["done"]                                  every question was asked
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from planner.hardware import live_nvml_structures as structures
from planner.hardware.live_nvml_asker import SYSTEM, Asker, RefusedError, text
from planner.hardware.live_nvml_device import ask_gpu, in_mig_mode, instances_of
from planner.hardware.visible_devices import (
    VARIABLE,
    Choice,
    Visible,
    all_visible,
    select,
    unique_beginning,
)

P2P_NVLINK = 2  # NVML_P2P_CAPS_INDEX_NVLINK


class Machine:
    """The GPUs' handles and UUIDs: all that a hidden GPU is asked for.

    A GPU that hung before is left alone; its UUID is what was learnt of it then.
    """

    def __init__(self, asker: Asker, hung: dict[int, str | None]) -> None:
        self.asker = asker
        self.handles: list[Any] = []
        self.uuids: list[str | None] = []
        count = int(asker.call(SYSTEM, "nvmlDeviceGetCount"))
        asker.fact(SYSTEM, "gpu_count", count)
        for gpu in range(count):
            handle, uuid = (None, hung[gpu]) if gpu in hung else self._reach(gpu)
            self.handles.append(handle)
            self.uuids.append(uuid)

    def _reach(self, gpu: int) -> tuple[Any, str | None]:
        try:
            handle = self.asker.call(str(gpu), "nvmlDeviceGetHandleByIndex", gpu)
        except RefusedError:
            return None, None
        try:
            uuid = text(self.asker.call(str(gpu), "nvmlDeviceGetUUID", handle))
        except RefusedError:
            return handle, None
        self.asker.fact(str(gpu), "uuid", uuid)
        return handle, uuid

    def visible(self) -> Visible:
        listed = os.environ.get(VARIABLE)
        if listed is None:
            return all_visible(len(self.handles))
        return select(listed, self.uuids, self.find_instance)

    def find_instance(self, name: str) -> Choice | None:
        """The MIG instance of this UUID or unambiguous beginning of one."""
        return self._by_uuid(name) or self._by_search(name)

    def _by_uuid(self, name: str) -> Choice | None:
        """Straight from NVML, so that no other GPU need be asked about MIG."""
        ask = self.asker.call
        try:
            instance = ask(SYSTEM, "nvmlDeviceGetHandleByUUID", name)
            parent = ask(SYSTEM, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", instance)
            gpu_uuid = text(ask(SYSTEM, "nvmlDeviceGetUUID", parent))
            uuid = text(ask(SYSTEM, "nvmlDeviceGetUUID", instance))
        except RefusedError:
            return None
        return Choice(self.uuids.index(gpu_uuid), uuid) if gpu_uuid in self.uuids else None

    def _by_search(self, name: str) -> Choice | None:
        places: list[Choice] = []
        for gpu, handle in enumerate(self.handles):
            try:
                if handle is not None and in_mig_mode(self.asker, gpu, handle):
                    found = instances_of(self.asker, gpu, handle)
                    places += [Choice(gpu, uuid) for _, _, uuid in found]
            except RefusedError:
                continue  # lost: it holds no instance to be used
        place = unique_beginning(name, [choice.instance for choice in places])
        return None if place is None else places[place]


def ask_pairs(asker: Asker, handles: dict[int, Any]) -> None:
    """For each pair of visible GPUs: can one reach the other's memory over NVLink?"""
    for first, handle in handles.items():
        for second in handles:
            if first < second:
                name, function = f"p2p_nvlink_{second}", "nvmlDeviceGetP2PStatus"
                answer = asker.try_fact(
                    str(first), name, function, handle, handles[second], P2P_NVLINK
                )
                if answer is None:
                    return  # no driver answers this for some pairs only


def ask_machine(asker: Asker, hung: dict[int, str | None], known: set[int]) -> None:
    """All that the planner wants to know, except of GPUs that hung before or are known already."""
    asker.try_fact(SYSTEM, "driver_version", "nvmlSystemGetDriverVersion", plain=text)
    for function in ("nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"):
        if asker.try_fact(SYSTEM, "cuda_version", function) is not None:
            break
    machine = Machine(asker, hung)
    visible = machine.visible()
    choices = [[choice.gpu, choice.instance] for choice in visible.chosen]
    asker.tell("visible", choices, list(visible.ignored), visible.repeated)
    asked = {}
    for gpu in dict.fromkeys(choice.gpu for choice in visible.chosen):
        handle = machine.handles[gpu]
        if handle is None or gpu in known:
            continue
        chosen = [one.instance for one in visible.chosen if one.gpu == gpu]
        # A GPU that is named itself shows all its instances.
        only = set() if None in chosen else {uuid for uuid in chosen if uuid}
        try:
            ask_gpu(asker, gpu, handle, only)
        except RefusedError:
            continue  # lost on the way: the refusal has told it
        asked[gpu] = handle
    try:
        ask_pairs(asker, asked)
    except RefusedError:
        return  # lost only now: told as well


def main(arguments: list[str]) -> None:
    """Ask once and end.

    The argument, in JSON: {"hung": {GPU: UUID or null}, "known": [GPU], "skipped": [CALL]}, what an
    earlier process has learnt before it hung.
    """
    before = json.loads(arguments[0])
    structures.kill_with_parent()
    # The library may print; what it prints must not mix with the answers.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    asker = Asker(out, frozenset(before["skipped"]))
    hung = {int(gpu): uuid for gpu, uuid in before["hung"].items()}
    try:
        asker.call(SYSTEM, "nvmlInit")
        ask_machine(asker, hung, set(before["known"]))
    except RefusedError as refused:
        asker.tell("failed", refused.function, refused.status, refused.reason)
        return
    asker.tell("done")
    try:
        asker.call(SYSTEM, "nvmlShutdown")
    except RefusedError:
        return  # the answers are complete, and the process ends anyway
