"""Quantities of a hardware profile: text with a unit, and only the units that leave no doubt.

A bare number has lost its unit; GB of memory is a sales figure (an "80 GB" H100 has 81559 MiB);
link rates in bits are eight times what they seem. Each is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, overload

from planner.documents import Document

# What a YAML file may have where a quantity is expected; only text is right.
Quantity: TypeAlias = str | int | float

_QUANTITY = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z/]+)")


@dataclass(frozen=True)
class QuantityKind:
    """The units of one kind of quantity, and what is said when none of them is there."""

    units: Mapping[str, Decimal]
    expected: str


MEMORY = QuantityKind(
    {"MiB": Decimal(2**20), "GiB": Decimal(2**30), "TiB": Decimal(2**40)},
    "a size in GiB or MiB as the device reports it, such as 80 GiB (GB is a sales figure)",
)
RATE = QuantityKind(
    {"MB/s": Decimal(10**6), "GB/s": Decimal(10**9), "TB/s": Decimal(10**12)},
    "bytes per second, such as 3350 GB/s (400 Gb/s are 50 GB/s)",
)
FLOP_RATE = QuantityKind(
    {
        f"{prefix}{word}": Decimal(factor)
        for prefix, factor in (("G", 10**9), ("T", 10**12), ("P", 10**15))
        for word in ("FLOPS", "FLOP/s")
    },
    "a dense rate, such as 989.4 TFLOPS",
)
FREQUENCY = QuantityKind(
    {"MHz": Decimal(10**6), "GHz": Decimal(10**9)}, "a clock, such as 1830 MHz"
)
POWER = QuantityKind({"W": Decimal(1), "kW": Decimal(1000)}, "a power, such as 700 W")
LATENCY = QuantityKind(
    {"us": Decimal("1e-6"), "ms": Decimal("1e-3")}, "a short time, such as 10.2 us"
)


@overload
def read(document: Document, kind: QuantityKind, value: Quantity, *path: str) -> float: ...
@overload
def read(document: Document, kind: QuantityKind, value: None, *path: str) -> None: ...
@overload
def read(
    document: Document, kind: QuantityKind, value: Quantity | None, *path: str
) -> float | None: ...
def read(
    document: Document, kind: QuantityKind, value: Quantity | None, *path: str
) -> float | None:
    """What stands at `path` in base units (bytes, bytes/s, FLOP/s, Hz, W, s); None stays None."""
    if value is None:
        return None
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match["unit"] not in kind.units or not Decimal(match["number"]):
        shown = repr(value) if len(str(value)) <= 40 else f"{str(value)[:40]!r}..."
        raise document.error(path, f"got {shown}, expected {kind.expected}")
    return float(Decimal(match["number"]) * kind.units[match["unit"]])


def read_whole(
    document: Document, kind: QuantityKind, value: Quantity | None, *path: str
) -> int | None:
    """As `read`, as a whole number (of bytes)."""
    number = read(document, kind, value, *path)
    return None if number is None else round(number)
