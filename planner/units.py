"""Quantities as text: parse what a person writes, print what a person reads.

Units are strict, because the costly mistake of this field is GB (10^9) taken for GiB (2^30):
case matters, nothing is guessed, and a unit of another kind is refused.

- GPU memory is printed in GiB. GB, TB/s and TFLOP/s are decimal, as vendors write them.
- Counts (parameters, tokens) have decimal suffixes: k, M, B (or G), T. "8k" tokens are 8,000.
- Lengths in tokens (a context) have binary ones: k, M. "8k" is 8,192, as the field says it.

Parsed values are exact: the text is read as a decimal number, not as a float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from planner.errors import InputError, near_match

BYTES_PER_KIB = 2**10
BYTES_PER_MIB = 2**20
BYTES_PER_GIB = 2**30
SECONDS_PER_HOUR = 3_600
SECONDS_PER_DAY = 86_400

_DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}

BYTE_UNITS: Mapping[str, int] = {
    "B": 1,
    "KB": 10**3,
    **{f"{prefix}B": factor for prefix, factor in {**_DECIMAL, **_BINARY}.items()},
}
COUNT_UNITS: Mapping[str, int] = {**_DECIMAL, "K": 10**3, "B": 10**9}
LENGTH_UNITS: Mapping[str, int] = {"k": 2**10, "K": 2**10, "M": 2**20, **_BINARY}
# Network links are sold in bits; every rate in the planner is in bytes.
BYTE_RATE_UNITS: Mapping[str, Decimal] = {
    **{f"{unit}/s": Decimal(factor) for unit, factor in BYTE_UNITS.items()},
    **{f"{prefix}bit/s": Decimal(factor) / 8 for prefix, factor in _DECIMAL.items()},
    **{f"{prefix}bps": Decimal(factor) / 8 for prefix, factor in _DECIMAL.items()},
}
FLOP_RATE_UNITS: Mapping[str, int] = {
    f"{prefix}{word}": factor
    for prefix, factor in _DECIMAL.items()
    for word in ("FLOP/s", "FLOPS", "FLOPs/s")
}
DURATION_UNITS: Mapping[str, Decimal] = {
    "us": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(SECONDS_PER_HOUR),
    "d": Decimal(SECONDS_PER_DAY),
    "day": Decimal(SECONDS_PER_DAY),
    "days": Decimal(SECONDS_PER_DAY),
}

_LONGEST_TEXT = 40
# Above any quantity that training has (all FLOPs of the largest run so far are about 1e27).
_LARGEST = Decimal("1e36")
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9](?:_?[0-9])*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)"
    r"[ ]?(?P<unit>[A-Za-z/]*)"
)


def parse_bytes(text: str | float, where: str = "") -> int:
    """Bytes of a memory size; a bare number is bytes.

    >>> parse_bytes("80GiB") - parse_bytes("80 GB")
    5899345920
    """
    return _whole(_parse(text, BYTE_UNITS, "a memory size such as 80GiB or 80GB", where))


def parse_count(text: str | float, where: str = "") -> int:
    """A whole number of things (parameters, tokens, steps) with an optional decimal suffix.

    >>> parse_count("8.03B"), parse_count("1e12"), parse_count("8k")
    (8030000000, 1000000000000, 8000)
    """
    expected = "a whole number such as 1500, 8k, 8.03B or 1e12"
    return _only_whole(_parse(text, COUNT_UNITS, expected, where), text, expected, where)


def parse_length(text: str | float, where: str = "") -> int:
    """A length in tokens, whose k and M are binary.

    >>> parse_length("8k"), parse_length("8192"), parse_length("1M")
    (8192, 8192, 1048576)
    """
    expected = "a length in tokens such as 8192 or 8k"
    return _only_whole(_parse(text, LENGTH_UNITS, expected, where), text, expected, where)


def parse_byte_rate(text: str | float, where: str = "") -> float:
    """Bytes per second of a bandwidth; a bare number is bytes per second.

    >>> parse_byte_rate("3.35 TB/s"), parse_byte_rate("400 Gbit/s")
    (3350000000000.0, 50000000000.0)
    """
    return float(_parse(text, BYTE_RATE_UNITS, "a rate such as 900 GB/s or 400 Gbit/s", where))


def parse_flop_rate(text: str | float, where: str = "") -> float:
    """FLOP per second of a dense peak; a bare number is FLOP per second.

    >>> parse_flop_rate("989.4 TFLOP/s")
    989400000000000.0
    """
    return float(_parse(text, FLOP_RATE_UNITS, "a rate such as 989 TFLOP/s", where))


def parse_seconds(text: str | float, where: str = "") -> float:
    """Seconds of a duration; a bare number is seconds.

    >>> parse_seconds("1.5h"), parse_seconds("30 days")
    (5400.0, 2592000.0)
    """
    return float(_parse(text, DURATION_UNITS, "a duration such as 90s, 12h or 30 days", where))


def format_memory(value_bytes: float) -> str:
    """Memory in GiB with about three digits; MiB below a tenth of one.

    >>> format_memory(80 * 2**30), format_memory(7.5 * 2**30), format_memory(32 * 2**20)
    ('80.0 GiB', '7.50 GiB', '32.0 MiB')
    """
    size = abs(value_bytes)
    if size >= BYTES_PER_GIB / 10:
        gib = value_bytes / BYTES_PER_GIB
        return f"{gib:,.1f} GiB" if round(abs(gib), 2) >= 10 else f"{gib:.2f} GiB"
    if size >= BYTES_PER_MIB:
        return f"{value_bytes / BYTES_PER_MIB:.1f} MiB"
    if size >= BYTES_PER_KIB:
        return f"{value_bytes / BYTES_PER_KIB:.1f} KiB"
    return f"{value_bytes:.0f} B"


def format_count(value: float) -> str:
    """A count with three digits and a suffix; below ten thousand as it is.

    >>> format_count(8_030_261_248), format_count(8192), format_count(1e12)
    ('8.03 B', '8,192', '1.00 T')
    """
    if abs(value) < 10_000:
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
    return _scaled(value, ("", " K", " M", " B", " T", " Q"))


def format_byte_rate(bytes_per_second: float) -> str:
    """A bandwidth in decimal units, as vendors give it.

    >>> format_byte_rate(3.35e12)
    '3.35 TB/s'
    """
    return _scaled(bytes_per_second, (" B/s", " kB/s", " MB/s", " GB/s", " TB/s", " PB/s"))


def format_flop_rate(flops_per_second: float) -> str:
    """A FLOP rate in decimal units.

    >>> format_flop_rate(989.4e12)
    '989 TFLOP/s'
    """
    units = (" FLOP/s", " kFLOP/s", " MFLOP/s", " GFLOP/s", " TFLOP/s", " PFLOP/s", " EFLOP/s")
    return _scaled(flops_per_second, units)


def format_duration(seconds: float) -> str:
    """A time in the unit that reads best, days at most.

    >>> format_duration(0.0123), format_duration(90), format_duration(30 * 86_400)
    ('12.3 ms', '1.50 min', '30.0 days')
    """
    steps = ((1.0, 1e-3, "ms"), (60.0, 1.0, "s"), (3_600.0, 60.0, "min"), (86_400.0, 3_600.0, "h"))
    for below, unit_seconds, unit in steps:
        # Compared as it will be printed, so that 59.999 s is 1.00 min and not 60.0 s.
        if float(_three_digits(seconds / unit_seconds)) * unit_seconds < below:
            return f"{_three_digits(seconds / unit_seconds)} {unit}"
    days = seconds / SECONDS_PER_DAY
    return f"{days:,.0f} days" if days >= 999.5 else f"{_three_digits(days)} days"


def format_usd(usd: float) -> str:
    """US dollars; cents below a thousand.

    >>> format_usd(2.5), format_usd(1_234_567.8), format_usd(-3)
    ('$2.50', '$1,234,568', '-$3.00')
    """
    amount = abs(usd)
    digits = f"{amount:,.0f}" if amount >= 999.995 else f"{amount:.2f}"
    return f"-${digits}" if usd < 0 else f"${digits}"


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent, for values below 1,000 or so."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    return (f"{value:,.0f}" if abs(value) >= 999.5 else _three_digits(value)) + units[step]


def _parse(
    text: str | float, units: Mapping[str, int] | Mapping[str, Decimal], expected: str, where: str
) -> Decimal:
    given = repr(text) if isinstance(text, float) else str(text).strip()
    match = None
    if len(given) <= _LONGEST_TEXT and not isinstance(text, bool):
        match = _QUANTITY.fullmatch(given)
    if match is None:
        raise _wrong(text, expected, where)
    unit = match["unit"]
    if unit and unit not in units:
        close = near_match(unit, units)
        advice = f", did you mean {close}?" if close else ""
        raise _wrong(text, f"{expected}{advice}", where, f"unknown unit {unit!r}, ")
    value = Decimal(match["number"]) * (units[unit] if unit else 1)
    if not 0 <= value <= _LARGEST:
        raise _wrong(text, f"{expected}, from 0 to {_LARGEST:.0e}", where)
    return value


def _only_whole(value: Decimal, text: str | float, expected: str, where: str) -> int:
    if value != _whole(value):
        raise _wrong(text, expected, where)
    return _whole(value)


def _whole(value: Decimal) -> int:
    """The nearest integer ("0.1KiB" is 102.4 bytes; no memory has a part of a byte)."""
    return int(value.to_integral_value())


def _wrong(text: object, expected: str, where: str, reason: str = "") -> InputError:
    shown = str(text) if len(str(text)) <= _LONGEST_TEXT else f"{str(text)[:_LONGEST_TEXT]}..."
    prefix = f"{where}: " if where else ""
    return InputError(f"{prefix}got {shown!r}, {reason}expected {expected}")
