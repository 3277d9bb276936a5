"""Step times of a million layouts in one call, by the functions that serve one layout."""

from __future__ import annotations

from planner.hardware.cluster import Cluster
from planner.memory.peak import rows_of, setting_of
from planner.memory.surroundings import columns_of
from planner.model.spec import ModelSpec
from planner.numeric import Array, Number
from planner.performance.step import step_time
from planner.training.layout import Layout
from planner.training.mesh import of_each
from planner.training.precision import policy_of
from planner.training.recipe import Recipe
from planner.training.stacks import stack

# Axes whose values decide which kernels run.
STRUCTURE = ("recompute", "recompute_layers", "sequence_parallel")


def step_times(spec: ModelSpec, recipe: Recipe, layouts: Layout, cluster: Cluster) -> Array:
    """Seconds of a step of each layout; the fields that are arrays have one value a layout."""
    policy = policy_of(recipe, layouts.stack)
    kernels = stack(layouts.stack).kernels

    def seconds(some: Layout) -> Number:
        rows = rows_of(spec, setting_of(spec, recipe, policy, some), kernels)
        columns = columns_of(recipe, some)
        return step_time(spec, rows, recipe, some, policy, cluster, columns).step_seconds

    return of_each(layouts, STRUCTURE, seconds)
