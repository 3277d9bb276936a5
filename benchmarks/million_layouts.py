"""Memory and time of one million layouts of Llama-3.1-70B: prints the seconds of one call.

python benchmarks/million_layouts.py
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.memory.many import peaks
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.performance.many import step_times
from planner.training.layout import Layout
from planner.training.recipe import Recipe

COUNT = 1_000_000


def drawn(rng: np.random.Generator) -> Layout:
    """Drawn with repetition from a space of 196,608, as a search that narrows down asks."""
    return Layout(
        data_parallel=2 ** rng.integers(0, 8, COUNT),
        tensor_parallel=2 ** rng.integers(0, 4, COUNT),
        pipeline_parallel=2 ** rng.integers(0, 4, COUNT),
        sharding=rng.choice([0, 2, 3], COUNT),
        micro_batch_size=rng.integers(1, 9, COUNT),
        gradient_accumulation_steps=rng.integers(1, 33, COUNT),
        recompute=rng.choice([0, 2], COUNT),
        stack="torchtitan",
    )


def product(rng: np.random.Generator) -> Layout:
    """A million different ones of a space of 1,228,800, as an exhaustive search asks."""
    axes = {
        "data_parallel": 2 ** np.arange(10),
        "tensor_parallel": 2 ** np.arange(4),
        "pipeline_parallel": 2 ** np.arange(5),
        "virtual_pipeline": 2 ** np.arange(2),
        "context_parallel": 2 ** np.arange(4),
        "sharding": np.array([0, 2, 3]),
        "micro_batch_size": np.arange(1, 17),
        "gradient_accumulation_steps": 2 ** np.arange(8),
        "recompute": np.array([0, 2]),
    }
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    chosen = rng.permutation(mesh[0].size)[:COUNT]
    columns = {name: grid.ravel()[chosen] for name, grid in zip(axes, mesh, strict=True)}
    return Layout(stack="torchtitan", **columns)


def scattered(rng: np.random.Generator) -> Layout:
    """A million different ones that make no mesh: the worst case."""
    layouts = drawn(rng)
    sizes = {
        "data_parallel": rng.integers(1, 2000, COUNT),
        "gradient_accumulation_steps": rng.integers(1, 2000, COUNT),
    }
    return replace(layouts, **sizes)


def main() -> None:
    model, recipe = load_model("llama-3.1-70b"), Recipe(8192)
    cluster = cluster_of(find_gpu("h100"), 512)
    for case in (drawn, product, scattered):
        layouts = case(np.random.default_rng(0))
        both, memory = min(_seconds(model, recipe, layouts, cluster) for _ in range(3))
        print(
            f"{case.__name__}: {COUNT:,} layouts: memory {memory:.2f} s, "
            f"memory and time {both:.2f} s"
        )


def _seconds(
    model: ModelSpec, recipe: Recipe, layouts: Layout, cluster: Cluster
) -> tuple[float, float]:
    """Of memory and time together, and of memory alone."""
    start = time.perf_counter()
    peaks(model, recipe, layouts)
    memory = time.perf_counter() - start
    step_times(model, recipe, layouts, cluster)
    return time.perf_counter() - start, memory


if __name__ == "__main__":
    main()
