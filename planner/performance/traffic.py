"""What GPUs exchange in a step, and how much of it shows: time by axis.

Data-parallel traffic runs unit by unit behind the compute of the neighbouring unit, and shows where
it takes longer; tensor-parallel traffic stands between products and shows whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.hardware.cluster import Cluster
from planner.numeric import Number, maximum, minimum, where
from planner.performance.collectives import Operation, collective_seconds
from planner.performance.machine import Machine


@dataclass(frozen=True)
class Group:
    """Ranks of one parallel axis: how many, and how many GPUs apart."""

    ranks: Number
    stride: Number


def exchange_seconds(
    operation: Operation, message_bytes: Number, group: Group, cluster: Cluster, machine: Machine
) -> Number:
    """One collective of a group of ranks on the cluster's links."""
    near = cluster.levels[0].gpus_reached or cluster.gpus_per_node
    inside = minimum(maximum(near // group.stride, 1), group.ranks)
    # groups that share a node's network share its rails: one GPU's share is what each has
    return collective_seconds(
        operation,
        message_bytes,
        group.ranks,
        ranks_per_domain=inside,
        link_bytes_per_second=cluster.intra_node.bytes_per_second_per_direction,
        network_bytes_per_second=cluster.inter_node.bytes_per_second_per_direction,
        constants=machine.constants.collectives,
    )


# Collectives take multiprocessors and bandwidth from the kernels that they run beside: of the hidden
# traffic's time this share shows as slower compute.
INTERFERENCE = 0.6


def exposed(traffic: Number, compute: Number, units: int) -> Number:
    """Of a unit's traffic hidden behind another unit's compute, what shows over all units.

    The first (or last) unit has nothing to hide behind.
    """
    hidden = minimum(traffic, compute)
    shows = maximum(traffic - compute, 0) + INTERFERENCE * hidden
    return where(traffic > 0, traffic + (units - 1) * shows, 0)
