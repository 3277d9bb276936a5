"""What the planner knows of an accelerator: numbers with their units in the name, and sources.

Peaks are dense (no 2:4 sparsity). Link rates are per direction and GPU. A profile is read from a
YAML file by `profile_file`, which also refuses what cannot be true; it never comes from code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from planner.numeric import Number, minimum

Dtype: TypeAlias = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"]
Topology: TypeAlias = Literal[
    "switch", "mesh", "cube-mesh", "torus", "bridge", "direct", "host", "network"
]
Seen: TypeAlias = Literal["read", "recalled", "mixed"]
# The groups of values of a GPU that have a source of their own.
SOURCE_GROUPS = ("identity", "memory", "peak", "chip", "link", "price", "measured")

# Of the total that nvidia-smi reports, the part that torch can use, where it was never read:
# the median of the 30 shipped NVIDIA profiles that know both (0.971 to 0.997).
TYPICAL_USABLE_FRACTION = 0.990

# What runs a matrix product whose dtype the tensor units do not have.
_EMULATED_BY: Mapping[str, Dtype] = {"bf16": "fp32", "tf32": "fp32"}


@dataclass(frozen=True)
class Link:
    """What joins GPUs: inside a node or a rack, through the host, or over the network."""

    kind: str  # nvlink4, infinity-fabric, pcie, infiniband, ...
    topology: Topology
    bytes_per_second_per_direction: float  # per GPU, to all its peers together
    gpus_reached: int | None = None  # None: no bound (a network)
    latency_seconds: float | None = None  # of the smallest collective over it, where measured
    optional: bool = False  # a part that is bought apart, such as an NVLink bridge

    def rate(self, ranks: Number) -> Number:
        """Bytes per second and direction that a GPU has towards a group of `ranks` on this link.

        In a mesh each pair of GPUs has a wire of its own, so a small group uses few of them:
        rate x (ranks - 1) / (gpus_reached - 1). Elsewhere the whole rate serves any group.

        >>> Link("infinity-fabric", "mesh", 448e9, 8).rate(2)
        64000000000.0
        """
        if self.topology != "mesh" or self.gpus_reached is None:
            return self.bytes_per_second_per_direction
        peers = minimum(ranks - 1, self.gpus_reached - 1)
        return self.bytes_per_second_per_direction * peers / (self.gpus_reached - 1)


@dataclass(frozen=True)
class Pcie:
    """The slot: its generation, and what a GPU gets of it."""

    generation: int
    bytes_per_second_per_direction: float


@dataclass(frozen=True)
class HostLink:
    """What joins a GPU to its host where that is faster than the slot: NVLink-C2C."""

    kind: str
    bytes_per_second_per_direction: float


@dataclass(frozen=True)
class Price:
    """What somebody asked for an hour of one GPU, and when."""

    usd_per_gpu_hour: float
    provider: str
    offer: str
    date: str
    others: str | None = None


@dataclass(frozen=True)
class Measured:
    """Rates that were measured on the device."""

    matmul_bf16_flops_per_second: float | None = None  # of the best shape that was found
    how: str | None = None
    others: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a group of values comes from: read there, or recalled by the one who wrote it down."""

    group: str
    seen: Seen
    references: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Exemption:
    """A rule of plausibility that a profile breaks on purpose."""

    rule: str
    reason: str


@dataclass(frozen=True)
class GpuProfile:
    """One accelerator as software sees it: one device, the home of one rank."""

    id: str
    name: str
    vendor: str
    architecture: str
    memory_kind: str
    memory_bytes: int  # total, as nvidia-smi, NVML or rocm-smi report it
    memory_bandwidth_bytes_per_second: float
    peak_flops_per_second: Mapping[str, float] = field(hash=False)  # by Dtype, dense
    usable_memory_bytes: int | None = None  # total as torch reports it, where it was read
    compute_capability: str | None = None  # "9.0"; "gfx942" for AMD
    released: int | None = None
    nvml_names: tuple[str, ...] = ()  # what the driver calls it
    aliases: tuple[str, ...] = ()
    sm_count: int | None = None  # streaming multiprocessors, compute units
    l2_bytes: int | None = None
    boost_clock_hz: float | None = None
    power_limit_watts: float | None = None
    link: Link | None = None
    pcie: Pcie | None = None
    host_link: HostLink | None = None
    gpus_per_node: int | None = None  # of the usual node
    network_bytes_per_second: float | None = None  # per GPU and direction, in the usual node
    host_slowdown: float | None = None  # time of its CPUs to start a kernel over a DGX H100's
    price: Price | None = None
    measured: Measured | None = None
    sources: tuple[Source, ...] = ()
    exceptions: tuple[Exemption, ...] = ()
    notes: tuple[str, ...] = ()
    path: str | None = field(default=None, compare=False)  # the file that it was read from
    origin: str | None = field(default=None, compare=False)  # which part of the search found it

    @property
    def torch_memory_bytes(self) -> int:
        """Bytes that a framework can have: what torch reports as the device's total.

        Where that was never read: on NVIDIA GPUs TYPICAL_USABLE_FRACTION of the total, elsewhere
        the total, which is what AMD's and Google's devices give to frameworks.
        """
        if self.usable_memory_bytes is not None:
            return self.usable_memory_bytes
        fraction = TYPICAL_USABLE_FRACTION if self.vendor == "nvidia" else 1.0
        return int(self.memory_bytes * fraction)

    @property
    def host_bytes_per_second(self) -> float | None:
        """Between this GPU and its host's memory, one direction, where it is known."""
        link = self.host_link or self.pcie
        return link.bytes_per_second_per_direction if link else None

    def runs_natively(self, dtype: str) -> bool:
        """Whether the matrix units have this dtype."""
        return dtype in self.peak_flops_per_second

    def peak(self, dtype: str) -> float | None:
        """Dense FLOP per second of matrix products in `dtype`; None where it cannot run.

        bf16 and tf32 run on the fp32 units where the matrix units lack them (V100, T4).
        """
        peaks = self.peak_flops_per_second
        return peaks.get(dtype) or peaks.get(_EMULATED_BY.get(dtype, ""))


@dataclass(frozen=True)
class NodeProfile:
    """A machine that is built or rented as a whole: its GPUs, links, network and price."""

    id: str
    name: str
    gpu: str  # id of its GpuProfile
    gpus_per_node: int
    link: Link | None = None  # may reach beyond the node (an NVLink rack)
    network: Link | None = None  # rate per GPU
    spine: Link | None = None  # beyond the GPUs that the network joins at its full rate
    power_watts: float | None = None
    host_memory_bytes: int | None = None
    price: Price | None = None
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    path: str | None = field(default=None, compare=False)
    origin: str | None = field(default=None, compare=False)
