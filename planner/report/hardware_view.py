"""Profiles of GPUs and nodes as rows of text: what a table of any format shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from planner.hardware.profile import GpuProfile, Link, NodeProfile, Price, Source
from planner.units import format_byte_rate, format_flop_rate, format_memory, format_usd

UNKNOWN = "-"

GPU_COLUMNS = ("GPU", "memory", "bandwidth", "dense bf16", "GPU link", "power", "$/GPU-h", "from")
NODE_COLUMNS = ("node", "holds", "GPU link", "network a GPU", "$/GPU-h", "from")

# What is known of one thing: its name, the value, and where it comes from (a group of `sources`).
Fact: TypeAlias = tuple[str, str, str]


def gpu_rows(gpus: Iterable[GpuProfile]) -> list[tuple[str, ...]]:
    """One row of GPU_COLUMNS each."""
    return [
        (
            gpu.id,
            format_memory(gpu.memory_bytes),
            format_byte_rate(gpu.memory_bandwidth_bytes_per_second),
            _peak(gpu, "bf16"),
            UNKNOWN if gpu.link is None or gpu.link.optional else _link(gpu.link),
            _watts(gpu.power_limit_watts),
            _hourly(gpu.price),
            gpu.origin or UNKNOWN,
        )
        for gpu in gpus
    ]


def node_rows(nodes: Iterable[NodeProfile]) -> list[tuple[str, ...]]:
    """One row of NODE_COLUMNS each."""
    return [
        (
            node.id,
            f"{node.gpus_per_node} x {node.gpu}",
            UNKNOWN if node.link is None else _link(node.link),
            UNKNOWN if node.network is None else _link(node.network),
            _hourly(node.price),
            node.origin or UNKNOWN,
        )
        for node in nodes
    ]


def gpu_facts(gpu: GpuProfile) -> Iterator[Fact]:
    """All that a GPU's profile says, but its notes."""
    yield "id", gpu.id, ""
    yield "name", gpu.name, "identity"
    yield "vendor, architecture", f"{gpu.vendor}, {gpu.architecture}", "identity"
    yield "compute capability", gpu.compute_capability or UNKNOWN, "identity"
    yield "driver's names", ", ".join(gpu.nvml_names) or UNKNOWN, "identity"
    yield "aliases", ", ".join(gpu.aliases) or UNKNOWN, ""
    yield "memory", f"{format_memory(gpu.memory_bytes)} {gpu.memory_kind}", "memory"
    usable = gpu.usable_memory_bytes
    yield "of it usable by torch", UNKNOWN if usable is None else format_memory(usable), "memory"
    yield "bandwidth", format_byte_rate(gpu.memory_bandwidth_bytes_per_second), "memory"
    for dtype in gpu.peak_flops_per_second:
        yield f"dense {dtype}", _peak(gpu, dtype), "peak"
    yield "multiprocessors", str(gpu.sm_count or UNKNOWN), "chip"
    yield "L2 cache", UNKNOWN if gpu.l2_bytes is None else format_memory(gpu.l2_bytes), "chip"
    clock = gpu.boost_clock_hz
    yield "boost clock", UNKNOWN if clock is None else f"{clock / 1e6:g} MHz", "chip"
    yield "power limit", _watts(gpu.power_limit_watts), "chip"
    if gpu.link is not None:
        bought = ", bought apart" if gpu.link.optional else ""
        yield "GPU link", f"{_link(gpu.link)}, {gpu.link.kind} {gpu.link.topology}{bought}", "link"
    if gpu.pcie is not None:
        rate = format_byte_rate(gpu.pcie.bytes_per_second_per_direction)
        yield "PCIe", f"{rate} per direction, generation {gpu.pcie.generation}", "link"
    if gpu.host_link is not None:
        rate = format_byte_rate(gpu.host_link.bytes_per_second_per_direction)
        yield "to the host", f"{rate} per direction, {gpu.host_link.kind}", "link"
    yield "usual node", f"{gpu.gpus_per_node or UNKNOWN} GPUs", "link"
    if gpu.network_bytes_per_second is not None:
        yield "network", f"{format_byte_rate(gpu.network_bytes_per_second)} a GPU", "link"
    if gpu.host_slowdown is not None:
        yield "host", f"{gpu.host_slowdown:g} x a DGX H100's time to start a kernel", "link"
    yield from _price_facts(gpu.price, "price")
    if gpu.measured is not None and gpu.measured.matmul_bf16_flops_per_second is not None:
        rate = format_flop_rate(gpu.measured.matmul_bf16_flops_per_second)
        yield "measured bf16 matmul", f"{rate} ({gpu.measured.how})", "measured"
    if gpu.measured is not None and gpu.measured.others:
        yield "other measurements", gpu.measured.others, "measured"
    for exemption in gpu.exceptions:
        yield "exception", f"{exemption.rule}: {exemption.reason}", ""


