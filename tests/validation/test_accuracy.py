"""docs/accuracy.md and errors.json say what the formulas of today give."""

from __future__ import annotations

from planner.validation.accuracy import written
from planner.validation.page import LEFT_OUT_HEADING


def test_the_page_and_the_error_table_are_up_to_date():
    for path, text in written().items():
        message = f"{path.name} is old: run `python -m planner.validation.accuracy`, commit both"
        assert path.read_text(encoding="utf-8") == text, message
        if path.suffix == ".md":
            assert LEFT_OUT_HEADING in text
