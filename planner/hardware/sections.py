"""The parts that files of GPUs and of nodes share: links, prices, sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from planner.documents import Document
from planner.hardware.profile import Link, Price, Seen, Source, Topology
from planner.hardware.quantities import LATENCY, RATE, Quantity, read
from planner.schema import PositiveInt

_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,59}")

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class LinkSection:
    """What joins the GPUs of a node or a rack."""

    kind: Text
    topology: Topology
    rate: Quantity
    gpus_reached: PositiveInt
    latency: Quantity | None = None
    optional: bool = False


@dataclass(frozen=True)
class SourceSection:
    """Where a group of values comes from."""

    seen: Seen
    references: tuple[Text, ...] = ()
    note: Text | None = None


def check_id(document: Document, name: str, *path: str | int) -> None:
    """Refuse an id or alias that is no good file name or hard to type."""
    if not _ID.fullmatch(name):
        expected = "small letters, digits, '.' and '-', 60 at most, such as h100-sxm-80gb"
        raise document.error(path, f"got {name[:80]!r}, expected {expected}")


def read_link(document: Document, given: LinkSection | None) -> Link | None:
    """The `link` of a file."""
    if given is None:
        return None
    return Link(
        given.kind,
        given.topology,
        read(document, RATE, given.rate, "link", "rate"),
        given.gpus_reached,
        read(document, LATENCY, given.latency, "link", "latency"),
        given.optional,
    )


def check_price(document: Document, price: Price | None) -> None:
    """Refuse a price that no hour of a GPU has."""
    if price is not None and not 0 < price.usd_per_gpu_hour <= 1000:
        raise document.error(
            ("price", "usd_per_gpu_hour"),
            f"got {price.usd_per_gpu_hour:g}, expected US dollars per hour of one GPU",
        )


def read_sources(document: Document, given: Mapping[str, SourceSection]) -> tuple[Source, ...]:
    """The `sources` of a file; each group must say where it comes from."""
    if not given:
        raise document.error(("sources",), "is empty, expected where the values come from")
    for group, source in given.items():
        if source.seen != "recalled" and not source.references:
            raise document.error(
                ("sources", group), f"seen is {source.seen!r}, so references must name where"
            )
    return tuple(
        Source(group, source.seen, source.references, source.note)
        for group, source in given.items()
    )
