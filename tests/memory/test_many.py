"""A million layouts through arrays give what each gives alone."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from planner.memory.many import peaks
from planner.memory.peak import step_peak
from planner.model.sources import load_model
from planner.numeric import is_array
from planner.training.layout import Layout
from planner.training.recipe import Recipe

COUNT = 400


def _drawn(seed: int) -> Layout:
    rng = np.random.default_rng(seed)
    return Layout(
        data_parallel=2 ** rng.integers(0, 7, COUNT),
        tensor_parallel=2 ** rng.integers(0, 4, COUNT),
        pipeline_parallel=2 ** rng.integers(0, 3, COUNT),
        sharding=rng.choice([0, 2, 3], COUNT),
        micro_batch_size=rng.integers(1, 9, COUNT),
        gradient_accumulation_steps=rng.integers(1, 20, COUNT),
        recompute=rng.choice([0, 2], COUNT),
        stack="torchtitan",
    )


def _one(layouts: Layout, index: int) -> Layout:
    values = {f.name: getattr(layouts, f.name) for f in fields(layouts)}
    return replace(layouts, **{k: int(v[index]) for k, v in values.items() if is_array(v)})


def test_arrays_and_numbers_agree() -> None:
    model, recipe = load_model("llama-3.1-70b"), Recipe(8192)
    layouts = _drawn(0)
    together = peaks(model, recipe, layouts)
    for index in range(0, COUNT, 7):
        alone = step_peak(model, recipe, _one(layouts, index)).allocated_bytes
        assert together[index] == float(alone)
