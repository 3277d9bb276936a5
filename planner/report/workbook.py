"""A report as an Excel workbook (extra: excel): numbers are numbers, text is never a formula."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

from planner.errors import MissingPartError
from planner.report.document import Part, Report
from planner.report.tables import answer_rows
from planner.report.view import Table

# A workbook says when it was made; a fixed day keeps the bytes of equal reports equal.
_CREATED = dt.datetime(2000, 1, 1)
_LONGEST_SHEET_NAME = 31
_NOT_IN_SHEET_NAMES = str.maketrans(dict.fromkeys("[]:*?/\\'", " "))
_WIDTHS = (28, 24, 16, 18, 18)


def to_workbook(report: Report) -> bytes:
    """One sheet of all numbers, and one per answer with what the other formats show."""
    try:
        import xlsxwriter
    except ImportError:
        raise MissingPartError(
            "an .xlsx report needs XlsxWriter", "pip install 'llm-training-planner[excel]'"
        ) from None
    out = io.BytesIO()
    settings = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(out, settings) as book:
        book.set_properties(
            {
                "title": report.title,
                "comments": f"planner {report.version}: {report.command}",
                "created": _CREATED,
            }
        )
        bold = book.add_format({"bold": True})
        _numbers(book.add_worksheet("estimates"), report, bold)
        for number, part in enumerate(report.parts, start=1):
            name = f"{number} {part.view.name}".translate(_NOT_IN_SHEET_NAMES)
            _part(book.add_worksheet(name[:_LONGEST_SHEET_NAME].strip()), part, bold)
    return out.getvalue()


def _numbers(sheet: Any, report: Report, bold: Any) -> None:
    """The same rows as the CSV, with the columns downwards: one column per answer."""
    columns, rows = answer_rows(report)
    sheet.set_column(0, 0, 40)
    sheet.set_column(1, max(len(rows), 1), 28)
    for line, name in enumerate(columns):
        sheet.write_string(line, 0, name, bold)
        for place, row in enumerate(rows, start=1):
            _cell(sheet, line, place, row.get(name))
    sheet.freeze_panes(0, 1)


def _cell(sheet: Any, line: int, place: int, value: Any) -> None:
    if value is None:
        sheet.write_blank(line, place, None)
    elif isinstance(value, bool):
        sheet.write_boolean(line, place, value)
    elif isinstance(value, (int, float)):
        sheet.write_number(line, place, value)
    else:
        sheet.write_string(line, place, str(value))


def _part(sheet: Any, part: Part, bold: Any) -> None:
    for column, width in enumerate(_WIDTHS):
        sheet.set_column(column, column, width)
    line = _texts(sheet, 0, [part.view.name], bold)
    line = _texts(sheet, line, [part.view.verdict, part.view.headline, *part.view.summary])
    for figure in part.figures:
        line = _row(sheet, line, (figure.label, figure.value, figure.note))
    if part.warnings:
        line = _texts(sheet, line + 1, ["Warnings"], bold)
        line = _texts(sheet, line, part.warnings)
    for section in part.sections:
        line = _texts(sheet, line + 1, [section.title], bold)
        for table in section.tables:
            line = _table(sheet, line, table, bold) + 1
        line = _texts(sheet, line, section.lines)
    _table(sheet, line + 1, part.inputs, bold)


def _table(sheet: Any, line: int, table: Table, bold: Any) -> int:
    line = _texts(sheet, line, [table.title])
    line = _row(sheet, line, table.columns, bold)
    for row in table.rows:
        line = _row(sheet, line, row)
    return line


def _texts(sheet: Any, line: int, texts: Sequence[str], style: Any = None) -> int:
    for text in texts:
        line = _row(sheet, line, (text,), style)
    return line


def _row(sheet: Any, line: int, cells: Sequence[str], style: Any = None) -> int:
    for column, cell in enumerate(cells):
        sheet.write_string(line, column, cell, style)
    return line + 1
