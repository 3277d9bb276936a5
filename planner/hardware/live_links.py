"""NVLink and PCIe between the listed GPUs: whom each reaches, and the link that joins them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.hardware.live_silicon import nvlink_bytes_per_second
from planner.hardware.live_types import (
    FABRIC_COMPLETED,
    Fabric,
    Interconnect,
    LinkEnd,
    LiveGpu,
    NvLink,
)

REMOTE_GPU, REMOTE_SWITCH = 0, 2  # nvmlIntNvLinkDeviceType_t
NO_CLUSTER = "00000000-0000-0000-0000-000000000000"

# Bytes per second of one lane and direction, after encoding: transfers/s x (128/130) / 8; the first
# two generations 8/10, the sixth 242/256 (flits). *Source:* PCI Express Base Specifications.
PCIE_LANE_BYTES_PER_SECOND: Mapping[int, float] = {
    1: 2.5e9 * 8 / 10 / 8,
    2: 5e9 * 8 / 10 / 8,
    3: 8e9 * 128 / 130 / 8,
    4: 16e9 * 128 / 130 / 8,
    5: 32e9 * 128 / 130 / 8,
    6: 64e9 * 242 / 256 / 8,
}


def with_nvlink(gpus: Sequence[LiveGpu]) -> tuple[LiveGpu, ...]:
    """The same GPUs with their NVLink: links up, payload rates added up, peers among the usable."""
    return tuple(replace(gpu, nvlink=_nvlink(gpu, gpus)) for gpu in gpus)


def _up(gpu: LiveGpu) -> tuple[LinkEnd, ...]:
    return tuple(end for end in gpu.link_ends or () if end.up)


def _nvlink(gpu: LiveGpu, gpus: Sequence[LiveGpu]) -> NvLink | None:
    up = _up(gpu)
    line = gpu.link_line_rate_mbps
    rate = nvlink_bytes_per_second(gpu.compute_capability, line and line * 1e6)
    if not up or rate is None or gpu.mig:
        return None
    peers = tuple(
        sorted(
            other.index
            for other in gpus
            if other.index != gpu.index and other.usable and not other.mig and _joined(gpu, other)
        )
    )
    return NvLink(len(up), len(up) * rate, peers)


def _joined(one: LiveGpu, other: LiveGpu) -> bool:
    """Whether NVLink joins two GPUs: NVML says so, a link ends there, or both are on switches."""
    if not _up(one) or not _up(other) or _in_different_fabrics(one, other):
        return False
    if other.index in one.p2p_nvlink or one.index in other.p2p_nvlink:
        return True
    ends_at_other = any(same_pci(end.remote_pci, other.pci_bus_id) for end in _up(one))
    ends_at_one = any(same_pci(end.remote_pci, one.pci_bus_id) for end in _up(other))
    return ends_at_other or ends_at_one or (_on_switch(one, other) and _on_switch(other, one))


def _on_switch(gpu: LiveGpu, other: LiveGpu) -> bool:
    """Whether a link of the GPU ends at a switch; before driver 470, at what both of them reach."""
    shared = {_pci(end.remote_pci) for end in _up(other)} - {None}
    return any(
        end.remote_type == REMOTE_SWITCH
        or (end.remote_type is None and _pci(end.remote_pci) in shared)
        for end in _up(gpu)
    )


def _in_different_fabrics(one: LiveGpu, other: LiveGpu) -> bool:
    states = [gpu.fabric for gpu in (one, other)]
    known = [state for state in states if state and state.state == FABRIC_COMPLETED]
    return len({(state.cluster_uuid, state.clique) for state in known}) > 1


def _pci(bus_id: str | None) -> tuple[int, ...] | None:
    """A PCI address as numbers: domains are written with four or eight digits.

    >>> _pci("0000:3B:00.0") == _pci("00000000:3b:00.0")
    True
    """
    if bus_id is None:
        return None
    try:
        return tuple(int(part, 16) for part in bus_id.replace(".", ":").split(":"))
    except ValueError:
        return None


def same_pci(one: str | None, other: str | None) -> bool:
    """Whether two PCI addresses are known and the same."""
    return _pci(one) is not None and _pci(one) == _pci(other)


def interconnect_of(gpus: Sequence[LiveGpu]) -> Interconnect | None:
    """What joins all usable GPUs; None for one GPU or for MIG instances, which cannot be joined."""
    usable = [gpu for gpu in gpus if gpu.usable]
    whole = [gpu for gpu in usable if not gpu.mig]
    if len(whole) < 2 or len(whole) < len(usable):
        return None
    links = [gpu.nvlink for gpu in whole if gpu.nvlink]
    if len(links) == len(whole) and _all_connected(whole):
        slowest = min(link.bytes_per_second_per_direction for link in links)
        switched = _through_switches(whole)
        return Interconnect("nvswitch" if switched else "nvlink", slowest, _fabric(whole))
    return Interconnect("pcie", _slowest_pcie(whole), None)


def _all_connected(gpus: Sequence[LiveGpu]) -> bool:
    """Whether one can go from any GPU to any other over NVLink, also by way of others."""
    peers = {gpu.index: set(gpu.nvlink.peers if gpu.nvlink else ()) for gpu in gpus}
    reached = {gpus[0].index}
    while True:
        more = {peer for index in reached for peer in peers[index] if peer in peers} - reached
        if not more:
            return len(reached) == len(gpus)
        reached |= more


def _through_switches(gpus: Sequence[LiveGpu]) -> bool:
    """Whether every GPU's links end at switches, and not at one of the GPUs."""
    addresses = [gpu.pci_bus_id for gpu in gpus]
    ends = [end for gpu in gpus for end in _up(gpu)]
    known = [end for end in ends if end.remote_type is not None]
    if known:
        return all(end.remote_type == REMOTE_SWITCH for end in known)
    # A driver before 470: what all reach and is none of them.
    return not any(same_pci(end.remote_pci, address) for end in ends for address in addresses)


def _fabric(gpus: Sequence[LiveGpu]) -> Fabric | None:
    """The cluster that the NVLink domain is a part of; on a Hopper node it ends at the node."""
    found = {
        (gpu.fabric.cluster_uuid, gpu.fabric.clique)
        if gpu.fabric and gpu.fabric.state == FABRIC_COMPLETED and not gpu.fabric.status
        else None
        for gpu in gpus
    }
    only = found.pop() if len(found) == 1 else None
    return None if only is None or only[0] == NO_CLUSTER else Fabric(*only)


def pcie_bytes_per_second(gpu: LiveGpu) -> float | None:
    """The rate of its slot: the highest generation (at rest it drops) and the width as it is."""
    generation, width = gpu.pcie_max_generation, gpu.pcie_width or gpu.pcie_max_width
    if not generation or not width:
        return None
    known = min(generation, max(PCIE_LANE_BYTES_PER_SECOND))
    return PCIE_LANE_BYTES_PER_SECOND[known] * width


def _slowest_pcie(gpus: Sequence[LiveGpu]) -> float | None:
    rates = [rate for gpu in gpus if (rate := pcie_bytes_per_second(gpu)) is not None]
    return min(rates) if rates else None