def node_facts(node: NodeProfile) -> Iterator[Fact]:
    """All that a node's profile says, but its notes."""
    yield "id", node.id, ""
    yield "name", node.name, "node"
    yield "GPUs", f"{node.gpus_per_node} x {node.gpu}", "node"
    if node.link is not None:
        yield "GPU link", f"{_link(node.link)}, {node.link.kind} {node.link.topology}", "node"
    if node.network is not None:
        yield "network", _network(node.network, node.spine), "node"
    power = node.power_watts
    yield "power", UNKNOWN if power is None else f"{power / 1000:g} kW", "node"
    memory = node.host_memory_bytes
    yield "host memory", UNKNOWN if memory is None else format_memory(memory), "node"
    yield from _price_facts(node.price, "node")


def source_line(source: Source) -> str:
    """Where a group of values comes from, as a sentence.

    >>> source_line(Source("chip", "mixed", ("ml-engineering",), "L2 recalled"))
    'chip: mixed, ml-engineering (L2 recalled)'
    """
    named = f"{source.seen}, {', '.join(source.references)}" if source.references else source.seen
    return f"{source.group}: {named}" + (f" ({source.note})" if source.note else "")


def _price_facts(price: Price | None, group: str) -> Iterator[Fact]:
    if price is None:
        yield "price", UNKNOWN, group
        return
    offer = f"{price.provider}, {price.offer}, {price.date}"
    yield "price", f"{format_usd(price.usd_per_gpu_hour)} per GPU-hour ({offer})", group
    if price.others:
        yield "other offers", price.others, group


def _peak(gpu: GpuProfile, dtype: str) -> str:
    peak = gpu.peak_flops_per_second.get(dtype)
    return UNKNOWN if peak is None else format_flop_rate(peak)


def _link(link: Link) -> str:
    """The rate per direction, and how many GPUs it joins."""
    rate = format_byte_rate(link.bytes_per_second_per_direction)
    if link.gpus_reached is None:
        return rate
    return f"{rate} x {link.gpus_reached} GPUs" if link.gpus_reached > 1 else f"{rate}, no peer"


def _network(network: Link, spine: Link | None) -> str:
    """One GPU's share, and what is left of it above the part that the network joins at that rate.

    >>> _network(Link("roce", "network", 50e9, 3072), Link("roce", "network", 12.5e9))
    '50.0 GB/s a GPU, roce; 12.5 GB/s beyond 3,072 GPUs'
    """
    share = f"{format_byte_rate(network.bytes_per_second_per_direction)} a GPU, {network.kind}"
    if spine is None:
        return share
    beyond = format_byte_rate(spine.bytes_per_second_per_direction)
    return f"{share}; {beyond} beyond {network.gpus_reached:,} GPUs"


def _watts(power: float | None) -> str:
    return UNKNOWN if power is None else f"{power:g} W"


def _hourly(price: Price | None) -> str:
    return UNKNOWN if price is None else f"{price.usd_per_gpu_hour:.2f}"
