"""One step as predicted beside one as traced: part by part at the peak, and phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.memory.peak import PeakMemory
from planner.memory.rows import Row
from planner.model.parameters import count_parameters
from planner.validation.traced import TracedCase, predicted, predicted_saved_bytes

# What a part is called here (groups of memory.rows) and in a trace. What an operator makes and
# drops again is a temporary in a trace, and here a working activation or a part of the logits.
PARTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "parameters": (("weights",), ("Parameter", "Buffer")),
    "optimizer states": (("optimizer_states",), ("Optstate",)),
    "gradients": (("gradients",), ("Gradient", "UnshardedGradient")),
    "gathered": (("gathered_parameters",), ("Gather", "Unsharded")),
    "reduced": (("reductions",), ("Reduce", "Bucket")),
    "activations and temporaries": (
        ("saved_activations", "working_activations", "logits", "temporaries"),
        ("Activation", "Temp", "WeightCast"),
    ),
}


@dataclass(frozen=True)
class TracedMoment:
    """The highest moment of a phase: where it was, and bytes by the trace's categories."""

    operator: str
    module: str
    bytes_by_category: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return self.bytes_by_category["Total"]


@dataclass(frozen=True)
class TracedStep:
    """What a trace showed.

    phases       forward, backward, optimizer
    saved_bytes  what autograd held after the first forward pass; None with recomputation
    attention    what the model really ran
    """

    parameters: int
    phases: Mapping[str, TracedMoment]
    saved_bytes: int | None
    attention: str
    versions: str

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda phase: self.phases[phase].total_bytes)


@dataclass(frozen=True)
class Line:
    """One figure, predicted and traced."""

    name: str
    predicted: float
    traced: float

    def error(self, of: float | None = None) -> float | None:
        """The difference over what was traced, or over another figure; None over nothing."""
        base = self.traced if of is None else of
        return (self.predicted - self.traced) / base if base else None


@dataclass(frozen=True)
class StepComparison:
    """parts: at the highest moment of the phase in which the trace peaks; they add up to its
    total. phases: the highest moment of each. saved: see TracedStep [bytes; parameters: number].
    """

    parameters: Line
    parts: tuple[Line, ...]
    phases: tuple[Line, ...]
    peak: Line
    saved: Line | None
    predicted_phase: str
    predicted_where: str
    traced_phase: str
    traced_at: str


def compared(case: TracedCase, step: TracedStep) -> StepComparison:
    found = predicted(case)
    phase = step.peak_phase
    moment = step.phases[phase]
    saved = None
    if step.saved_bytes is not None:
        saved = Line("saved for backward", predicted_saved_bytes(case), step.saved_bytes)
    count = float(count_parameters(case.model).total)
    return StepComparison(
        Line("number of parameters", count, step.parameters),
        tuple(_parts(highest_of(found, phase), moment)),
        tuple(
            Line(name, float(highest_of(found, name).total), one.total_bytes)
            for name, one in step.phases.items()
        ),
        Line("peak", float(found.allocated_bytes), moment.total_bytes),
        saved,
        found.phase,
        found.where,
        phase,
        f"{moment.operator} of {moment.module}" if moment.module else moment.operator,
    )


def highest_of(found: PeakMemory, phase: str) -> Row:
    """The row of a phase with the largest total."""
    return max((row for row in found.rows if row.phase == phase), key=lambda row: row.total)


def _parts(row: Row, moment: TracedMoment) -> list[Line]:
    return [
        Line(
            name,
            float(sum(row.parts.get(group, 0) for group in ours)),
            sum(moment.bytes_by_category.get(category, 0) for category in theirs),
        )
        for name, (ours, theirs) in PARTS.items()
    ]
