"""A report as Markdown, as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from planner.report.document import Part, Report
from planner.report.view import Table

# What Markdown or HTML would take for markup. A tilde strikes through, a hash links issues.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&])")
_FENCE = re.compile(r"^(`{3,})", re.MULTILINE)


def to_markdown(report: Report) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {escaped(report.title)}"
    yield ""
    yield f"planner {report.version}, {_code(report.command)}"
    if report.comparison is not None:
        yield ""
        yield from _table(report.comparison, "##")
    for part in report.parts:
        yield from _part(part)
    for given in report.inputs:
        yield ""
        yield f"## Scenario file {escaped(given.path)}"
        yield ""
        fence = "`" * max([3, *(len(m) + 1 for m in _FENCE.findall(given.text))])
        yield f"{fence}yaml"
        yield given.text.rstrip("\n")
        yield fence


def _part(part: Part) -> Iterator[str]:
    yield ""
    yield f"## {escaped(part.view.name)}"
    yield ""
    yield f"**{part.view.verdict.upper()}**: {escaped(part.view.headline)}"
    for line in part.view.summary:
        yield ""
        yield escaped(line)
    yield ""
    for figure in part.figures:
        yield f"- {escaped(figure.label)}: **{escaped(figure.value)}** ({escaped(figure.note)})"
    if part.warnings:
        yield ""
        yield "### Warnings"
        yield ""
        yield from (f"- {escaped(line)}" for line in part.warnings)
    yield ""
    yield from _table(part.inputs, "###")
    for section in part.sections:
        yield ""
        yield f"### {escaped(section.title)}"
        for table in section.tables:
            yield ""
            yield from _table(table, "####")
        if section.lines:
            yield ""
        yield from (f"- {escaped(line)}" for line in section.lines)


def _table(table: Table, heading: str) -> Iterator[str]:
    yield f"{heading} {escaped(table.title)}"
    yield ""
    yield _row(table.columns)
    yield _row(["--:" if i in table.right else "---" for i in range(len(table.columns))], raw=True)
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[str, ...] | list[str], *, raw: bool = False) -> str:
    return "| " + " | ".join(cells if raw else map(escaped, cells)) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line.

    >>> escaped("a|b <i>*c*</i>")
    'a\\\\|b \\\\<i\\\\>\\\\*c\\\\*\\\\</i\\\\>'
    """
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Inline code, with a longer fence where the text has backquotes."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
