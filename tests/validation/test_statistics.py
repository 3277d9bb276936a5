"""Error statistics on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.validation.statistics import equal_weight, percentile, summary_of

ERRORS = st.lists(st.floats(-1, 10), min_size=1, max_size=40)


@given(ERRORS, st.floats(0, 1))
def test_percentile_is_numpys(values, share):
    assert percentile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-9)


def test_summary_by_hand():
    found = summary_of([-0.5, 0.1, 0.2])
    assert (found.rows, found.median, found.bias, found.worst) == (3, 0.2, 0.1, 0.5)
    assert found.p90 == pytest.approx(0.44)
    assert summary_of([]) is None


def test_sources_weigh_the_same():
    many, few = summary_of([0.1] * 90), summary_of([0.3])
    together = equal_weight({"many": many, "few": few})
    assert together.median == pytest.approx(0.2)
    assert together.rows == 91
