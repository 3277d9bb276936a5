"""An answer as rows and sentences: the only place for wording, shared by every renderer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.answers.compare import usd_per_million_tokens
from planner.answers.fit import FitAnswer
from planner.answers.words import offload_words
from planner.estimate import Estimate
from planner.numeric import Number
from planner.report.oom_view import oom_sentences
from planner.report.words import recompute_words
from planner.training.layout import Sharding
from planner.units import format_count, format_duration, format_memory, format_usd

# How a verdict is told. A cell that is one of these words is coloured by renderers that can.
VERDICTS = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}
# Parts of a step below this share of it are not told.
SMALLEST_SHARE_TOLD = 0.001
UNKNOWN = "-"
OOM_TITLE = "Out of memory"


@dataclass(frozen=True)
class Table:
    """Cells as text. `right`: columns of numbers. `shares`: a bar per row, from 0 to 1."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    shares: tuple[float, ...] = ()
    total: bool = False  # whether the last row is the sum of the others

    @property
    def bar_after(self) -> int | None:
        """The column after which the bars stand: the last one of numbers."""
        return max(self.right) if self.shares else None


@dataclass(frozen=True)
class Section:
    """A heading, tables and the sentences under them."""

    title: str
    tables: tuple[Table, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerView:
    """One answer: its name, its verdict, what is most asked, and the sections in reading order."""

    name: str
    verdict: str
    headline: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]


def answer_view(answer: FitAnswer) -> AnswerView:
    e = answer.estimate
    return AnswerView(
        name=e.name,
        verdict=VERDICTS[e.verdict],
        headline=headline(e),
        summary=(peak_sentence(e), *host_sentence(e), placement(e)),
        sections=tuple(_sections(answer)),
    )


def _sections(answer: FitAnswer) -> Iterator[Section]:
    e = answer.estimate
    if answer.oom is not None:
        yield Section(OOM_TITLE, (), tuple(oom_sentences(answer.oom)))
    yield Section("Memory", (memory_table(e), batch_table(answer)), (limits_sentence(answer),))
    yield Section("Time and cost", (), tuple(time_sentences(e)))
    if e.verdict == "does_not_fit":
        tables = (remedy_table(answer),) if answer.remedies else ()
        none = () if tables else ("No single change that the planner knows makes it fit.",)
        yield Section("What would make it fit", tables, none)
    yield Section("Assumed", (), e.assumptions or ("nothing",))
    yield Section("Not modelled, each could raise the peak", (), e.memory.not_modelled)


def headline(e: Estimate) -> str:
    node = "" if e.cluster.node is None else f" in {e.cluster.node}"
    return (
        f"{e.model.name} ({format_count(e.parameters.total)} parameters) on "
        f"{e.layout.gpus} x {e.cluster.gpu.name}{node}"
    )


def peak_sentence(e: Estimate) -> str:
    memory = e.memory
    room = memory.headroom_bytes
    return (
        f"peak {format_memory(memory.peak_bytes)} (± {format_memory(memory.uncertainty_bytes)}) of "
        f"{format_memory(memory.available_bytes)} available per GPU, "
        f"{format_memory(abs(room))} {'free' if room >= 0 else 'too much'}"
    )


def host_sentence(e: Estimate) -> tuple[str, ...]:
    """What offloading needs of the host's memory."""
    memory = e.memory
    if not memory.host_bytes:
        return ()
    words = ", ".join(offload_words(e.layout))
    told = f"offloaded {words}: {format_memory(memory.host_bytes)} per GPU"
    if memory.host_available_bytes is None:
        return (f"{told} of the host's memory",)
    share = format_memory(memory.host_available_bytes)
    return (f"{told} of the {share} that it has of the host's memory",)


def placement(e: Estimate) -> str:
    """The layout and the recipe in one line."""
    layout, recipe = e.layout, e.recipe
    parts = [
        f"stack {layout.stack}",
        f"sharding {Sharding(int(layout.sharding)).name}",
        f"data parallel {layout.data_parallel}",
    ]
    for name in ("tensor", "pipeline", "context", "expert"):
        size = getattr(layout, f"{name}_parallel")
        if size != 1:
            parts.append(f"{name} parallel {size}")
    if layout.pipeline_parallel > 1:
        parts.append(f"schedule {layout.pipeline_schedule}")
    parts += [
        f"micro-batch {layout.micro_batch_size}",
        f"sequence {recipe.sequence_length}",
        recipe.precision,
        recipe.optimizer,
        f"{recipe.attention} attention",
        f"recompute {recompute_words(layout)}",
    ]
    if recipe.cross_entropy != "standard":
        parts.append(f"cross-entropy {recipe.cross_entropy}")
    if recipe.compile:
        parts.append("compiled")
    if recipe.finetune:
        parts.append(f"{recipe.finetune.method} rank {recipe.finetune.rank}")
    return ", ".join(parts)


def memory_table(e: Estimate) -> Table:
    """Where the bytes of one GPU are at the peak; the parts add up to it."""
    memory = e.memory
    shares = [size / memory.peak_bytes for size in memory.breakdown_bytes.values()]
    rows: list[tuple[str, ...]] = [
        (name.replace("_", " "), format_memory(size), f"{100 * share:.1f} %", memory.evidence[name])
        for (name, size), share in zip(memory.breakdown_bytes.items(), shares, strict=True)
    ]
    rows.append(("peak", format_memory(memory.peak_bytes), "100.0 %", ""))
    return Table(
        f"Memory of one GPU, at the peak: {memory.peak_phase}, {memory.peak_where}",
        ("part", "size", "share", "known"),
        tuple(rows),
        frozenset({1, 2}),
        (*shares, 0.0),
        total=True,
    )


