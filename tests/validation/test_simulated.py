"""What docs/decisions/0022 says of vTrain's single-node rows: they are no measurements."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from planner.validation.runs import SIMULATED, Run, shipped_runs

PUBLISHED_SECONDS = 1e-9  # the last digit of the published times


def shape(run: Run) -> tuple[int, int]:
    """Layers and hidden size, as the model's name tells them."""
    found = re.search(r"-l(\d+)-d(\d+)-", run.model)
    assert found is not None
    return int(found[1]), int(found[2])


def test_steps_lie_on_planes_to_the_nanosecond():
    """step = a layers x passes + b passes + c layers + d, for one width, micro-batch and layout
    without data parallelism (whose all-reduce the simulator looks up in a measured table)."""
    alike: dict[object, list[tuple[int, int, float]]] = defaultdict(list)
    for run in shipped_runs().runs:
        if run.group in SIMULATED and run.data_parallel == 1:
            layers, hidden = shape(run)
            sizes = (run.tensor_parallel, run.pipeline_parallel, run.micro_batch_size)
            passes, seconds = run.gradient_accumulation_steps, run.step_seconds
            assert passes is not None
            assert seconds is not None
            alike[(hidden, *sizes)].append((layers, passes, seconds))
    planes = 0
    for rows in alike.values():
        layers, passes, seconds = (np.array(column, float) for column in zip(*rows, strict=True))
        terms = np.stack([layers * passes, passes, layers, np.ones(len(rows))], axis=1)
        if np.linalg.matrix_rank(terms) < terms.shape[1] or len(rows) == terms.shape[1]:
            continue  # a plane through these says nothing
        plane, *_ = np.linalg.lstsq(terms, seconds, rcond=None)
        assert np.abs(terms @ plane - seconds).max() < PUBLISHED_SECONDS
        planes += 1
    assert planes == 40
