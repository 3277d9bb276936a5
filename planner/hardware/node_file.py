"""A node type's YAML file -> NodeProfile. The classes here are the shape of the file."""

from __future__ import annotations

from dataclasses import dataclass

from planner.documents import Document
from planner.errors import unknown
from planner.hardware.profile import Link, NodeProfile, Price
from planner.hardware.quantities import LATENCY, MEMORY, POWER, RATE, Quantity, read, read_whole
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

# No fabric that is built divides more than this (a slip of the pen does).
MOST_OVERSUBSCRIPTION = 100.0


@dataclass(frozen=True)
class NetworkSection:
    """What joins the nodes; the rate is one GPU's share, per direction.

    gpus_reached      joined at that rate (a pod); all, where it is not given
    oversubscription  how much less a GPU has beyond them: 7 = a seventh
    """

    kind: Text
    rate: Quantity
    latency: Quantity | None = None
    gpus_reached: PositiveInt | None = None
    oversubscription: float | None = None


@dataclass(frozen=True)
class NodeFile:
    """The file."""

    id: Text
    name: Text
    gpu: Text
    gpus_per_node: PositiveInt
    sources: dict[str, SourceSection]
    link: LinkSection | None = None
    network: NetworkSection | None = None
    power: Quantity | None = None
    host_memory: Quantity | None = None
    price: Price | None = None
    notes: tuple[Text, ...] = ()


def read_node(document: Document) -> NodeProfile:
    """The profile in a node type's file."""
    given = build(NodeFile, document)
    for group in given.sources:
        if group != "node":
            raise unknown("group", group, ["node"], document.where(("sources", group)))
    check_id(document, given.id, "id")
    check_price(document, given.price)
    return NodeProfile(
        id=given.id,
        name=given.name,
        gpu=given.gpu,
        gpus_per_node=given.gpus_per_node,
        link=read_link(document, given.link),
        network=_network(document, given.network),
        spine=_spine(document, given.network, given.gpus_per_node),
        power_watts=read(document, POWER, given.power, "power"),
        host_memory_bytes=read_whole(document, MEMORY, given.host_memory, "host_memory"),
        price=given.price,
        sources=read_sources(document, given.sources),
        notes=given.notes,
        path=document.source,
    )


def _network(document: Document, given: NetworkSection | None) -> Link | None:
    if given is None:
        return None
    return Link(
        given.kind,
        "network",
        read(document, RATE, given.rate, "network", "rate"),
        given.gpus_reached,
        read(document, LATENCY, given.latency, "network", "latency"),
    )


def _spine(document: Document, given: NetworkSection | None, per_node: int) -> Link | None:
    """What joins the parts of a network that is oversubscribed above them."""
    if given is None or (given.gpus_reached is None and given.oversubscription is None):
        return None
    if given.oversubscription is None:
        raise document.error(("network", "gpus_reached"), "expected oversubscription beside it")
    if given.gpus_reached is None:
        raise document.error(("network", "oversubscription"), "expected gpus_reached beside it")
    if given.gpus_reached % per_node:
        raise document.error(
            ("network", "gpus_reached"),
            f"got {given.gpus_reached}, expected whole nodes: a multiple of {per_node}",
        )
    if not 1 <= given.oversubscription <= MOST_OVERSUBSCRIPTION:
        raise document.error(
            ("network", "oversubscription"),
            f"got {given.oversubscription:g}, expected 1 (none) to {MOST_OVERSUBSCRIPTION:g}",
        )
    rate = read(document, RATE, given.rate, "network", "rate")
    return Link(given.kind, "network", rate / given.oversubscription)
