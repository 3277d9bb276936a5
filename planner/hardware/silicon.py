"""What silicon can do (hardware_profiles/silicon.yaml): what peaks and links are held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from planner.documents import Document, load
from planner.hardware.profile import GpuProfile
from planner.hardware.quantities import RATE, read
from planner.resources import HARDWARE_PROFILES, shipped_folder
from planner.schema import PositiveFloat, build


@dataclass(frozen=True)
class ComputeCapability:
    """FLOPs per clock and multiprocessor."""

    matrix: PositiveFloat
    fp32: PositiveFloat
    half_rate: str | None = None  # a word in the names of boards with half the matrix rate

    def matrix_rate(self, name: str) -> float:
        """The matrix rate of the board of this name."""
        return self.matrix / 2 if self.half_rate and self.half_rate in name else self.matrix


@dataclass(frozen=True)
class Silicon:
    """hardware_profiles/silicon.yaml."""

    compute_capabilities: dict[str, ComputeCapability]
    links: dict[str, str]
    pcie_generations: dict[str, str]


@dataclass(frozen=True)
class Yardstick:
    """What the silicon of one profile can do; None where it is not known."""

    matrix_flops_per_clock: float | None
    fp32_flops_per_clock: float | None
    link_bytes_per_second: float | None
    pcie_bytes_per_second: float | None


def measure(profile: GpuProfile) -> Yardstick:
    """The yardstick for one profile."""
    document, silicon = _silicon()
    capability = silicon.compute_capabilities.get(profile.compute_capability or "")
    link = profile.link.kind if profile.link else ""
    generation = str(profile.pcie.generation) if profile.pcie else ""
    return Yardstick(
        None if capability is None else capability.matrix_rate(profile.name),
        None if capability is None else capability.fp32,
        read(document, RATE, silicon.links.get(link), "links", link),
        read(
            document,
            RATE,
            silicon.pcie_generations.get(generation),
            "pcie_generations",
            generation,
        ),
    )


@cache
def _silicon() -> tuple[Document, Silicon]:
    document = load(shipped_folder(HARDWARE_PROFILES) / "silicon.yaml")
    return document, build(Silicon, document)
