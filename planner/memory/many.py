"""The peaks of a million layouts in one call, by the functions that serve one layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.memory.peak import highest_total
from planner.model.spec import ModelSpec
from planner.numeric import Array, is_array
from planner.training.layout import Layout
from planner.training.mesh import of_each
from planner.training.recipe import Recipe
from planner.training.schedule import schedule

# Axes whose values decide which moments there are.
STRUCTURE = (
    "pipeline_parallel",
    "sharding",
    "recompute",
    "recompute_layers",
    "sequence_parallel",
)


def peaks(spec: ModelSpec, recipe: Recipe, layouts: Layout) -> Array:
    """Peak allocated bytes of each layout; the fields that are arrays have one value a layout.

    Without cuBLAS's workspace, as `step_peak`.
    """
    if is_array(layouts.gradient_accumulation_steps):
        layouts = replace(layouts, gradient_accumulation_steps=_passes(layouts))
    return of_each(layouts, STRUCTURE, lambda some: highest_total(spec, recipe, some))


def _passes(layouts: Layout) -> Array:
    """Passes a step, no more than matter: the first accumulates, a pipeline holds so many."""
    held = schedule(layouts.pipeline_schedule).in_flight(
        layouts.pipeline_parallel, layouts.virtual_pipeline, np.inf, 0
    )
    # a schedule's bound is of whole micro-batches, of each of the stages that a GPU holds
    most = np.maximum(2, 2 * np.ceil(held))
    fewer: Array = np.minimum(layouts.gradient_accumulation_steps, most)
    return fewer
