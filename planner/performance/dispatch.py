"""Time of sending tokens to their experts' ranks, and of summing what comes back.

Two ways. "Once per rank" (DeepEP's normal mode): a token crosses the network once to each node that
has one of its experts, and inside the node once to each rank. Else (low latency, and kernels of one
NVLink domain that write rows where they are read) each choice is a message of its own.
"""

from __future__ import annotations

import numpy as np

from planner.hardware.kernel_constants import DispatchConstants
from planner.hardware.surface import correction
from planner.numeric import Number

# How sharply the slower of two paths, or of link and multiprocessors, sets the pace.
_PACE_POWER = 3.0


def distinct_targets(targets: Number, choices: Number) -> Number:
    """Of `targets` alike, how many a token reaches with so many choices at random [1].

    >>> float(round(distinct_targets(8, 8), 3)), float(distinct_targets(1, 8))
    (5.251, 1.0)
    """
    reached: Number = targets * (1.0 - (1.0 - 1.0 / np.asarray(targets, float)) ** choices)
    return reached


def copies_sent(
    top_k: Number, ranks: Number, domains: Number, *, once_per_rank: bool
) -> tuple[Number, Number]:
    """Copies of each token over the network, and over the links of a domain [1].

    What comes over the network enters at one of a domain's ranks, which sends it to the others.

    >>> [float(round(x, 3)) for x in copies_sent(8, 16, 2, once_per_rank=False)]
    [4.0, 3.5]
    """
    inside = ranks / domains
    if not once_per_rank:
        return top_k * (ranks - inside) / ranks, top_k * (inside - 1.0) / ranks
    to_domains = distinct_targets(domains, top_k) * (domains - 1.0) / domains
    return to_domains, distinct_targets(ranks, top_k) * (inside - 1.0) / inside


def dispatch_seconds(
    tokens: Number,
    *,
    hidden: Number,
    top_k: Number,
    experts: Number,
    ranks: Number,
    domains: Number = 1.0,
    multiprocessors: Number = 1.0,
    constants: DispatchConstants,
    link_bytes_per_second: Number,
    network_bytes_per_second: Number,
) -> Number:
    """Time of one dispatch or combine, nothing else on the GPU [s]; numbers or arrays.

    tokens: that each rank sends. domains: nodes, or NVLink domains, that the ranks are spread over.
    multiprocessors: that the kernel may use, where its speed depends on them. Rates are one GPU's,
    one direction. With x bytes over the links, y over the network, and s the multiprocessors' rate,

        t = t0 + t' log2(n/2) + r sqrt((x + y)/kB) + c tokens + ((x/l)^3 + (y/w)^3)^(1/3)
        1/l^3 = 1/(link e)^3 + 1/(multiprocessors s)^3,  w = network e_w (domains/2)^-g

    times the residual of the measured neighbours.

    Source: fitted on planner/validation/data/kernels/moe_all_to_all.csv.gz (DeepEP, TensorRT-LLM).
    Valid for: 1 to 131,072 tokens, 2 to 256 ranks.
    """
    spread = np.maximum(np.asarray(domains, float), 1.0)
    away, near = copies_sent(top_k, ranks, spread, once_per_rank=constants.once_per_rank)
    payload = tokens * hidden * constants.element_bytes
    inverse: Number = 1.0 / (link_bytes_per_second * constants.efficiency)
    if constants.sm_bytes_per_second:
        by_sm = 1.0 / (multiprocessors * constants.sm_bytes_per_second)
        inverse = (inverse**_PACE_POWER + by_sm**_PACE_POWER) ** (1.0 / _PACE_POWER)
    wires = network_bytes_per_second * constants.network_efficiency
    wires = wires * np.maximum(spread / 2.0, 1.0) ** -constants.domain_exponent
    inside, outside = payload * near * inverse, payload * away / wires
    moving = (inside**_PACE_POWER + outside**_PACE_POWER) ** (1.0 / _PACE_POWER)
    waiting = (
        constants.fixed_seconds
        + constants.seconds_per_doubling * np.log2(np.maximum(ranks, 2.0) / 2.0)
        + constants.root_seconds * np.sqrt(payload * (near + away) / 1e3)
        + constants.token_seconds * tokens
    )
    at = dispatch_coordinates(tokens, hidden, top_k, experts, multiprocessors, ranks)
    seconds: Number = (waiting + moving) * correction(constants.surface, at)
    return float(seconds) if np.ndim(seconds) == 0 else seconds


def dispatch_coordinates(
    tokens: Number,
    hidden: Number,
    top_k: Number,
    experts: Number,
    multiprocessors: Number,
    ranks: Number,
) -> tuple[Number, ...]:
    """Where a dispatch lies on its surface of residuals: doublings per length scale."""
    return (
        np.log2(tokens) / 3.0,
        np.log2(hidden) / 3.0,
        np.log2(top_k) / 3.0,
        np.log2(experts) / 3.0,
        np.log2(multiprocessors) / 3.0,
        np.log2(ranks) / 2.0,
    )
