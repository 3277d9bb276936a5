"""What a power limit below the usual one costs in clock rate."""

from __future__ import annotations

# Of a board's power limit, the part that the clocks of its multiprocessors do not change (memory,
# leakage, regulators). Assumed.
STATIC_POWER_FRACTION = 0.2


def power_slowdown(limit_watts: float, default_watts: float) -> float:
    """The part of its clocks that a GPU keeps under a lower power limit.

    Dynamic power goes with clock x voltage^2, and voltage with clock, so
        clock / full clock = ((limit - static) / (default - static))^(1/3).
    *Source:* CMOS power; checked on one sweep of an RTX 3090: at 210 of 420 W it kept 1395 MHz of
    about 1950, 0.715 (noonghunna/club-3090, issues 103 and 104).
    *Valid for:* limits above half of the default; below that it is a floor of the kind only.

    >>> round(power_slowdown(210, 420), 3), power_slowdown(500, 400)
    (0.721, 1.0)
    """
    static = STATIC_POWER_FRACTION * default_watts
    dynamic = max(limit_watts - static, 0.01 * default_watts) / (default_watts - static)
    return float(min(dynamic, 1.0) ** (1 / 3))
