"""GPUs together: which links join a group of ranks, and how fast.

Ranks are numbered node by node, and a group of `size` ranks with `stride` s is r, r+s, r+2s, ...
(tensor parallel: stride 1; data parallel over it: stride tensor_parallel; and so on outwards). A
cluster has up to four levels, each reaching further and slower than the one before: the GPU link
(NVLink, Infinity Fabric: 8, 72, or a bridged pair), the host (PCIe), the network, and beyond what
the network joins at its full rate its oversubscribed spine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from planner.errors import InputError
from planner.hardware.profile import GpuProfile, Link, NodeProfile, Price
from planner.numeric import Number, ceil_div, is_array, maximum, minimum, where

# Where nothing is known of the network: one 100 Gb/s card a node, shared by its GPUs. Assumed.
ASSUMED_NODE_NETWORK_BYTES_PER_SECOND = 12.5e9
# GPUs of a node of which nothing is known: what a large PCIe server holds. Assumed.
ASSUMED_GPUS_PER_NODE = 8
# Of a PCIe box of which nothing is known: generation 3 with 16 lanes. Assumed.
ASSUMED_HOST_BYTES_PER_SECOND = 15.75e9


@dataclass(frozen=True)
class Cluster:
    """What training runs on."""

    gpu: GpuProfile
    gpus: Number  # `cluster_of` makes a whole number; a search may replace it by an array
    gpus_per_node: int
    levels: tuple[Link, ...]  # from the fastest and nearest to the network, which reaches all
    price: Price | None = None  # None: nobody's price is known
    region: str | None = None
    node: str | None = None  # id of the NodeProfile, where one was named
    host_memory_bytes: int | None = None  # of a node, where it is known
    assumptions: tuple[str, ...] = ()

    @property
    def known_as(self) -> str:
        """The node type's id, where one was named, else the GPU's."""
        return self.node or self.gpu.id

    @property
    def host_bytes_per_second(self) -> float:
        """Between a GPU and its host's memory, one direction."""
        return self.gpu.host_bytes_per_second or ASSUMED_HOST_BYTES_PER_SECOND

    @property
    def host_memory_bytes_per_gpu(self) -> float | None:
        """A GPU's share of its node's memory, where that is known."""
        whole = self.host_memory_bytes
        return None if whole is None else whole / self.gpus_per_node

    @property
    def nodes(self) -> Number:
        """Nodes that hold the GPUs; the last may be partly filled."""
        return ceil_div(self.gpus, self.gpus_per_node)

    @property
    def usd_per_gpu_hour(self) -> float | None:
        """US dollars per hour of one GPU."""
        return self.price.usd_per_gpu_hour if self.price else None

    def members(self, level: int, size: Number, stride: Number = 1) -> Number:
        """Of a group's ranks, those that lie inside one unit of a level (a node, say) [ranks].

        >>> from planner.hardware.library import find_gpu
        >>> h100 = cluster_of(find_gpu("h100"), 64)
        >>> h100.members(0, 8), h100.members(0, 16, stride=4), h100.members(0, 8, stride=8)
        (8, 2, 1)
        """
        reach = self.levels[level].gpus_reached
        if reach is None:
            return size
        # Groups lie in blocks of size x stride ranks. Where blocks and units do not divide each
        # other, some group straddles an edge; its smaller part is what this is then.
        inside = minimum(maximum(_gcd(size * stride, reach) // stride, 1), size)
        return where(self.gpus <= reach, size, inside)

    @property
    def gpus_nearest(self) -> int:
        """GPUs that share the nearest link: 1 where that is the network."""
        nearest = self.levels[0]
        return 1 if nearest.topology == "network" else nearest.gpus_reached or 1

    def nearest(self, size: Number, stride: Number = 1) -> Number:
        """Of a group's ranks, those that share the nearest link: 1 where that is the network."""
        return self.members(0, size, stride) if self.gpus_nearest > 1 else 1

    def nearest_bytes_per_second(self, size: Number, stride: Number = 1) -> Number:
        """What one rank has towards the others that share its nearest link, one direction."""
        return self.levels[0].rate(maximum(self.nearest(size, stride), 2))

    def outward_bytes_per_second(
        self, size: Number, stride: Number = 1, *, each_to_each: bool = False
    ) -> Number:
        """One rank's share of the links that lead out of the nearest one, one direction.

        Infinite where nothing leaves. A ring enters and leaves each unit of a level once, so the
        ranks of a group that are in one unit of the level below share their links outwards: rate of
        the level x ranks below / ranks of the nearest. Where each rank sends to each
        (`each_to_each`), only what leaves a level crosses it: rate x (ranks outside the nearest) /
        (ranks outside the level below). The slowest level that is crossed sets the pace. Nominal:
        no protocol, no efficiency (those are measured, `performance.collectives`).

        >>> from planner.hardware.library import find_gpu
        >>> pairs = cluster_of(find_gpu("h100-nvl"), 16)  # NVLink, then PCIe, then the network
        >>> [pairs.outward_bytes_per_second(size) / 1e9 for size in (2, 8)]
        [inf, 63.0]
        """
        nearest = below = self.nearest(size, stride)
        slowest: Number = float("inf")
        outwards = 1 if self.gpus_nearest > 1 else 0
        for level, link in enumerate(self.levels[outwards:], outwards):
            inside = self.members(level, size, stride)
            rate = link.rate(ceil_div(inside, below))
            if each_to_each:
                share = rate * (size - nearest) / maximum(size - below, 1)
            else:
                share = rate * below / nearest
            slowest = where(inside > below, minimum(slowest, share), slowest)
            below = maximum(inside, below)
        return slowest


def cluster_of(
    gpu: GpuProfile,
    gpus: int,
    *,
    gpus_per_node: int | None = None,
    node: NodeProfile | None = None,
    node_network_bytes_per_second: float | None = None,
    usd_per_gpu_hour: float | None = None,
    region: str | None = None,
) -> Cluster:
    """A cluster of `gpus` GPUs in nodes of a named type, or else in the GPU's usual node.

    A `gpus_per_node` that is given wins over both; where the GPU link joins more than a node (an
    NVLink rack), a larger one sets how many of the rack are used (64 of 72, say). A
    `node_network_bytes_per_second`, one direction, is that of all adapters of a node together, and
    wins over what profiles say. What is not known is assumed, and said in `assumptions`.
    """
    if gpus < 1:
        raise InputError(f"gpus: got {gpus}, expected at least 1")
    if gpus_per_node is not None and gpus_per_node < 1:
        raise InputError(f"gpus_per_node: got {gpus_per_node}, expected at least 1")
    if node_network_bytes_per_second is not None and not node_network_bytes_per_second > 0:
        got = f"{node_network_bytes_per_second:g}"
        raise InputError(f"node_network_bytes_per_second: got {got}, expected more than 0")
    if node is not None and node.gpu != gpu.id:
        raise InputError(f"node {node.id} holds {node.gpu}, the GPU given is {gpu.id}")
    assumptions: list[str] = []
    usual = node.gpus_per_node if node else gpu.gpus_per_node
    if usual is None and gpus_per_node is None and gpus > 1:
        assumptions.append(
            f"{ASSUMED_GPUS_PER_NODE} GPUs share a node: the usual node of {gpu.id} is not known"
        )
    per_node = gpus_per_node or usual or ASSUMED_GPUS_PER_NODE
    levels = _gpu_level(gpu, node, gpus, gpus_per_node, usual or per_node, assumptions)
    if not levels or (levels[0].gpus_reached or 0) < per_node:
        levels += _host_level(gpu, per_node, gpus, assumptions)
    if node_network_bytes_per_second is not None:
        levels.append(Link("network", "network", node_network_bytes_per_second / per_node))
    else:
        levels.append(_network(gpu, node, per_node, gpus, levels, assumptions))
        if node is not None and node.spine is not None:
            levels.append(node.spine)
    price = (node.price if node else None) or gpu.price
    if usd_per_gpu_hour is not None:
        price = Price(usd_per_gpu_hour, "given", "a price that was given", "now")
    return Cluster(
        gpu,
        gpus,
        per_node,
        tuple(levels),
        price,
        region,
        node.id if node else None,
        node.host_memory_bytes if node else None,
        tuple(assumptions),
    )


def _gpu_level(
    gpu: GpuProfile,
    node: NodeProfile | None,
    gpus: int,
    chosen_per_node: int | None,
    usual_per_node: int,
    assumptions: list[str],
) -> list[Link]:
    """The link between GPUs, reaching as far as it does in this cluster; none if there is none."""
    link = (node.link if node else None) or gpu.link
    if link is None or link.gpus_reached is None:
        return []
    if link.optional and node is None:
        if gpus > 1:
            assumptions.append(f"no bridges ({link.kind}) between {gpu.id}: bought apart")
        return []
    reach = link.gpus_reached
    # a node's file without a link means the GPU's, which may end with the GPU's own usual node
    home = node.gpus_per_node if node and node.link else gpu.gpus_per_node or usual_per_node
    if reach <= home:
        reach = min(reach, chosen_per_node or usual_per_node)
    elif chosen_per_node is not None and chosen_per_node > usual_per_node:
        reach = min(reach, chosen_per_node)
    elif gpus > reach and reach & (reach - 1):
        reach = 1 << (reach.bit_length() - 1)
        assumptions.append(
            f"{reach} of the {link.gpus_reached} GPUs that share {link.kind} are used, "
            "as jobs beyond one rack do"
        )
    return [replace(link, gpus_reached=reach)] if reach > 1 else []


def _host_level(gpu: GpuProfile, per_node: int, gpus: int, assumptions: list[str]) -> list[Link]:
    """PCIe through the host, where the GPU link does not join the whole node."""
    if per_node == 1:
        return []
    rate = ASSUMED_HOST_BYTES_PER_SECOND
    if gpu.pcie is not None:
        rate = gpu.pcie.bytes_per_second_per_direction
    elif gpus > 1:
        assumptions.append(f"{rate / 1e9:g} GB/s between GPUs of a node: not known of {gpu.id}")
    return [Link("pcie", "host", rate, per_node)]


def _network(
    gpu: GpuProfile,
    node: NodeProfile | None,
    per_node: int,
    gpus: int,
    levels: list[Link],
    assumptions: list[str],
) -> Link:
    if node is not None and node.network is not None:
        return node.network
    rate = gpu.network_bytes_per_second
    if rate is None:
        rate = ASSUMED_NODE_NETWORK_BYTES_PER_SECOND / per_node
        if all(gpus > (link.gpus_reached or gpus) for link in levels):
            assumptions.append(
                f"{ASSUMED_NODE_NETWORK_BYTES_PER_SECOND * 8 / 1e9:g} Gb/s of network a node: "
                f"not known of {gpu.id}"
            )
    return Link("network", "network", rate)


def _gcd(value: Number, other: int) -> Number:
    """Greatest common divisor, on numbers and arrays of whole numbers."""
    if is_array(value):
        return np.gcd(value.astype(np.int64), other).astype(float)
    return math.gcd(int(value), other)
