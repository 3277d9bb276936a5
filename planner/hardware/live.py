"""The GPUs in this machine, as they are now: read them, and plan with them.

`read()` asks NVML in a child process (`live_ask`), so that a sick driver cannot hang the planner;
nothing is started on a GPU and nothing on it is changed. `LiveMachine.plan()` is what `--gpu live`
means: one profile with the measured facts in it, and the memory that can be had.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from planner.errors import MissingPartError
from planner.hardware import live_warnings
from planner.hardware.library import GPU, list_files
from planner.hardware.live_ask import SYSTEM, Answers, ask
from planner.hardware.live_facts import gpus_of
from planner.hardware.live_failures import no_gpu
from planner.hardware.live_links import interconnect_of, with_nvlink
from planner.hardware.live_match import identified, match
from planner.hardware.live_profile import joined, profile_of
from planner.hardware.live_types import Interconnect, LiveGpu
from planner.hardware.profile import GpuProfile
from planner.hardware.visible_devices import VARIABLE


@dataclass(frozen=True)
class LivePlan:
    """What `--gpu live` stands for."""

    profile: GpuProfile  # of the slowest GPU, with the facts of this machine
    gpus: int  # usable and visible; one under MIG
    capacity_bytes: int  # the smallest total
    free_bytes: int  # the smallest free: what programs hold now is not there
    interconnect: Interconnect | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LiveMachine:
    """The visible GPUs, the link that joins them, and what is out of the ordinary."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[LiveGpu, ...]
    interconnect: Interconnect | None
    warnings: tuple[str, ...]
    profiles: tuple[GpuProfile, ...]  # of the usable GPUs, in their order

    @property
    def usable(self) -> tuple[LiveGpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.usable)

    def require_usable(self) -> None:
        """MissingPartError with every cause, if no listed GPU can be used."""
        if not self.usable:
            causes = "; ".join(f"{gpu.label}: {gpu.error}" for gpu in self.gpus)
            raise MissingPartError(f"no visible GPU can be used: {causes}")

    def plan(self, only: Collection[int] | None = None) -> LivePlan:
        """Plan with all usable GPUs, or those of these indexes; of MIG instances with one."""
        self.require_usable()
        pairs = [
            pair
            for pair in zip(self.usable, self.profiles, strict=True)
            if only is None or pair[0].index in only
        ]
        whole = [pair for pair in pairs if not pair[0].mig]
        if not whole:
            smallest = live_warnings.smallest_instance(self.usable)
            whole = [pair for pair in pairs if pair[0] is smallest]
        gpus = [gpu for gpu, _ in whole]
        return LivePlan(
            profile=joined([profile for _, profile in whole], gpus, self.interconnect),
            gpus=len(gpus),
            capacity_bytes=min(gpu.memory_total_bytes or 0 for gpu in gpus),
            free_bytes=min(gpu.memory_free_bytes or 0 for gpu in gpus),
            interconnect=self.interconnect,
            warnings=self.warnings,
        )


def read() -> LiveMachine:
    """The GPUs that are visible to CUDA programs here and now.

    MissingPartError if there is no driver, no GPU, or CUDA_VISIBLE_DEVICES hides all. A GPU that
    cannot be used is listed with its state; `LiveMachine.plan` goes on with the others.
    """
    answers = ask()
    system = answers.device(SYSTEM).facts
    if not system.get("gpu_count"):
        raise no_gpu()
    listed = os.environ.get(VARIABLE, "")
    if not answers.chosen:
        raise _hidden(listed, answers)
    library = _library()
    gpus = with_nvlink([identified(gpu, library) for gpu in gpus_of(answers)])
    profiles = [profile_of(gpu, library) for gpu in gpus if gpu.usable]
    return LiveMachine(
        driver_version=system.get("driver_version"),
        cuda_version=_cuda_version(system.get("cuda_version")),
        gpus=gpus,
        interconnect=interconnect_of(gpus),
        warnings=(
            *live_warnings.ignored_entries(listed, answers.ignored),
            *live_warnings.of_machine(gpus, os.environ.get(live_warnings.ORDER_VARIABLE)),
            *_warnings_of_gpus(gpus, profiles, library),
        ),
        profiles=tuple(profiles),
    )


def plan_gpu() -> LivePlan:
    """What `--gpu live` stands for now."""
    return read().plan()


def _warnings_of_gpus(
    gpus: Sequence[LiveGpu], profiles: Sequence[GpuProfile], library: Sequence[GpuProfile]
) -> list[str]:
    usable = [gpu for gpu in gpus if gpu.usable]
    return [
        warning
        for gpu, profile in zip(usable, profiles, strict=True)
        for warning in live_warnings.of_gpu(gpu, match(gpu, library) or profile)
    ]


def _library() -> tuple[GpuProfile, ...]:
    """Every profile that can be read; a broken file of the user's must not hide the GPUs here."""
    found = list_files(GPU)
    return tuple(one.profile for one in found if one.profile is not None and not one.replaced_by)


def _hidden(listed: str, answers: Answers) -> MissingPartError:
    if answers.repeated is not None:
        why = f"names {answers.repeated!r} twice, so that CUDA sees no GPU"
    else:
        why = "leaves no GPU visible"
    return MissingPartError(
        f"{VARIABLE}={listed!r} {why}",
        f"unset it, or name GPUs by number or UUID ({answers.device(SYSTEM).facts['gpu_count']} "
        "are there: nvidia-smi -L lists them)",
    )


def _cuda_version(number: int | None) -> str | None:
    """12040 -> 12.4"""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"
