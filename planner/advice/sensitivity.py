"""What a change of depth, width, heads or vocabulary does to a model, exactly.

Each field is changed alone in the config: by half, to the double, and by the smallest legal step
upwards. Ratios are new over old, of models that are really built and counted; the local exponent is
the derivative d ln parameters / d ln field of the exact closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import log

from planner.advice.closed_form import POINTS, ClosedForm, closed_form
from planner.advice.sizes import Sizes, sizes_of
from planner.advice.variations import FIELDS, WIDTH, Variant, Variations
from planner.model.parameters import count_parameters
from planner.model.spec import ModelSpec

SEQUENCE_LENGTH = "sequence_length"
MICRO_BATCH_SIZE = "micro_batch_size"
ROW_FIELDS = (*FIELDS, WIDTH, SEQUENCE_LENGTH, MICRO_BATCH_SIZE)
FACTORS = (Fraction(1, 2), Fraction(2))
# Wide enough to pass over the steps of a rounded size or of a pattern of layers.
SECANT = Fraction(1, 8)

# Seconds of one training step of a model at a sequence length and micro-batch.
StepTime = Callable[[ModelSpec, int, int], float | None]


@dataclass(frozen=True)
class SensitivityRow:
    """One change of one field. factor None: no step upwards is legal. Ratios None: see reason."""

    field: str
    factor: float | None
    parameters_ratio: float | None = None
    weights_memory_ratio: float | None = None
    optimizer_memory_ratio: float | None = None
    activation_memory_ratio: float | None = None
    flops_per_token_ratio: float | None = None
    kv_cache_ratio: float | None = None
    step_time_ratio: float | None = None
    local_exponent: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Sensitivity:
    """values: what each field is now. forms: the exact closed form of each field that has one."""

    model: ModelSpec
    sequence_length: int
    micro_batch_size: int
    now: Sizes
    values: dict[str, int]
    forms: dict[str, ClosedForm]
    rows: tuple[SensitivityRow, ...]


def sensitivity(
    spec: ModelSpec,
    sequence_length: int,
    *,
    micro_batch_size: int = 1,
    step_seconds: StepTime | None = None,
) -> Sensitivity:
    """All rows of a model, in the order of ROW_FIELDS."""
    variations = Variations(spec)
    asker = _Asker(spec, sequence_length, micro_batch_size, step_seconds)
    forms: dict[str, ClosedForm] = {}
    rows: list[SensitivityRow] = []
    for field in (*FIELDS, WIDTH):
        form = form_of(variations, field)
        if form is not None:
            forms[field] = form
        exponent = float(form.exponent) if form else _secant(variations, field)
        rows += asker.rows_of_field(variations, field, exponent)
    rows += asker.rows_of_run(SEQUENCE_LENGTH, sequence_length)
    rows += asker.rows_of_run(MICRO_BATCH_SIZE, micro_batch_size)
    return Sensitivity(
        model=spec,
        sequence_length=sequence_length,
        micro_batch_size=micro_batch_size,
        now=asker.now,
        values=dict(variations.values),
        forms=forms,
        rows=tuple(rows),
    )


def form_of(variations: Variations, field: str) -> ClosedForm | None:
    """The closed form of a field through the model itself and its nearest legal neighbours.

    Of the width, the variable is the common factor; of a field, its value.
    """
    value = 1 if field == WIDTH else variations.values.get(field)
    if value is None:
        return None
    above = islice(variations.neighbours(field, 1), POINTS - 1)
    below = islice(variations.neighbours(field, -1), POINTS - 1)
    near = sorted([*above, *below], key=lambda found: abs(found[0] - 1))[: POINTS - 1]
    models = [(Fraction(1), variations.spec), *near]
    points = [(value * factor, count_parameters(model).by_group) for factor, model in models]
    return closed_form(Fraction(value), points)


def _secant(variations: Variations, field: str) -> float | None:
    """Where there is no closed form: between legal models at least SECANT away on both sides."""
    ends = [next(variations.neighbours(field, way, SECANT), None) for way in (-1, 1)]
    found = [end for end in ends if end is not None]
    if not found:
        return None
    if len(found) == 1:
        found.append((Fraction(1), variations.spec))
    (low, smaller), (high, larger) = sorted(found, key=lambda end: end[0])
    counts = [count_parameters(model).total for model in (smaller, larger)]
    return log(counts[1] / counts[0]) / log(high / low)


class _Asker:
    """Sizes of models against those of the model as it is."""

    def __init__(
        self, spec: ModelSpec, sequence: int, micro: int, step_seconds: StepTime | None
    ) -> None:
        self.spec, self.sequence, self.micro = spec, sequence, micro
        self.step_seconds = step_seconds
        self.now = sizes_of(spec, sequence, micro)
        self.seconds = self._seconds(spec, sequence, micro)

    def _seconds(self, spec: ModelSpec, sequence: int, micro: int) -> float | None:
        return None if self.step_seconds is None else self.step_seconds(spec, sequence, micro)

    def rows_of_field(
        self, variations: Variations, field: str, exponent: float | None
    ) -> Iterator[SensitivityRow]:
        for factor in FACTORS:
            variant = variations.scaled(field, factor)
            yield self._row(field, factor, variant, self.sequence, self.micro, exponent)
        step = next(variations.neighbours(field, 1), None)
        if step is not None:
            factor, model = step
            yield self._row(field, factor, Variant(model), self.sequence, self.micro, exponent)
            return
        missing = variations.scaled(field, FACTORS[1]).reason
        reason = missing if variations.step(field) is None else "no larger value is legal"
        yield SensitivityRow(field, None, reason=reason)

    def rows_of_run(self, field: str, value: int) -> Iterator[SensitivityRow]:
        """The sequence and the micro-batch change no parameter."""
        for factor in (*FACTORS, 1 + Fraction(1, value)):
            scaled = value * factor
            if scaled.denominator != 1 or scaled < 1:
                reason = f"{field} {value} x {float(factor):g} is no whole number"
                yield SensitivityRow(field, float(factor), reason=reason)
                continue
            sequence = int(scaled) if field == SEQUENCE_LENGTH else self.sequence
            micro = int(scaled) if field == MICRO_BATCH_SIZE else self.micro
            yield self._row(field, factor, Variant(self.spec), sequence, micro, 0.0)

    def _row(
        self,
        field: str,
        factor: Fraction,
        variant: Variant,
        sequence: int,
        micro: int,
        exponent: float | None,
    ) -> SensitivityRow:
        if variant.spec is None:
            return SensitivityRow(field, float(factor), reason=variant.reason)
        then, now = sizes_of(variant.spec, sequence, micro), self.now
        return SensitivityRow(
            field=field,
            factor=float(factor),
            parameters_ratio=then.parameters / now.parameters,
            weights_memory_ratio=_ratio(then.weight_bytes, now.weight_bytes),
            optimizer_memory_ratio=_ratio(then.optimizer_bytes, now.optimizer_bytes),
            activation_memory_ratio=_ratio(then.activation_bytes, now.activation_bytes),
            flops_per_token_ratio=_ratio(then.flops_per_token, now.flops_per_token),
            kv_cache_ratio=_ratio(then.cache_bytes, now.cache_bytes),
            step_time_ratio=_ratio(self._seconds(variant.spec, sequence, micro), self.seconds),
            local_exponent=exponent,
        )


def _ratio(then: float | None, now: float | None) -> float | None:
    """None where there is nothing to compare (no attention, no memory model)."""
    return None if then is None or not now else then / now
