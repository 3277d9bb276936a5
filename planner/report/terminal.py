"""Answers for a person at a terminal: tables, and a bar of where the memory goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.answers.compare import usd_per_million_tokens
from planner.answers.fit import FitAnswer
from planner.estimate import Estimate
from planner.training.layout import Recompute, Sharding
from planner.units import format_count, format_duration, format_memory, format_usd

WORDS = {"fits": "FITS", "tight": "TIGHT", "does_not_fit": "DOES NOT FIT"}
_STYLES = {"fits": "bold green", "tight": "bold yellow", "does_not_fit": "bold red"}
_BAR_WIDTH = 40
# Where no terminal sets the width, a table is not folded.
_WIDTH_OF_A_PIPE = 110


def console() -> Console:
    """Rich's console on stdout: colours only on a terminal, NO_COLOR respected."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def print_answers(answers: Sequence[FitAnswer]) -> None:
    """One answer in full, several side by side."""
    if len(answers) == 1:
        print_fit(answers[0])
    else:
        print_comparison(answers)


def print_fit(answer: FitAnswer) -> None:
    out = console()
    e = answer.estimate
    out.print(_headline(e))
    out.print(_placement(e))
    out.print()
    out.print(_memory_table(e))
    out.print()
    out.print(_batch_table(answer))
    out.print(_limits(answer))
    out.print()
    for line in _time_lines(e):
        out.print(line)
    if answer.remedies:
        out.print()
        out.print(_remedy_table(answer))
    elif e.verdict == "does_not_fit":
        out.print("\nNo single change that the planner knows makes it fit.")
    out.print()
    out.print("Assumed: " + "; ".join(e.assumptions) if e.assumptions else "Nothing was assumed.")
    out.print("Not modelled, each could raise the peak: " + "; ".join(e.memory.not_modelled))


def _headline(e: Estimate) -> Text:
    memory = e.memory
    text = Text(f"{e.name}\n" if e.name != e.model.name else "")
    text.append(WORDS[e.verdict], style=_STYLES[e.verdict])
    text.append(
        f"  {e.model.name} ({format_count(e.parameters.total)} parameters) on "
        f"{e.layout.gpus} x {e.cluster.gpu.name}\n"
    )
    text.append(
        f"peak {format_memory(memory.peak_bytes)} (± {format_memory(memory.uncertainty_bytes)}) of "
        f"{format_memory(memory.available_bytes)} available per GPU, "
    )
    room = memory.headroom_bytes
    text.append(f"{format_memory(abs(room))} {'free' if room >= 0 else 'too much'}")
    return text


def _placement(e: Estimate) -> str:
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
    parts += [
        f"micro-batch {layout.micro_batch_size}",
        f"sequence {recipe.sequence_length}",
        recipe.precision,
        recipe.optimizer,
        f"{recipe.attention} attention",
        f"recompute {Recompute(int(layout.recompute)).name}",
    ]
    if recipe.finetune:
        parts.append(f"{recipe.finetune.method} rank {recipe.finetune.rank}")
    return ", ".join(parts)


