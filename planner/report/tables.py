"""A report for programs: JSON, and CSV with one row per answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from planner.report.as_json import SCHEMA_VERSION, fit_json
from planner.report.document import Report

# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Lists of objects have no cell of their own.
_LEFT_OUT = ("micro_batches", "remedies")


def to_json(report: Report) -> str:
    """The estimates as `planner estimate --json` has them, with what they were made from."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "planner_version": report.version,
        "command": report.command,
        "scenarios": [{"path": given.path, "text": given.text} for given in report.inputs],
        "estimates": [
            {
                **fit_json(answer),
                "sources": next(s.lines for s in part.sections if s.title == "Sources"),
            }
            for answer, part in zip(report.answers, report.parts, strict=True)
        ],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def to_csv(report: Report) -> str:
    """One row per answer; the columns are the JSON's names, with dots."""
    columns, rows = answer_rows(report)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    writer.writerow(columns)
    for row in rows:
        writer.writerow([harmless(row.get(name)) for name in columns])
    return out.getvalue()


def answer_rows(report: Report) -> tuple[list[str], list[dict[str, Any]]]:
    """The JSON's names with dots, and their values for each answer."""
    about = {"planner_version": report.version, "command": report.command}
    rows = [{**dict(_cells(fit_json(answer), "")), **about} for answer in report.answers]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _cells(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _cells(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            if name not in _LEFT_OUT:
                yield prefix + name, "; ".join(map(str, value))
        else:
            yield prefix + name, value


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that looks like a formula begins with an apostrophe.

    >>> harmless("=1+1"), harmless(-5), harmless("a run"), harmless(True), harmless(None)
    ("'=1+1", -5, 'a run', 'true', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
