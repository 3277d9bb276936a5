"""Step times of a million layouts in one call, as memory.many has their peaks.

Layouts that agree in what decides the structure of a step are timed together, as arrays, by the
same functions that serve one layout. A step takes a n + b with n passes (every part is proportional
to them or independent of them), so that two numbers of passes tell all.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from planner.hardware.cluster import Cluster
from planner.memory.many import alike, distinct_layouts, group_of
from planner.memory.peak import rows_of, setting_of
from planner.memory.surroundings import columns_of
from planner.model.spec import ModelSpec
from planner.numeric import Array, Number, is_array
from planner.performance.step import step_time
from planner.training.layout import Layout
from planner.training.precision import precision
from planner.training.recipe import Recipe
from planner.training.stacks import stack


def step_times(spec: ModelSpec, recipe: Recipe, layouts: Layout, cluster: Cluster) -> Array:
    """Seconds of a step of each layout; the fields that are arrays have one value a layout."""
    passes = layouts.gradient_accumulation_steps
    arrays = {f.name: getattr(layouts, f.name) for f in fields(layouts)}
    arrays = {name: value for name, value in arrays.items() if is_array(value)}
    arrays.pop("gradient_accumulation_steps", None)
    if not arrays:
        one, two = (float(_seconds(spec, recipe, _with(layouts, n), cluster)) for n in (1, 2))
        return np.asarray(one + (two - one) * (np.atleast_1d(passes) - 1.0), float)
    distinct, inverse = distinct_layouts(arrays)
    first, each = np.empty(len(distinct)), np.empty(len(distinct))
    few = {name: np.asarray(values)[distinct] for name, values in arrays.items()}
    for members in alike(few):
        group = group_of(layouts, few, members)
        single = _seconds(spec, recipe, _with(group, 1), cluster)
        first[members] = single
        each[members] = _seconds(spec, recipe, _with(group, 2), cluster) - single
    result: Array = first[inverse] + each[inverse] * (passes - 1.0)
    return result


def _with(layout: Layout, passes: int) -> Layout:
    return replace(layout, gradient_accumulation_steps=passes)


def _seconds(spec: ModelSpec, recipe: Recipe, layout: Layout, cluster: Cluster) -> Number:
    policy = precision(recipe.precision, layout.stack)
    rows = rows_of(spec, setting_of(spec, recipe, policy, layout), stack(layout.stack).kernels)
    columns = columns_of(recipe, layout)
    return step_time(spec, rows, recipe, layout, policy, cluster, columns).step_seconds
