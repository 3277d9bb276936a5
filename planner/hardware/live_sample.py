"""Watching a job: what its processes hold on each GPU and what the GPUs draw, sampled over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from planner.hardware.live_ask import ask
from planner.hardware.live_facts import gpus_of
from planner.hardware.live_types import LiveGpu
from planner.hardware.live_warnings import IDLE_USED_BYTES

PROC = Path("/proc")


@dataclass
class GpuWatch:
    """One GPU over the samples so far."""

    index: int
    name: str | None
    job_peak_bytes: int = 0  # held by the job's processes, as nvidia-smi lists them
    device_before_bytes: int = 0  # used by anyone before the job began, where that was seen
    device_peak_bytes: int = 0  # used by anyone
    watts: list[float] = field(default_factory=list)

    @property
    def risen_bytes(self) -> int:
        return self.device_peak_bytes - self.device_before_bytes

    def take(self, gpu: LiveGpu, pids: frozenset[int]) -> None:
        held = [one.used_bytes or 0 for one in gpu.processes or () if one.pid in pids]
        self.job_peak_bytes = max(self.job_peak_bytes, sum(held))
        self.device_peak_bytes = max(self.device_peak_bytes, gpu.memory_used_bytes or 0)
        if gpu.power_usage_watts is not None:
            self.watts.append(gpu.power_usage_watts)


@dataclass
class Watch:
    """All visible GPUs over the samples so far, for one job: a process and what it started."""

    pid: int | None = None  # None: it has not begun
    pids: set[int] = field(default_factory=set)
    gpus: dict[int, GpuWatch] = field(default_factory=dict)
    samples: int = 0

    def sample(self) -> None:
        """Ask NVML once. Processes that were seen once are remembered: workers come and go."""
        if self.pid is not None:
            self.pids |= family(self.pid)
        for gpu in gpus_of(ask()):
            if gpu.usable and not gpu.mig:
                watch = self.gpus.setdefault(gpu.index, GpuWatch(gpu.index, gpu.name))
                watch.take(gpu, frozenset(self.pids))
                if self.pid is None:
                    watch.device_before_bytes = gpu.memory_used_bytes or 0
        self.samples += 1

    @property
    def listed(self) -> bool:
        """Whether NVML ever listed one of the job's processes with its memory."""
        return any(gpu.job_peak_bytes for gpu in self.gpus.values())

    def used_gpus(self) -> list[GpuWatch]:
        """The GPUs on which the job held memory; where NVML lists no process (a container), those
        on which much more memory was used than before."""
        if self.listed:
            return [gpu for gpu in self.gpus.values() if gpu.job_peak_bytes]
        return [gpu for gpu in self.gpus.values() if gpu.risen_bytes > IDLE_USED_BYTES]

    def peak_bytes(self) -> int | None:
        """The most that the job held on one GPU."""
        gpus = self.used_gpus()
        if not gpus:
            return None
        if self.listed:
            return max(gpu.job_peak_bytes for gpu in gpus)
        return max(gpu.risen_bytes for gpu in gpus)

    def mean_watts(self) -> float | None:
        """Power of one GPU, over the GPUs that the job used and all samples."""
        return _mean([watts for gpu in self.used_gpus() for watts in gpu.watts])

    def most_watts(self) -> float | None:
        return max((watts for gpu in self.used_gpus() for watts in gpu.watts), default=None)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def family(pid: int) -> set[int]:
    """A process and all that it started, by /proc; where there is none, the process alone."""
    children: dict[int, list[int]] = {}
    for parent, child in _parents():
        children.setdefault(parent, []).append(child)
    found, new = {pid}, [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, ()) if child not in found]
        found |= set(new)
    return found


def _parents() -> Iterable[tuple[int, int]]:
    for entry in PROC.glob("[0-9]*"):
        try:
            # "pid (name) state parent ...": the name may hold anything, also brackets
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            yield int(fields[1]), int(entry.name)
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        state = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return bool(state) and state[0] not in ("Z", "X")
