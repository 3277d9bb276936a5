"""Arithmetic on numbers and on arrays alike.

Every formula of the planner takes a number or a numpy array (`Number`) and broadcasts. Numbers
stay Python numbers: an integer turned into a numpy one would wrap silently at 2^63, so the
functions here do not call numpy unless an array is there. Arrays are float64, exact for whole
numbers up to 9.0e15; codes of categories (sharding, recompute) are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
# What a formula takes and gives: one value, or one per layout.
Number: TypeAlias = float | Array
# A category as an integer: a member of an IntEnum, or one per layout.
Code: TypeAlias = int | NDArray[np.int64]
Condition: TypeAlias = bool | NDArray[np.bool_]
# Positions in another array.
Index: TypeAlias = NDArray[np.intp]

# Whole numbers below this are looked up in a table, which is faster than sorting them.
TABLE_SIZE = 2**20


def is_array(value: object) -> TypeGuard[NDArray[Any]]:
    """Whether `value` is an array of values, not one value."""
    return isinstance(value, np.ndarray)


def ceil_div(value: Number, divisor: Number) -> Number:
    """value / divisor, rounded up to a whole number; exact for whole numbers.

    Arrays are divided as they are, ten times as fast as by //: below 2^53 the quotient of whole
    numbers rounds to a whole number only where it is one.

    >>> ceil_div(10, 4), ceil_div(8, 4)
    (3, 2)
    """
    if is_array(value) or is_array(divisor):
        quotient: Array = np.ceil(value / divisor)
        return quotient
    return -(-value // divisor)


def round_up(value: Number, multiple: Number) -> Number:
    """The least multiple of `multiple` that is not below `value`.

    >>> round_up(50_257, 128)
    50304
    """
    return ceil_div(value, multiple) * multiple


def divide(value: Number, divisor: Number, default: float = 0.0) -> Number:
    """value / divisor, and `default` where the divisor is 0.

    >>> divide(6, 4), divide(6, 0)
    (1.5, 0.0)
    """
    if not is_array(value) and not is_array(divisor):
        return value / divisor if divisor else default
    top, bottom = np.broadcast_arrays(np.asarray(value, float), np.asarray(divisor, float))
    quotient: Array = np.divide(top, bottom, out=np.full(top.shape, default), where=bottom != 0)
    return quotient


def maximum(first: Number, second: Number) -> Number:
    """The larger one, element by element.

    >>> maximum(2**70, 1) == 2**70
    True
    """
    if not is_array(first) and not is_array(second):
        return max(first, second)
    larger: Array = np.maximum(first, second)
    return larger


def minimum(first: Number, second: Number) -> Number:
    """The smaller one, element by element.

    >>> minimum(3, 4)
    3
    """
    if not is_array(first) and not is_array(second):
        return min(first, second)
    smaller: Array = np.minimum(first, second)
    return smaller


def where(condition: Condition, if_true: Number, if_false: Number) -> Number:
    """`if_true` where the condition holds, else `if_false`. Both are computed: guard divisions.

    >>> where(True, 1, 2)
    1
    """
    if is_array(condition):
        chosen: Array = np.where(condition, if_true, if_false)
        return chosen
    return if_true if condition else if_false


def pick(code: Code, options: Sequence[Number]) -> Number:
    """options[code], element by element; options may themselves be arrays.

    >>> pick(1, (10.0, 20.0))
    20.0
    """
    # Python and numpy count negative indexes from the end; a code does not.
    if not isinstance(code, np.ndarray):
        if not 0 <= code < len(options):
            raise IndexError(f"code {code} is outside 0 to {len(options) - 1}")
        return options[code]
    if code.size and code.min() < 0:
        raise IndexError(f"code {code.min()} is negative")
    if any(is_array(option) for option in options):
        chosen: Array = np.choose(code, list(options))
        return chosen
    taken: Array = np.asarray(options, float)[code]
    return taken


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], Index]:
    """The distinct values of a flat array in rising order, and which of them each value is.

    >>> found, which = distinct(np.array([8.0, 2.0, 8.0]))
    >>> found.tolist(), which.tolist()
    ([2.0, 8.0], [1, 0, 1])
    """
    if values.size and values.min() >= 0 and values.max() < TABLE_SIZE:
        whole = values.astype(np.intp)
        if np.array_equal(whole, values):
            present = np.zeros(int(whole.max()) + 1, bool)
            present[whole] = True
            found = np.flatnonzero(present)
            rank = np.cumsum(present) - 1
            return found.astype(values.dtype), rank[whole]
    found, which = np.unique(values, return_inverse=True)
    return found, which.reshape(-1)


def distinct_rows(columns: Sequence[NDArray[Any]]) -> tuple[Index, Index]:
    """Of the rows that flat columns make: one index of each distinct row, and which each row is.

    >>> first, which = distinct_rows([np.array([1, 1, 2]), np.array([5, 5, 5])])
    >>> len(first), which.tolist()
    (2, [0, 0, 1])
    """
    which = np.zeros(len(columns[0]), np.intp)
    count = 1
    for column in columns:
        found, code = distinct(column)
        which, count = which * len(found) + code, count * len(found)
        if count > TABLE_SIZE:
            found, which = distinct(which)
            count = len(found)
    found, which = distinct(which)
    first = np.empty(len(found), np.intp)
    first[which] = np.arange(len(which))
    return first, which


def once_each(function: Callable[..., Number], *values: Number) -> Number:
    """function(*values), where each distinct combination of the values is worked out once.

    For functions that cost more than finding the few distinct arguments of many layouts.
    """
    if not any(is_array(value) for value in values):
        return function(*values)
    mesh = np.broadcast_arrays(*(np.asarray(value, float) for value in values))
    flat = [axis.ravel() for axis in mesh]
    first, which = distinct_rows(flat)
    results = np.asarray(function(*(axis[first] for axis in flat)), float)
    spread: Array = np.broadcast_to(results, first.shape)[which].reshape(mesh[0].shape)
    return spread
