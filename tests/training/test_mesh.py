"""Many layouts in one call give what each gives alone, whatever their axes are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.memory.many import peaks
from planner.memory.peak import rows_of, setting_of, step_peak
from planner.memory.surroundings import columns_of
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.performance.many import step_times
from planner.performance.step import step_time
from planner.training.layout import Layout
from planner.training.mesh import MOST_POINTS_PER_LAYOUT, of_each
from planner.training.precision import policy_of
from planner.training.recipe import Recipe
from planner.training.schedule import SCHEDULES
from planner.training.stacks import stack

RECIPE = Recipe(4096)
AXES: dict[str, tuple[int, ...]] = {
    "data_parallel": (1, 2, 3, 8, 64),
    "tensor_parallel": (1, 2, 4, 8),
    "pipeline_parallel": (1, 2, 4, 5, 8),
    "virtual_pipeline": (1, 2),
    "context_parallel": (1, 2, 4),
    "expert_parallel": (1, 2, 8),
    "sharding": (0, 1, 2, 3),
    "micro_batch_size": (1, 2, 3, 8),
    "gradient_accumulation_steps": (1, 2, 7, 32),
    "recompute": (0, 1, 2),
    "sequence_parallel": (False, True),
}
LAYOUTS = st.lists(
    st.fixed_dictionaries({n: st.sampled_from(v) for n, v in AXES.items()}), min_size=3, max_size=8
)


@cache
def _model(name: str) -> ModelSpec:
    return load_model(name)


@cache
def _cluster() -> Cluster:
    return cluster_of(find_gpu("h100-sxm-80gb"), 256)


def _seconds(model: ModelSpec, layout: Layout) -> float:
    policy = policy_of(RECIPE, layout.stack)
    rows = rows_of(model, setting_of(model, RECIPE, policy, layout), stack(layout.stack).kernels)
    columns = columns_of(RECIPE, layout)
    step = step_time(model, rows, RECIPE, layout, policy, _cluster(), columns)
    return float(step.step_seconds)


@settings(max_examples=25, deadline=None)
@given(
    LAYOUTS,
    st.sampled_from([("llama-3.1-8b", "torchtitan"), ("mixtral-8x7b", "megatron")]),
    st.sampled_from(sorted(SCHEDULES)),
)
def test_together_as_alone(
    drawn: list[Mapping[str, int]], case: tuple[str, str], schedule: str
) -> None:
    model, kind = _model(case[0]), case[1]
    columns = {name: np.array([one[name] for one in drawn]) for name in AXES}
    layouts = Layout(stack=kind, pipeline_schedule=schedule, **columns)
    memory = peaks(model, RECIPE, layouts)
    seconds = step_times(model, RECIPE, layouts, _cluster())
    for index, one in enumerate(drawn):
        layout = Layout(stack=kind, pipeline_schedule=schedule, **one)
        assert memory[index] == pytest.approx(
            step_peak(model, RECIPE, layout).allocated_bytes, rel=1e-12
        )
        assert seconds[index] == pytest.approx(_seconds(model, layout), rel=1e-12)


def test_scattered_layouts_are_worked_out_in_rows() -> None:
    """So many different values of two axes that their mesh would be far larger than the rows."""
    count = 4 * MOST_POINTS_PER_LAYOUT
    sizes = np.arange(1, count + 1)
    layouts = Layout(data_parallel=sizes, micro_batch_size=sizes[::-1].copy())

    def product(some: Layout) -> object:
        assert np.shape(some.data_parallel) == (count,)
        return some.data_parallel * 1000 + some.micro_batch_size

    assert of_each(layouts, (), product).tolist() == [1000 * n + count + 1 - n for n in sizes]


def test_a_mesh_has_a_dimension_for_each_axis() -> None:
    layouts = Layout(
        data_parallel=np.array([1, 1, 2, 2, 4]), micro_batch_size=np.array([3, 5, 3, 5, 3])
    )
    shapes = []

    def product(some: Layout) -> object:
        shapes.append((np.shape(some.data_parallel), np.shape(some.micro_batch_size)))
        return some.data_parallel * 1000 + some.micro_batch_size

    assert of_each(layouts, (), product).tolist() == [1003, 1005, 2003, 2005, 4003]
    assert shapes == [((3, 1), (1, 2))]
