"""Tables in a narrow terminal: a cell takes more lines, and nothing of it is left out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from planner.report.terminal import print_table
from planner.report.view import Table

CELLS = ("llama-3.1-8b-instruct", "rtx-pro-6000-blackwell", "1,234,567,890")


@pytest.mark.parametrize("width", [24, 40, 60, 120])
def test_no_cell_is_cut(width):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=width)
    print_table(console, Table("", ("model", "GPU", "parameters"), (CELLS,), frozenset({2})))
    printed = out.getvalue()
    assert "…" not in printed
    shown = "".join(printed.split())
    assert sorted(shown) == sorted("".join(("model", "GPU", "parameters", *CELLS)))
    assert max(map(len, printed.splitlines())) <= width
