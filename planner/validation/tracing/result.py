"""What a traced step showed, as the records of the case files have it [bytes]."""

from __future__ import annotations

from typing import Any

from planner.validation.tracing.step import PHASES, StepTrace
from planner.validation.tracing.storage import Moment

Record = dict[str, Any]

# Categories of a trace of one device, each told even if it is 0.
ONE_DEVICE = ("Parameter", "Buffer", "Gradient", "Activation", "Temp", "Optstate", "Other")


def record_of(step: StepTrace) -> Record:
    """The `result` of a case: of one device, or as rank 0 of many sees it."""
    return _of_rank(step) if step.case.on_gpu else _of_one_device(step)


def _of_one_device(step: StepTrace) -> Record:
    def told(moment: Moment) -> Record:
        return dict.fromkeys(ONE_DEVICE, 0) | step.tracker.by_category(moment)

    marks = {name: told(moment) for name, moment in step.tracker.marks.items()}
    return {
        "params": marks["after_forward"]["Parameter"],
        "saved_for_backward": _saved_bytes(step),
        **marks,
        "peak": told(step.tracker.peak_moment()),
    }


def _saved_bytes(step: StepTrace) -> int | None:
    return None if step.case.recomputes else sum(s.bytes for s in step.saved)


def _of_rank(step: StepTrace) -> Record:
    tracker = step.tracker
    marks = {name: _with_logits(step, moment) for name, moment in tracker.marks.items()}
    phases = {}
    for phase in PHASES:
        moment = tracker.peak_moment(phase=phase)
        operator = moment.operator.split(" in ")[0]
        phases[phase] = _with_logits(step, moment) | {"op": operator}
    top = max(phases, key=lambda phase: phases[phase]["Total"])
    after = marks["after_backward"]
    adapters = {"trainable_parameters": step.trained_elements}
    return {
        "parameters": step.elements,
        **(adapters if step.case.recipe.finetune else {}),
        "parameter_bytes_per_gpu": after["Parameter"],
        "gradient_bytes_per_gpu": after.get("Gradient", after.get("Bucket", 0)),
        "optimizer_bytes_per_gpu": after.get("Optstate", 0),
        "saved_for_backward": _saved_bytes(step),
        **marks,
        "phases": phases,
        "peak_phase": top,
        "peak": {name: value for name, value in phases[top].items() if name != "op"},
    }


def _with_logits(step: StepTrace, moment: Moment) -> Record:
    """A moment by category, and the logits' share of it."""
    recipe, layout = step.case.recipe, step.case.layout
    tokens = int(layout.micro_batch_size) * recipe.sequence_length
    vocabulary = step.case.config.get("vocab_size", 50257)  # GPT-2's, whose config leaves it out
    logits = tokens * vocabulary // int(layout.tensor_parallel)
    found: Record = step.tracker.by_category(moment)
    share = sum(
        held
        for _, held, kind in step.tracker.live_with_category(moment)
        if kind in ("Activation", "Temp") and held in (2 * logits, 4 * logits)
    )
    if share:
        found["of_which_logits"] = share
    return found
