"""Error statistics: of one set of rows, and of sources that weigh the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """Of relative errors (predicted / measured - 1).

    median, p90   median and 90th percentile of the absolute errors
    bias          median of the signed errors: above 0 = predicted too much
    mean          of the absolute errors
    """

    rows: int
    median: float
    p90: float
    bias: float
    worst: float
    mean: float


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the ranks, as numpy's default.

    >>> percentile([0.0, 1.0, 2.0, 3.0], 0.9)
    2.7
    """
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (place - below) * (ranked[above] - ranked[below])


def summary_of(errors: Iterable[float]) -> Summary | None:
    """None where there is no row."""
    signed = list(errors)
    if not signed:
        return None
    sizes = [abs(e) for e in signed]
    return Summary(
        len(signed), median(sizes), percentile(sizes, 0.9), median(signed), max(sizes), fmean(sizes)
    )


def grouped(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Rows by a key, in the order in which the keys appear."""
    groups: dict[K, list[T]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def equal_weight(summaries: Mapping[str, Summary]) -> Summary | None:
    """Every source weighs the same: means of the sources' medians, p90s and biases."""
    values = list(summaries.values())
    if not values:
        return None
    return Summary(
        sum(s.rows for s in values),
        fmean(s.median for s in values),
        fmean(s.p90 for s in values),
        fmean(s.bias for s in values),
        max(s.worst for s in values),
        fmean(s.mean for s in values),
    )
