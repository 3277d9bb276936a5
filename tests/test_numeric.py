from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import numeric

WHOLE = st.integers(0, 2**40)
ABOVE_ZERO = st.integers(1, 2**30)
PAIRS = st.lists(st.tuples(WHOLE, ABOVE_ZERO), min_size=1, max_size=20)


@given(PAIRS)
def test_arrays_give_what_numbers_give(pairs):
    left, right = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    for function in (
        numeric.ceil_div,
        numeric.round_up,
        numeric.divide,
        numeric.maximum,
        numeric.minimum,
    ):
        expected = [function(a, b) for a, b in pairs]
        assert function(left, right).tolist() == expected


@given(st.integers(1, 2**26), st.integers(1, 2**26), st.integers(-1, 1))
def test_division_of_large_arrays_is_exact(divisor, quotient, more):
    """Just below, at and just above a multiple, up to 2^52."""
    value = divisor * quotient + more
    (found,) = numeric.ceil_div(np.array([value], float), np.array([divisor], float)).tolist()
    assert found == -(-value // divisor)


@given(WHOLE, ABOVE_ZERO)
def test_rounding_up_is_the_least_multiple(value, multiple):
    rounded = numeric.round_up(value, multiple)
    assert rounded % multiple == 0
    assert value <= rounded < value + multiple


def test_whole_numbers_stay_exact_and_do_not_wrap():
    huge = 10**30 + 1
    assert numeric.ceil_div(huge, 2) == 5 * 10**29 + 1
    assert numeric.maximum(huge, 1) * 10**10 == huge * 10**10
    assert numeric.minimum(huge, 10**40) == huge
    assert type(numeric.where(True, huge, 0)) is int


def test_division_by_zero_gives_the_default():
    assert numeric.divide(3, 0, default=-1.0) == -1.0
    result = numeric.divide(np.array([3.0, 4.0]), np.array([0.0, 2.0]), default=7.0)
    assert result.tolist() == [7.0, 2.0]
    assert numeric.divide(1.0, np.array([[0.0], [4.0]])).shape == (2, 1)


def test_pick_takes_options_that_are_numbers_or_arrays():
    codes = np.array([2, 0, 1])
    assert numeric.pick(codes, (10, 20, 30)).tolist() == [30, 10, 20]
    assert numeric.pick(1, (10, np.array([1.0, 2.0]))).tolist() == [1.0, 2.0]
    mixed = numeric.pick(codes, (0.0, np.array([1.0, 2.0, 3.0]), 9.0))
    assert mixed.tolist() == [9.0, 0.0, 3.0]


@pytest.mark.parametrize("code", [-1, 2, np.array([0, -1]), np.array([0, 2])])
def test_pick_refuses_codes_outside_the_table(code):
    with pytest.raises(IndexError):
        numeric.pick(code, (1.0, 2.0))


def test_where_chooses_element_by_element():
    assert numeric.where(np.array([True, False]), 1.0, np.array([5.0, 6.0])).tolist() == [1.0, 6.0]


@given(st.lists(st.one_of(st.integers(0, 50), st.floats(-1e9, 1e9)), min_size=1))
def test_distinct_values_as_numpy_finds_them(values):
    column = np.array(values, float)
    found, which = numeric.distinct(column)
    assert found.tolist() == np.unique(column).tolist()
    assert np.array_equal(found[which], column)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-(2**40), 2**40)), min_size=1))
def test_distinct_rows_are_all_rows(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    first, which = numeric.distinct_rows(columns)
    assert len(first) == len(set(rows))
    assert [rows[first[i]] for i in which] == rows


def test_each_distinct_argument_is_worked_out_once():
    asked = []

    def double(value):
        asked.extend(np.atleast_1d(value).tolist())
        return 2 * value

    mesh = np.array([[1.0, 3.0], [3.0, 1.0]])
    assert numeric.once_each(double, mesh).tolist() == [[2.0, 6.0], [6.0, 2.0]]
    assert sorted(asked) == [1.0, 3.0]
    assert numeric.once_each(double, 5) == 10
