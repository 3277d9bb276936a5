"""The shipped traces are the tests' own, and their comparison tells real differences."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

from planner.resources import package_file
from planner.validation.traces import FILES, by_stack, compare_traces, shipped_cases

DATA = Path(__file__).parents[1] / "data"


def test_what_ships_is_what_the_tests_read():
    for name in FILES:
        packed = package_file(name)
        assert gzip.decompress(packed.read_bytes()) == (DATA / packed.stem).read_bytes()


def test_errors_are_those_of_the_issue():
    rows = compare_traces(shipped_cases())
    assert len(rows) == 126
    summaries = by_stack(rows)
    assert set(summaries) == {"ddp", "fsdp2", "torchtitan"}
    assert all(s.median <= 0.005 and s.worst <= 0.03 for s in summaries.values())
    saved = [abs(row.saved) for row in rows if row.saved is not None]
    assert max(saved) < 0.01


def test_another_batch_is_another_peak():
    case = next(shipped_cases())
    other = replace(
        case, layout=replace(case.layout, micro_batch_size=2 * case.recipe.sequence_length)
    )
    (row,) = compare_traces(iter([other]))
    assert row.peak > 1
