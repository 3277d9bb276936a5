"""Memory and time of one million layouts of Llama-3.1-70B: prints the seconds of one call.

python benchmarks/million_layouts.py
"""

from __future__ import annotations

import time

import numpy as np

from planner.hardware.cluster import cluster_of
from planner.hardware.library import find_gpu
from planner.memory.many import peaks
from planner.model.sources import load_model
from planner.performance.many import step_times
from planner.training.layout import Layout
from planner.training.recipe import Recipe

COUNT = 1_000_000


def main() -> None:
    rng = np.random.default_rng(0)
    layouts = Layout(
        data_parallel=2 ** rng.integers(0, 8, COUNT),
        tensor_parallel=2 ** rng.integers(0, 4, COUNT),
        pipeline_parallel=2 ** rng.integers(0, 4, COUNT),
        sharding=rng.choice([0, 2, 3], COUNT),
        micro_batch_size=rng.integers(1, 9, COUNT),
        gradient_accumulation_steps=rng.integers(1, 33, COUNT),
        recompute=rng.choice([0, 2], COUNT),
        stack="torchtitan",
    )
    model, recipe = load_model("llama-3.1-70b"), Recipe(8192)
    cluster = cluster_of(find_gpu("h100"), 512)
    for _ in range(3):
        start = time.perf_counter()
        peaks(model, recipe, layouts)
        memory = time.perf_counter() - start
        step_times(model, recipe, layouts, cluster)
        both = time.perf_counter() - start
        print(f"{COUNT:,} layouts: memory {memory:.2f} s, memory and time {both:.2f} s")


if __name__ == "__main__":
    main()
