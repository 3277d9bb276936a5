"""What is known of the GPUs in this machine: plain data. What the driver does not say is None."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "lost", "error"]
ProfileSource: TypeAlias = Literal["matched", "derived"]
InterconnectKind: TypeAlias = Literal["nvswitch", "nvlink", "pcie"]

# nvmlComputeMode_t
COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
# nvmlClocksEventReasons: bit -> name. Idling (1) holds the clocks down too, and is no throttling.
THROTTLE_BITS = {
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
}
# nvmlGpuFabricState
FABRIC_NOT_STARTED, FABRIC_IN_PROGRESS, FABRIC_COMPLETED = 1, 2, 3


@dataclass(frozen=True)
class Process:
    """A program that holds memory; in a container its pid is the host's and it has no name."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True)
class NvLink:
    """The links of a GPU that are up: how many, their payload rates added up, whom they reach."""

    links: int
    bytes_per_second_per_direction: float
    peers: tuple[int, ...]  # indexes of the other listed, usable GPUs


@dataclass(frozen=True)
class LinkEnd:
    """One NVLink as NVML describes it."""

    up: bool
    remote_type: int | None = None  # nvmlIntNvLinkDeviceType_t: 0 GPU, 2 switch
    remote_pci: str | None = None


@dataclass(frozen=True)
class FabricState:
    """The NVLink fabric as one GPU sees it."""

    state: int
    status: int
    clique: int
    cluster_uuid: str
    degraded: bool


@dataclass(frozen=True)
class Mig:
    """A MIG instance: its profile ("1g.5gb") and the GPU that it is a part of."""

    profile: str | None
    parent_uuid: str | None


@dataclass(frozen=True)
class Clocks:
    """Clocks in MHz, now and at most."""

    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None


@dataclass(frozen=True)
class LiveGpu:
    """A GPU or a MIG instance that is visible, as NVML describes it. Bytes are NVML's own."""

    index: int  # NVML's; a MIG instance has its parent's
    state: State
    error: str | None = None  # one sentence, if the state is not ok
    uuid: str | None = None
    name: str | None = None
    profile: str | None = None
    profile_source: ProfileSource | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_used_bytes: int | None = None  # with memory_reserved_bytes None it includes those
    memory_reserved_bytes: int | None = None  # by the driver
    memory_unified: bool = False  # shared with the CPU
    compute_capability: str | None = None
    cores: int | None = None
    sm_count: int | None = None
    memory_bus_width_bits: int | None = None
    power_limit_watts: float | None = None  # the one that is enforced
    power_default_watts: float | None = None
    power_usage_watts: float | None = None
    ecc: bool | None = None
    compute_mode: str | None = None
    mps: bool | None = None
    pci_bus_id: str | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    clocks: Clocks | None = None
    nvlink: NvLink | None = None
    mig: Mig | None = None
    mig_mode: bool | None = None
    processes: tuple[Process, ...] | None = None  # None: may not or cannot be asked
    throttled: tuple[str, ...] | None = None
    fabric: FabricState | None = None
    link_ends: tuple[LinkEnd, ...] | None = None
    link_line_rate_mbps: int | None = None
    p2p_nvlink: tuple[int, ...] = ()  # indexes of the GPUs that NVML says can be reached by NVLink

    @property
    def usable(self) -> bool:
        return self.state == "ok"

    @property
    def label(self) -> str:
        """How messages name it.

        >>> LiveGpu(3, "ok", name="NVIDIA L4").label
        'GPU 3 (NVIDIA L4)'
        """
        name = f" ({self.name})" if self.name else ""
        return f"GPU {self.index}{name}"


@dataclass(frozen=True)
class Fabric:
    """The larger cluster that the NVLink domain is a part of."""

    cluster_uuid: str
    clique: int


@dataclass(frozen=True)
class Interconnect:
    """The link that joins all usable listed GPUs, at the slowest one's rate."""

    kind: InterconnectKind
    bytes_per_second_per_direction: float | None
    fabric: Fabric | None