def _memory_table(e: Estimate) -> Table:
    memory = e.memory
    where = f"at the peak: {memory.peak_phase}, {memory.peak_where}"
    table = Table(title=f"Memory of one GPU, {where}", title_justify="left", box=None)
    table.add_column("part")
    table.add_column("size", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    table.add_column("known")
    for name, size in memory.breakdown_bytes.items():
        share = size / memory.peak_bytes
        table.add_row(
            name.replace("_", " "),
            format_memory(size),
            f"{100 * share:.1f} %",
            "█" * round(_BAR_WIDTH * share),
            memory.evidence[name],
        )
    table.add_row("peak", format_memory(memory.peak_bytes), "100.0 %", "", "", style="bold")
    return table


def _batch_table(answer: FitAnswer) -> Table:
    table = Table(title="By micro-batch", title_justify="left", box=None)
    for name in ("micro-batch", "activations", "peak"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in answer.table:
        table.add_row(
            str(row.micro_batch_size),
            format_memory(row.activations_bytes),
            format_memory(row.peak_bytes),
            Text(WORDS[row.verdict].lower(), style=_STYLES[row.verdict]),
        )
    return table


def _limits(answer: FitAnswer) -> str:
    limits = answer.limits

    def told(value: int | None) -> str:
        return "none fits" if value is None else f"{value:,}"

    return (
        f"largest micro-batch {told(limits.largest_micro_batch_size)}, longest sequence "
        f"{told(limits.longest_sequence_length)}, fewest GPUs {told(limits.fewest_gpus)}"
    )


def _time_lines(e: Estimate) -> list[str]:
    run = e.run
    error = f" (± {100 * e.time_uncertainty:.0f} %)" if e.time_uncertainty is not None else ""
    lines = [
        (
            f"Step {format_duration(float(e.step.step_seconds))}{error}, "
            f"{float(run.tokens_per_second_per_gpu):,.0f} tokens/s per GPU, "
            f"{float(run.model_tflops_per_gpu):.0f} TFLOP/s per GPU, "
            f"MFU {100 * float(run.model_flops_utilization):.1f} %"
        )
    ]
    total = float(e.step.step_seconds)
    parts = {k: float(v) for k, v in e.step.breakdown_seconds.items() if float(v) > 0.001 * total}
    lines.append("of it " + ", ".join(f"{k} {100 * v / total:.0f} %" for k, v in parts.items()))
    if run.training_seconds is not None and run.gpu_hours is not None and run.steps is not None:
        lines.append(
            f"Run: {float(run.steps):,.0f} steps, {format_duration(float(run.training_seconds))}, "
            f"{float(run.gpu_hours):,.0f} GPU-hours"
            + (f", {format_usd(e.cost_usd)}" if e.cost_usd is not None else "")
            + _price(e)
        )
    return lines


def _price(e: Estimate) -> str:
    price = e.cluster.price
    if price is None:
        return ""
    return f" at {format_usd(price.usd_per_gpu_hour)}/GPU-hour ({price.provider}, {price.date})"


def _remedy_table(answer: FitAnswer) -> Table:
    table = Table(title="What would make it fit", title_justify="left", box=None)
    table.add_column("one change")
    table.add_column("peak", justify="right")
    table.add_column("verdict")
    table.add_column("time per token", justify="right")
    table.add_column("")
    for remedy in answer.remedies:
        table.add_row(
            remedy.change,
            format_memory(remedy.peak_bytes),
            Text(WORDS[remedy.verdict].lower(), style=_STYLES[remedy.verdict]),
            f"x {remedy.step_seconds_ratio:.2f}",
            "same training" if remedy.same_training else "changes training",
        )
    return table


def print_comparison(answers: Sequence[FitAnswer]) -> None:
    """Several models or GPUs side by side, the best first."""
    out = console()
    table = Table(title="Those that fit first, cheapest first", title_justify="left", box=None)
    for name in ("model", "gpu"):
        table.add_column(name)
    for name in ("gpus", "peak", "available"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for name in ("largest batch", "tokens/s per GPU", "USD per M tokens"):
        table.add_column(name, justify="right")
    for answer in answers:
        e = answer.estimate
        usd = usd_per_million_tokens(answer)
        largest = answer.limits.largest_micro_batch_size
        table.add_row(
            e.model.name,
            e.cluster.gpu.id,
            str(e.layout.gpus),
            format_memory(e.memory.peak_bytes),
            format_memory(e.memory.available_bytes),
            Text(WORDS[e.verdict].lower(), style=_STYLES[e.verdict]),
            "-" if largest is None else str(largest),
            f"{float(e.run.tokens_per_second_per_gpu):,.0f}",
            "-" if usd is None else f"{usd:.3f}",
        )
    out.print(table)
