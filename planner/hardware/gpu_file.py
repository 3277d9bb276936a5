"""A GPU's YAML file -> GpuProfile. The classes here are the shape of the file.

Units stand in the text ("81559 MiB", "3350 GB/s", "989.4 TFLOPS"); docs/hardware.md explains the
fields. What is wrong is one error with file, line and field; what cannot be true (a sparse peak, a
rate of both directions) is refused by `plausibility`, unless the file lists it as an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from planner.documents import Document
from planner.errors import unknown
from planner.hardware import plausibility
from planner.hardware.profile import (
    SOURCE_GROUPS,
    Exemption,
    GpuProfile,
    HostLink,
    Measured,
    Pcie,
    Price,
)
from planner.hardware.quantities import (
    FLOP_RATE,
    FREQUENCY,
    MEMORY,
    POWER,
    RATE,
    Quantity,
    read,
    read_whole,
)
from planner.hardware.sections import (
    LinkSection,
    SourceSection,
    Text,
    check_id,
    check_price,
    read_link,
    read_sources,
)
from planner.schema import PositiveInt, build


@dataclass(frozen=True)
class MemorySection:
    """Device memory."""

    kind: Text
    total: Quantity
    bandwidth: Quantity
    usable: Quantity | None = None


@dataclass(frozen=True)
class PeakSection:
    """Dense peaks of matrix products."""

    fp32: Quantity | None = None
    tf32: Quantity | None = None
    fp16: Quantity | None = None
    bf16: Quantity | None = None
    fp8: Quantity | None = None
    int8: Quantity | None = None
    fp4: Quantity | None = None


@dataclass(frozen=True)
class ChipSection:
    """The chip and its board."""

    multiprocessors: PositiveInt | None = None
    l2_cache: Quantity | None = None
    boost_clock: Quantity | None = None
    power_limit: Quantity | None = None


@dataclass(frozen=True)
class PcieSection:
    """The slot."""

    generation: PositiveInt
    rate: Quantity


@dataclass(frozen=True)
class HostSection:
    """A faster way to the host's memory than the slot; the rate is one GPU's, one direction."""

    kind: Text
    rate: Quantity


@dataclass(frozen=True)
class UsualNodeSection:
    """The node that the GPU usually sits in; the network's rate is one GPU's share.

    host_slowdown: time that its CPUs take to start a kernel, over that of a DGX H100 (Xeon 8480C)
    """

    gpus: PositiveInt | None = None
    network: Quantity | None = None
    host_slowdown: float | None = None


@dataclass(frozen=True)
class MeasuredSection:
    """Measured rates."""

    matmul_bf16: Quantity | None = None
    how: Text | None = None
    others: Text | None = None


@dataclass(frozen=True)
class GpuFile:
    """The file."""

    id: Text
    name: Text
    vendor: Text
    architecture: Text
    memory: MemorySection
    peak: PeakSection
    sources: dict[str, SourceSection]
    compute_capability: Text | None = None
    released: PositiveInt | None = None
    nvml_names: tuple[Text, ...] = ()
    aliases: tuple[Text, ...] = ()
    chip: ChipSection = ChipSection()
    link: LinkSection | None = None
    pcie: PcieSection | None = None
    host: HostSection | None = None
    node: UsualNodeSection = UsualNodeSection()
    price: Price | None = None
    measured: MeasuredSection | None = None
    exceptions: tuple[Exemption, ...] = ()
    notes: tuple[Text, ...] = ()


def _host_slowdown(document: Document, node: UsualNodeSection) -> float | None:
    given = node.host_slowdown
    if given is not None and not 0.1 <= given <= 10:
        raise document.error(("node", "host_slowdown"), f"got {given:g}, expected 0.1 to 10")
    return given


def read_gpu(document: Document) -> GpuProfile:
    """The profile in a GPU's file."""
    given = build(GpuFile, document)
    memory, chip = given.memory, given.chip
    for group in given.sources:
        if group not in SOURCE_GROUPS:
            raise unknown("group", group, SOURCE_GROUPS, document.where(("sources", group)))
    check_id(document, given.id, "id")
    for number, alias in enumerate(given.aliases):
        check_id(document, alias, "aliases", number)
    check_price(document, given.price)
    profile = GpuProfile(
        id=given.id,
        name=given.name,
        vendor=given.vendor,
        architecture=given.architecture,
        memory_kind=memory.kind,
        memory_bytes=round(read(document, MEMORY, memory.total, "memory", "total")),
        memory_bandwidth_bytes_per_second=read(
            document, RATE, memory.bandwidth, "memory", "bandwidth"
        ),
        peak_flops_per_second=_peaks(document, given.peak),
        usable_memory_bytes=read_whole(document, MEMORY, memory.usable, "memory", "usable"),
        compute_capability=given.compute_capability,
        released=given.released,
        nvml_names=given.nvml_names,
        aliases=given.aliases,
        sm_count=chip.multiprocessors,
        l2_bytes=read_whole(document, MEMORY, chip.l2_cache, "chip", "l2_cache"),
        boost_clock_hz=read(document, FREQUENCY, chip.boost_clock, "chip", "boost_clock"),
        power_limit_watts=read(document, POWER, chip.power_limit, "chip", "power_limit"),
        link=read_link(document, given.link),
        pcie=_pcie(document, given.pcie),
        host_link=_host(document, given.host),
        gpus_per_node=given.node.gpus,
        network_bytes_per_second=read(document, RATE, given.node.network, "node", "network"),
        host_slowdown=_host_slowdown(document, given.node),
        price=given.price,
        measured=_measured(document, given.measured),
        sources=read_sources(document, given.sources),
        exceptions=given.exceptions,
        notes=given.notes,
        path=document.source,
    )
    _check_plausible(document, profile)
    return profile


def _peaks(document: Document, given: PeakSection) -> dict[str, float]:
    peaks = {}
    for field in fields(given):
        rate = read(document, FLOP_RATE, getattr(given, field.name), "peak", field.name)
        if rate is not None:
            peaks[field.name] = rate
    if not peaks:
        raise document.error(("peak",), "is empty, expected at least one dense peak, as of bf16")
    return peaks


def _pcie(document: Document, given: PcieSection | None) -> Pcie | None:
    if given is None:
        return None
    return Pcie(given.generation, read(document, RATE, given.rate, "pcie", "rate"))


def _host(document: Document, given: HostSection | None) -> HostLink | None:
    if given is None:
        return None
    return HostLink(given.kind, read(document, RATE, given.rate, "host", "rate"))


def _measured(document: Document, given: MeasuredSection | None) -> Measured | None:
    if given is None:
        return None
    matmul = read(document, FLOP_RATE, given.matmul_bf16, "measured", "matmul_bf16")
    return Measured(matmul, given.how, given.others)


def _check_plausible(document: Document, profile: GpuProfile) -> None:
    allowed = set()
    for number, exemption in enumerate(profile.exceptions):
        if exemption.rule not in plausibility.RULES:
            where = document.where(("exceptions", number, "rule"))
            raise unknown("rule", exemption.rule, plausibility.RULES, where)
        allowed.add(exemption.rule)
    for finding in plausibility.check(profile):
        if finding.rule not in allowed:
            hint = f"if it is right, list rule {finding.rule} with a reason under exceptions"
            raise document.error(finding.path, finding.message, hint)
