"""Answers for a person at a terminal: tables, and a bar of where the memory goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from planner.answers.fit import FitAnswer
from planner.report.oom_view import oom_sentences
from planner.report.timeline_view import print_timeline
from planner.report.view import Section, Table, answer_view, comparison_table

_STYLES = {"fits": "bold green", "tight": "bold yellow", "does not fit": "bold red"}
_BAR_WIDTH = 40
# Where no terminal sets the width, sentences are folded here, and tables not at all.
_WIDTH_OF_A_PIPE = 110
_TABLE_OF_A_PIPE = 240
# Sections whose sentences are short enough to be one paragraph.
_RUN_ON = ("Assumed", "Not modelled, each could raise the peak")


def console() -> Console:
    """Rich's console on stdout: colours only on a terminal, NO_COLOR respected."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def print_answers(answers: Sequence[FitAnswer], title: str, timeline: bool = False) -> None:
    """One answer in full, several side by side under a title; their timelines where asked for."""
    if len(answers) == 1:
        print_answer(answers[0])
    else:
        print_table(console(), comparison_table(answers, title))
        _print_explanations([answer for answer in answers if answer.oom is not None])
    for answer in answers if timeline else ():
        out = console()
        out.print()
        if len(answers) > 1:
            out.print(Text(f"{answer.estimate.name} on {answer.estimate.cluster.known_as}"))
        print_timeline(out, answer.estimate.timeline)


def _print_explanations(answers: Sequence[FitAnswer]) -> None:
    """Of several answers what an out-of-memory message says of each."""
    out = console()
    for answer in answers:
        assert answer.oom is not None
        out.print(Text(f"\n{answer.estimate.name} on {answer.estimate.cluster.known_as}"))
        for line in oom_sentences(answer.oom):
            out.print(Text(line))


def print_answer(answer: FitAnswer) -> None:
    out = console()
    view = answer_view(answer)
    if view.name != answer.estimate.model.name:
        out.print(Text(view.name))
    verdict = Text(view.verdict.upper(), style=_STYLES[view.verdict])
    out.print(verdict.append(f"  {view.headline}", style="default not bold"))
    for line in view.summary:
        out.print(Text(line))
    for section in view.sections:
        out.print()
        _print_section(out, section)


def _print_section(out: Console, section: Section) -> None:
    if section.title in _RUN_ON:
        out.print(Text(f"{section.title}: {'; '.join(section.lines)}"))
        return
    for index, table in enumerate(section.tables):
        if index:
            out.print()
        print_table(out, table)
    for line in section.lines:
        out.print(Text(line))


def print_table(out: Console, table: Table) -> None:
    """A table with its verdicts coloured, and bars where it has shares."""
    rich = RichTable(title=table.title, title_justify="left", box=None)
    after = table.bar_after
    for index, name in enumerate(table.columns):
        # in a narrow terminal a cell takes several lines: cut short, a name or number says nothing
        side: Literal["right", "left"] = "right" if index in table.right else "left"
        rich.add_column(name, justify=side, overflow="fold")
        if index == after:
            rich.add_column("")
    for number, row in enumerate(table.rows):
        cells = [Text(cell, style=_STYLES.get(cell, "")) for cell in row]
        if after is not None:
            cells.insert(after + 1, Text("█" * round(_BAR_WIDTH * table.shares[number])))
        is_total = table.total and number == len(table.rows) - 1
        rich.add_row(*cells, style="bold" if is_total else None)
    wide = out if out.is_terminal else Console(highlight=False, width=_TABLE_OF_A_PIPE)
    with wide.capture() as printed:
        wide.print(rich)
    out.file.write("\n".join(line.rstrip() for line in printed.get().splitlines()) + "\n")
