"""Time of collectives on a hierarchy: domains (NVLink, or the PCIe of a node) joined by a network.

message_bytes is what nccl-tests calls size: all_reduce the buffer of one rank, all_gather the whole
gathered output, reduce_scatter the whole input of one rank, all_to_all everything that one rank
sends (its own share included), send_receive the bytes sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from planner.hardware.kernel_constants import CollectiveConstants
from planner.hardware.surface import correction
from planner.numeric import Array, Number

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive"]

# How sharply the slower of domain and network sets the pace (1/B^4 adds up: near a minimum).
_PACE_POWER = 4.0


def bus_factor(operation: Operation, ranks: Number) -> Number:
    """Bytes that each rank sends over its link per byte of the message [1].

    >>> bus_factor("all_reduce", 8), bus_factor("all_gather", 8), bus_factor("send_receive", 8)
    (1.75, 0.875, 1.0)
    """
    ranks = np.asarray(ranks, float)
    if operation == "send_receive":
        factor = np.where(ranks > 1.0, 1.0, 0.0)
    else:
        passes = 2.0 if operation == "all_reduce" else 1.0
        factor = passes * (ranks - 1.0) / np.maximum(ranks, 1.0)
    return float(factor) if factor.ndim == 0 else factor


def collective_seconds(
    operation: Operation,
    message_bytes: Number,
    ranks: Number,
    *,
    ranks_per_domain: Number,
    link_bytes_per_second: Number,
    network_bytes_per_second: Number,
    constants: Mapping[str, CollectiveConstants],
) -> Number:
    """Time of one collective, nothing else on the GPUs [s]; numbers or arrays.

    ranks: of the group. ranks_per_domain: how many of them share a domain (at most all).
    link_bytes_per_second: of one GPU inside its domain, one direction; network_bytes_per_second:
    of one GPU's share of the node's adapters, one direction (per GPU, so that a group with one rank
    a node gets one rail, and all the node's groups together get all).

    Inside a domain, with bytes on the bus x = factor(n) x message (bus_factor):

        t = alpha + alpha' log2(n/2) + s sqrt(x / kB) + x / (link e (n/2)^-g)

    Over several domains the network's latencies come on top, and the bus runs at the slower of the
    domain's pace and that of all its rails together; all_to_all sends only what leaves the domain
    over the network. The residual of the measured neighbours multiplies each. 0 for one rank.

    Source: fitted on planner/validation/data/kernels/collectives.csv.gz (nccl-tests, RCCL).
    Valid for: 512 bytes to 16 GiB, 2 to 72 ranks in a domain, 2 to 512 domains.
    """
    size = np.maximum(np.asarray(message_bytes, float), 1.0)
    group = np.asarray(ranks, float)
    inside = np.clip(np.asarray(ranks_per_domain, float), 1.0, group)
    domains = np.ceil(group / inside)
    local = constants[operation]
    remote = constants[f"network/{operation}"]
    link = np.asarray(link_bytes_per_second, float)
    network = np.asarray(network_bytes_per_second, float)
    one_domain = _one_domain_seconds(operation, size, group, link, local)
    several = _several_domains_seconds(
        operation, size, inside, domains, link, network, local, remote
    )
    seconds = np.where(group <= 1.0, 0.0, np.where(domains <= 1.0, one_domain, several))
    return float(seconds) if seconds.ndim == 0 else seconds


def domain_coordinates(message_bytes: Number, ranks: Number) -> tuple[Number, Number]:
    """Where a collective lies on its surface of residuals: doublings per length scale."""
    size_at, ranks_at = np.log2(message_bytes) / 5.0, np.log2(ranks) / 2.0
    return size_at, ranks_at


def network_coordinates(
    message_bytes: Number, ranks_per_domain: Number, domains: Number
) -> tuple[Number, Number, Number]:
    """The same between domains."""
    return np.log2(message_bytes) / 5.0, np.log2(ranks_per_domain) / 2.0, np.log2(domains) / 3.0


def _rate(link: Array, ranks: Array, constants: CollectiveConstants) -> Array:
    """Bus bandwidth of large messages inside a domain [B/s]."""
    fall = np.maximum(ranks / 2.0, 1.0) ** -constants.rank_exponent
    rate: Array = link * constants.efficiency * fall
    return rate


def _latency(bytes_on_bus: Array, doublings: Array, constants: CollectiveConstants) -> Array:
    """What a message costs beyond its bandwidth [s]."""
    seconds: Array = (
        constants.fixed_seconds
        + constants.seconds_per_doubling * doublings
        + constants.root_seconds * np.sqrt(bytes_on_bus / 1e3)
    )
    return seconds


def _one_domain_seconds(
    operation: Operation, size: Array, ranks: Array, link: Array, constants: CollectiveConstants
) -> Array:
    on_bus = bus_factor(operation, ranks) * size
    doublings = np.log2(np.maximum(ranks, 2.0) / 2.0)
    seconds = _latency(on_bus, doublings, constants) + on_bus / _rate(link, ranks, constants)
    factor = correction(constants.surface, domain_coordinates(size, np.maximum(ranks, 2.0)))
    return np.asarray(seconds * factor)


def _several_domains_seconds(
    operation: Operation,
    size: Array,
    inside: Array,
    domains: Array,
    link: Array,
    network: Array,
    local: CollectiveConstants,
    remote: CollectiveConstants,
) -> Array:
    ranks = inside * domains
    domains = np.maximum(domains, 2.0)
    doublings = np.log2(domains / 2.0)
    rails = network * remote.efficiency * (domains / 2.0) ** -remote.rank_exponent
    local_rate = _rate(link, np.maximum(inside, 2.0), local)
    on_bus = bus_factor(operation, ranks) * size
    if operation == "all_to_all":
        leaving = size * (ranks - inside) / ranks
        staying = size * (inside - 1.0) / ranks
        moving = np.maximum(leaving / rails, staying / local_rate)
    elif operation == "send_receive":
        moving = on_bus / rails
    else:
        # A ring through all ranks; with one rank a domain there is no domain to slow it down.
        in_domain = np.where(inside > 1.0, local_rate, np.inf)
        slowest = (in_domain**-_PACE_POWER + (inside * rails) ** -_PACE_POWER) ** (
            1.0 / _PACE_POWER
        )
        moving = on_bus * slowest
    seconds = _latency(on_bus, doublings, remote) + moving
    factor = correction(remote.surface, network_coordinates(size, inside, domains))
    return np.asarray(seconds * factor)