def batch_table(answer: FitAnswer) -> Table:
    rows = tuple(
        (
            str(row.micro_batch_size),
            format_memory(row.activations_bytes),
            format_memory(row.peak_bytes),
            VERDICTS[row.verdict],
        )
        for row in answer.table
    )
    columns = ("micro-batch", "activations", "peak", "verdict")
    return Table("By micro-batch", columns, rows, frozenset({0, 1, 2}))


def limits_sentence(answer: FitAnswer) -> str:
    limits = answer.limits

    def told(value: int | None) -> str:
        return "none fits" if value is None else f"{value:,}"

    return (
        f"largest micro-batch {told(limits.largest_micro_batch_size)}, longest sequence "
        f"{told(limits.longest_sequence_length)}, fewest GPUs {told(limits.fewest_gpus)}"
    )


def time_sentences(e: Estimate) -> Iterator[str]:
    run = e.run
    error = f" (± {100 * e.time_uncertainty:.0f} %)" if e.time_uncertainty is not None else ""
    yield (
        f"Step {format_duration(float(e.step.step_seconds))}{error}, "
        f"{float(run.tokens_per_second_per_gpu):,.0f} tokens/s per GPU, "
        f"{float(run.model_tflops_per_gpu):.0f} TFLOP/s per GPU"
    )
    yield (
        f"MFU {_percent(run.model_flops_utilization)} of {run.peak_tflops_per_gpu:,.0f} TFLOP/s "
        f"({_percent(run.model_flops_utilization_full_square)} if attention counts all pairs of "
        f"tokens), HFU {_percent(run.hardware_flops_utilization)}"
    )
    parts = [f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, _, share in step_parts(e)]
    yield "of it " + ", ".join(parts)
    if run.training_seconds is not None and run.gpu_hours is not None and run.steps is not None:
        cost = "" if e.cost_usd is None else f", {format_usd(e.cost_usd)}"
        yield (
            f"Run: {float(run.steps):,.0f} steps, {format_duration(float(run.training_seconds))}, "
            f"{float(run.gpu_hours):,.0f} GPU-hours{cost}{price_words(e)}"
        )
    pauses = {"evaluations": run.evaluation_seconds, "checkpoints": run.checkpoint_seconds}
    told = [f"{name} {format_duration(float(s))}" for name, s in pauses.items() if s is not None]
    if told:
        yield "of the run " + ", ".join(told)


def _percent(share: Number) -> str:
    return f"{100 * float(share):.1f} %"


def step_parts(e: Estimate) -> Iterator[tuple[str, float, float]]:
    """Name, seconds and share of the parts of a step that can be seen."""
    total = float(e.step.step_seconds)
    for name, value in e.step.breakdown_seconds.items():
        if float(value) > SMALLEST_SHARE_TOLD * total:
            yield name, float(value), float(value) / total


def price_words(e: Estimate) -> str:
    price = e.cluster.price
    if price is None:
        return ""
    rate = f" at {format_usd(price.usd_per_gpu_hour)}/GPU-hour"
    return rate if price.provider == "given" else f"{rate} ({price.provider}, {price.date})"


def remedy_table(answer: FitAnswer) -> Table:
    rows = tuple(
        (
            remedy.change,
            format_memory(remedy.peak_bytes),
            VERDICTS[remedy.verdict],
            f"x {remedy.step_seconds_ratio:.2f}",
            "same training" if remedy.same_training else "changes training",
        )
        for remedy in answer.remedies
    )
    columns = ("one change", "peak", "verdict", "time per token", "")
    return Table("What would make it fit", columns, rows, frozenset({1, 3}))


def comparison_table(answers: Sequence[FitAnswer], title: str) -> Table:
    """Several answers side by side, in the order in which they are given."""
    named = any(a.estimate.name != a.estimate.model.name for a in answers)
    totals = any(a.estimate.run.training_seconds is not None for a in answers)
    columns = (
        *(("scenario",) if named else ()),
        *("model", "GPU", "GPUs", "peak", "available", "verdict", "largest batch"),
        *("tokens/s per GPU", "USD per M tokens"),
        *(("time", "cost") if totals else ()),
    )
    rows = tuple(_compared(answer, named, totals) for answer in answers)
    first = 3 if named else 2
    words = {columns.index("verdict")}
    return Table(title, columns, rows, frozenset(set(range(first, len(columns))) - words))


def _compared(answer: FitAnswer, named: bool, totals: bool) -> tuple[str, ...]:
    e = answer.estimate
    usd = usd_per_million_tokens(answer)
    largest = answer.limits.largest_micro_batch_size
    seconds = e.run.training_seconds
    time = UNKNOWN if seconds is None else format_duration(float(seconds))
    cost = UNKNOWN if e.cost_usd is None else format_usd(e.cost_usd)
    return (
        *((e.name,) if named else ()),
        e.model.name,
        e.cluster.known_as,
        str(e.layout.gpus),
        format_memory(e.memory.peak_bytes),
        format_memory(e.memory.available_bytes),
        VERDICTS[e.verdict],
        UNKNOWN if largest is None else str(largest),
        f"{float(e.run.tokens_per_second_per_gpu):,.0f}",
        UNKNOWN if usd is None else f"{usd:.3f}",
        *((time, cost) if totals else ()),
    )
