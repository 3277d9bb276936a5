"""A count as a function of one field, exactly: c(-1)/x + c0 + c1 x + c2 x^2, group by group.

Nearly every parameter count has this form in each of its fields: layers and vocabulary enter
linearly, widths at most as products of two, and head_dim = hidden_size / heads as 1/x. The
coefficients follow exactly from a few models, and at least one more confirms them; where it does
not (layers of several kinds in a pattern, a rounded size), there is no closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

POWERS = (-1, 0, 1, 2)
# Sets of powers that are tried, the simplest first; few heads or layers allow few points.
_TRIED = ((0,), (0, 1), (-1, 0), (0, 1, 2), (-1, 0, 1), POWERS)
# So many points settle any of them, and confirm it.
POINTS = len(POWERS) + 1


@dataclass(frozen=True)
class ClosedForm:
    """coefficients: group -> one per power of POWERS, exact. x: the field's own value."""

    x: Fraction
    coefficients: Mapping[str, tuple[Fraction, ...]]

    @property
    def total(self) -> tuple[Fraction, ...]:
        columns = zip(*self.coefficients.values(), strict=True)
        return tuple(sum(column, Fraction(0)) for column in columns)

    def value(self, x: Fraction) -> Fraction:
        return _evaluate(self.total, x)

    @property
    def exponent(self) -> Fraction:
        """d ln N / d ln x at the field's own value: sum of power x term, over N."""
        return sum(self.exponents.values(), Fraction(0))

    @property
    def exponents(self) -> dict[str, Fraction]:
        """What each group adds to the exponent."""
        whole = self.value(self.x)
        return {
            group: sum(
                (power * c * self.x**power for power, c in zip(POWERS, row, strict=True)),
                Fraction(0),
            )
            / whole
            for group, row in self.coefficients.items()
        }

    @property
    def leading(self) -> tuple[str, int]:
        """Group and power of the term that adds most to the exponent, by size."""
        terms = {
            (group, power): abs(power * c * self.x**power)
            for group, row in self.coefficients.items()
            for power, c in zip(POWERS, row, strict=True)
        }
        return max(terms, key=lambda term: terms[term])


def closed_form(
    x: Fraction, points: Sequence[tuple[Fraction, Mapping[str, int]]]
) -> ClosedForm | None:
    """The simplest form through all points (value of the field, count by group); None if none is.

    >>> form = closed_form(Fraction(3), [(Fraction(n), {"all": 5 * n + 7}) for n in (3, 4, 5)])
    >>> [int(c) for c in form.coefficients["all"]], form.exponent
    ([0, 7, 5, 0], Fraction(15, 22))
    """
    xs = [at for at, _ in points]
    for powers in _TRIED:
        if len(points) <= len(powers):
            continue
        rows = {}
        for group in points[0][1]:
            ys = [Fraction(counts[group]) for _, counts in points]
            row = _solve(powers, xs, ys)
            if any(_evaluate(row, at) != y for at, y in zip(xs, ys, strict=True)):
                break
            rows[group] = row
        else:
            return ClosedForm(x, rows)
    return None


def _evaluate(row: Sequence[Fraction], x: Fraction) -> Fraction:
    terms = (c * x**power for power, c in zip(POWERS, row, strict=True) if c)
    return sum(terms, Fraction(0))


def _solve(
    powers: Sequence[int], xs: Sequence[Fraction], ys: Sequence[Fraction]
) -> tuple[Fraction, ...]:
    """Coefficients of POWERS through the first points, 0 for a power that is not among `powers`.

    Gauss elimination in exact fractions; the powers of distinct points are independent.
    """
    size = len(powers)
    rows = [[*(x**power for power in powers), y] for x, y in zip(xs[:size], ys[:size], strict=True)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column] != 0)
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column]
        rows[column] = [value / lead for value in rows[column]]
        for i in range(size):
            if i != column and rows[i][column] != 0:
                times = rows[i][column]
                rows[i] = [a - times * b for a, b in zip(rows[i], rows[column], strict=True)]
    found = {power: row[size] for power, row in zip(powers, rows, strict=True)}
    return tuple(found.get(power, Fraction(0)) for power in POWERS)
