"""A timeline drawn: a line a moment, a letter a part of its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from planner.memory.rows import GROUPS, Row
from planner.memory.timeline import Timeline
from planner.units import format_memory

# The group's letter in a bar, what it is, and its colour on a terminal that has some.
LETTERS = {
    "weights": ("W", "weights", "blue"),
    "optimizer_states": ("O", "optimizer states", "cyan"),
    "gradients": ("G", "gradients", "yellow"),
    "saved_activations": ("A", "saved activations", "green"),
    "working_activations": ("a", "of the part that runs", "bright_green"),
    "logits": ("L", "logits", "magenta"),
    "gathered_parameters": ("P", "gathered parameters", "bright_blue"),
    "reductions": ("R", "reductions", "bright_yellow"),
    "temporaries": ("t", "temporaries, library workspace", "red"),
}
assert set(LETTERS) == set(GROUPS)
# Layers of one pass are drawn in at most so many lines.
LINES_OF_LAYERS = 12
# A terminal leaves at least this much for the bars [characters].
NARROWEST_BAR = 10
# Between the columns, and behind the bar of the peak.
GAP, MARK = "  ", " < peak"


@dataclass(frozen=True)
class Line:
    """The highest moment of neighbouring layers, or of one part."""

    phase: str
    where: str
    moment: Row


def lines_of(timeline: Timeline) -> list[Line]:
    """The moments in their order, so many layers to a line that a pass has few lines."""
    count = 1 + max((m.layer for m in timeline.moments if m.layer is not None), default=0)
    each = -(-count // LINES_OF_LAYERS)
    spans: list[tuple[tuple[str, str | int], list[Row]]] = []
    for moment in timeline.moments:
        part = moment.where if moment.layer is None else moment.layer // each
        key = (moment.phase, part)
        if not spans or spans[-1][0] != key:
            spans.append((key, []))
        spans[-1][1].append(moment)
    return [Line(moments[0].phase, _named(moments), _highest(moments)) for _, moments in spans]


def _highest(moments: Sequence[Row]) -> Row:
    return max(moments, key=lambda row: row.total)


def _named(moments: Sequence[Row]) -> str:
    layers = [m.layer for m in moments if m.layer is not None]
    if not layers:
        return moments[0].where
    first, last = layers[0], layers[-1]
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def print_timeline(out: Console, timeline: Timeline) -> None:
    """A bar for each line, as long as its bytes; the peak is marked."""
    lines = lines_of(timeline)
    sizes = [format_memory(timeline.allocated_bytes(line.moment)) for line in lines]
    names = [f"{line.phase:9}{GAP}{line.where}" for line in lines]
    wide, figures = max(map(len, names)), max(map(len, sizes))
    room = max(out.width - wide - figures - len(f"{GAP}{GAP}{MARK}"), NARROWEST_BAR)
    peak = timeline.allocated_bytes(timeline.peak)
    stage = "" if timeline.stage == "only" else f" on the {timeline.stage} stage"
    out.print(Text(f"One micro-batch{stage}, allocated on one GPU", style="italic"))
    for line, name, size in zip(lines, names, sizes, strict=True):
        text = Text(f"{name:{wide}}{GAP}{size:>{figures}}{GAP}")
        for letter, style, length in _bar(timeline, line.moment, room / peak):
            text.append(letter * length, style)
        out.print(text.append(MARK if line.moment is timeline.peak else ""), soft_wrap=True)
    key = ", ".join(f"{letter} {words}" for letter, words, _ in _used(lines))
    out.print(Text(f"{key}; a line of several layers is their highest moment"))


def _bar(timeline: Timeline, moment: Row, scale: float) -> Iterator[tuple[str, str, int]]:
    """Letter, colour and length of each group; rounding never adds up to more than a cell."""
    done = 0.0
    drawn = 0
    for group, (letter, _, style) in LETTERS.items():
        size = float(moment.parts.get(group, 0))
        if group == "temporaries":
            size += timeline.library_workspace_bytes
        done += size * scale
        length = round(done) - drawn
        drawn += length
        yield letter, style, length


def _used(lines: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    for group, told in LETTERS.items():
        if any(float(line.moment.parts.get(group, 0)) for line in lines) or group == "temporaries":
            yield told
