"""A whole report: the answers of some scenarios with what went in, what was assumed, and sources.

Nothing of the moment goes in (no date, no machine), so the same command writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.answers.fit import FitAnswer
from planner.answers.words import offload_words
from planner.errors import InputError
from planner.estimate import Estimate
from planner.hardware.library import reference_titles
from planner.model import catalog
from planner.report.hardware_view import source_line
from planner.report.view import (
    AnswerView,
    Section,
    Table,
    answer_view,
    comparison_table,
    step_parts,
)
from planner.report.words import recompute_words
from planner.training.layout import Layout, Sharding
from planner.training.optimizers import optimizer
from planner.training.recipe import Pauses
from planner.training.stacks import stack
from planner.units import format_byte_rate, format_count, format_duration, format_memory, format_usd

COMPARISON_TITLE = "Side by side"
HOW_KNOWN = (
    "exact: counted from the model's own shapes",
    "measured: checked against traced or measured steps of this stack",
    "fitted: a constant fitted to measurements",
    "assumed: a plain rule that no measurement has confirmed here",
)


@dataclass(frozen=True)
class Input:
    """A scenario file as it was given."""

    path: str
    text: str


@dataclass(frozen=True)
class Figure:
    """One number that a reader looks for first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One answer in a report."""

    view: AnswerView
    figures: tuple[Figure, ...]
    inputs: Table
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    title: str
    version: str
    command: str
    inputs: tuple[Input, ...]
    comparison: Table | None
    parts: tuple[Part, ...]
    answers: tuple[FitAnswer, ...]


def report_of(
    answers: Sequence[FitAnswer], inputs: Sequence[Input], *, version: str, command: str
) -> Report:
    """The report of some answers; `command` is what was typed to make it."""
    several = len(answers) > 1
    return Report(
        title=f"{len(answers)} training scenarios" if several else answers[0].estimate.name,
        version=version,
        command=command,
        inputs=tuple(inputs),
        comparison=comparison_table(answers, COMPARISON_TITLE) if several else None,
        parts=tuple(_part(answer) for answer in answers),
        answers=tuple(answers),
    )


def _part(answer: FitAnswer) -> Part:
    e = answer.estimate
    view = answer_view(answer)
    return Part(
        view=view,
        figures=tuple(_figures(e)),
        inputs=_inputs(e),
        sections=tuple(_sections(view, e)),
        warnings=e.warnings,
    )


def _figures(e: Estimate) -> Iterator[Figure]:
    memory, run = e.memory, e.run
    yield Figure(
        "Peak memory per GPU",
        format_memory(memory.peak_bytes),
        f"± {format_memory(memory.uncertainty_bytes)} of {format_memory(memory.available_bytes)}",
    )
    yield Figure(
        "Step",
        format_duration(float(e.step.step_seconds)),
        f"MFU {100 * float(run.model_flops_utilization):.1f} %",
    )
    if run.training_seconds is not None and run.gpu_hours is not None:
        hours = f"{float(run.gpu_hours):,.0f} GPU-hours"
        yield Figure("Whole run", format_duration(float(run.training_seconds)), hours)
    if e.cost_usd is not None and e.cluster.usd_per_gpu_hour is not None:
        price = f"{format_usd(e.cluster.usd_per_gpu_hour)} per GPU-hour"
        yield Figure("Cost", format_usd(e.cost_usd), price)


def _sections(view: AnswerView, e: Estimate) -> Iterator[Section]:
    """The sections of the answer, with what a report adds to them."""
    for section in view.sections:
        if section.title == "Time and cost":
            yield Section(section.title, (_step_table(e),), (*section.lines, *_uncertainty(e)))
        else:
            yield section
    yield Section("How the memory figures are known", (), HOW_KNOWN)
    yield Section("Sources", (), tuple(_sources(e)))


def _step_table(e: Estimate) -> Table:
    parts = list(step_parts(e))
    rows = [
        (name.replace("_", " "), format_duration(seconds), f"{100 * share:.1f} %")
        for name, seconds, share in parts
    ]
    rows.append(("step", format_duration(float(e.step.step_seconds)), "100.0 %"))
    shares = (*(share for _, _, share in parts), 0.0)
    columns = ("part", "time", "share")
    return Table("Time of one step", columns, tuple(rows), frozenset({1, 2}), shares, total=True)


def _uncertainty(e: Estimate) -> Iterator[str]:
    if e.time_uncertainty is None:
        yield "The error range of the time is not known for this stack: no measured runs are held."
    else:
        yield (
            f"Nine of ten measured runs lie within {100 * e.time_uncertainty:.0f} % of the "
            "predicted time; cost and duration carry the same range."
        )


def _inputs(e: Estimate) -> Table:
    """Everything that the answer was computed from."""
    layout, recipe = e.layout, e.recipe
    tune = recipe.finetune
    rows = (
        ("model", f"{e.model.name} ({e.model.model_type})"),
        ("parameters", f"{e.parameters.total:,}"),
        ("active per token", f"{e.parameters.active:,}"),
        ("GPU", f"{e.cluster.gpu.name} ({e.cluster.known_as})"),
        ("GPUs", f"{layout.gpus} in nodes of {e.cluster.gpus_per_node}"),
        ("tokens", "not given" if recipe.tokens is None else format_count(recipe.tokens)),
        ("steps", "not given" if e.run.steps is None else f"{float(e.run.steps):,.0f}"),
        ("evaluations", _evaluations(recipe.pauses)),
        ("checkpoints", _checkpoints(recipe.pauses)),
        ("sequence length", f"{recipe.sequence_length:,} tokens"),
        ("global batch", f"{layout.global_batch_size:,} sequences"),
        ("micro-batch", f"{layout.micro_batch_size} sequences"),
        ("passes per step", f"{layout.gradient_accumulation_steps}"),
        ("precision", recipe.precision),
        ("optimizer", recipe.optimizer),
        ("attention", recipe.attention),
        ("cross-entropy", recipe.cross_entropy),
        ("compiled", "yes" if recipe.compile else "no"),
        ("fine-tuning", "none" if tune is None else _tuning(tune.method, tune.rank, tune.targets)),
        ("stack", layout.stack),
        ("sharding", Sharding(int(layout.sharding)).name),
        ("recompute", recompute_words(layout)),
        ("offload", ", ".join(offload_words(layout)) or "none"),
        *(
            (f"{axis} parallel", str(getattr(layout, f"{axis}_parallel")))
            for axis in ("data", "tensor", "pipeline", "context", "expert")
        ),
        ("pipeline schedule", layout.pipeline_schedule if layout.pipeline_parallel > 1 else "none"),
        ("CUDA graph", layout.execution.cuda_graph),
        ("expert dispatcher", layout.execution.dispatcher or "the stack's own"),
        ("overlap", _overlap(layout)),
    )
    return Table("Inputs", ("what", "value"), rows)


def _evaluations(pauses: Pauses) -> str:
    if pauses.evaluation_every_steps is None:
        return "none"
    return f"{pauses.evaluation_steps} batches every {pauses.evaluation_every_steps:,} steps"


def _checkpoints(pauses: Pauses) -> str:
    if pauses.checkpoint_every_steps is None or pauses.storage_bytes_per_second is None:
        return "none"
    rate = format_byte_rate(pauses.storage_bytes_per_second)
    return f"every {pauses.checkpoint_every_steps:,} steps at {rate}"


def _overlap(layout: Layout) -> str:
    words = layout.execution.overlap
    return "the stack's own" if words is None else ", ".join(words)


def _tuning(method: str, rank: int, targets: Sequence[str]) -> str:
    return f"{method}, rank {rank}, on {', '.join(targets)}"


def _sources(e: Estimate) -> Iterator[str]:
    gpu = e.cluster.gpu
    if e.model.name in catalog.ids():
        entry = catalog.find(e.model.name)
        yield f"model: {entry.config_source} ({entry.evidence}); count: {entry.parameters_source}"
    price = e.cluster.price
    if price is not None and price.provider == "given":
        yield f"price: {format_usd(price.usd_per_gpu_hour)} per GPU-hour, as given"
    elif price is not None:
        yield f"price: {price.provider}, {price.offer}, {price.date}"
    yield f"stack {e.layout.stack}: {stack(e.layout.stack).source}"
    yield f"optimizer {e.recipe.optimizer}: {optimizer(e.recipe.optimizer).source}"
    for source in gpu.sources:
        yield f"GPU {gpu.id}, {source_line(source)}"
    try:
        titles = reference_titles()
    except InputError:  # a broken file of titles is no reason to have no report
        return
    used = dict.fromkeys(key for source in gpu.sources for key in source.references)
    for key in used:
        if key in titles:
            yield f"{key}: {titles[key]}"
