"""Laws that hold whatever the layout: what falls, what adds up, what the classic papers say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.estimate import estimate
from planner.hardware.cluster import cluster_of
from planner.hardware.library import find_gpu
from planner.memory.peak import rows_of, setting_of, step_peak
from planner.memory.shards import holding
from planner.model.sources import load_model
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.precision import policy_of
from planner.training.recipe import Recipe
from planner.training.stacks import STACKS, stack

# Dense and tied, dense, latent attention with experts; few enough layers to be quick.
NAMES = ("llama-3.2-1b", "llama-3.1-8b", "gpt2", "qwen3-30b-a3b")
MODELS = {name: load_model(name) for name in NAMES}
PRECISIONS = ("fp32", "bf16-mixed", "bf16-pure")
SHARDED = ("fsdp2", "torchtitan", "fsdp", "deepspeed", "megatron")
# One GPU's share rounds up where tensors do not divide: rows, heads, buckets.
ROUNDING = 1 + 1e-3

models = st.sampled_from(NAMES)
recipes = st.builds(
    Recipe,
    sequence_length=st.sampled_from((128, 1024, 4096)),
    precision=st.sampled_from(PRECISIONS),
    optimizer=st.sampled_from(("adamw", "sgd", "lion")),
    compile=st.booleans(),
)
counts = st.sampled_from((1, 2, 4))
few = settings(max_examples=60, deadline=None)


def peak(name: str, recipe: Recipe, layout: Layout) -> float:
    return float(step_peak(MODELS[name], recipe, layout).allocated_bytes)


@few
@given(models, recipes, st.sampled_from(SHARDED), st.sampled_from(list(Sharding)), counts, counts)
def test_more_replicas_never_need_more_of_each(name, recipe, code, sharding, batch, passes):
    assume(sharding in stack(code).shardings and sharding != Sharding.hsdp)
    base = Layout(
        stack=code,
        sharding=sharding,
        micro_batch_size=batch,
        gradient_accumulation_steps=passes,
    )
    found = [peak(name, recipe, replace(base, data_parallel=n)) for n in (2, 4, 16, 64)]
    assert all(b <= a * ROUNDING for a, b in pairwise(found))


@few
@given(models, recipes, counts, st.sampled_from((Recompute.none, Recompute.full)), st.booleans())
def test_wider_tensor_parallelism_never_needs_more(name, recipe, batch, recompute, sequence):
    base = Layout(
        stack="megatron",
        micro_batch_size=batch,
        recompute=recompute,
        sequence_parallel=sequence,
    )
    found = [peak(name, recipe, replace(base, tensor_parallel=n)) for n in (1, 2, 4)]
    # without sequence parallelism a split row adds its part of the vocabulary's padding
    assert all(b <= a * ROUNDING for a, b in pairwise(found))


@few
@given(models, recipes, st.sampled_from(("1f1b", "gpipe", "zero-bubble")))
def test_more_stages_never_hold_more_parameters(name, recipe, schedule):
    base = Layout(stack="megatron", gradient_accumulation_steps=8, pipeline_schedule=schedule)
    layers = len(MODELS[name].layers)
    stages = [n for n in (1, 2, 4, 8) if layers % n == 0]

    def held(n: int) -> float:
        rows = step_peak(MODELS[name], recipe, replace(base, pipeline_parallel=n)).rows
        return max(float(r.parts["weights"] + r.parts["optimizer_states"]) for r in rows)

    found = [held(n) for n in stages]
    # a tied matrix lies on the first and on the last stage: no more than whole
    assert all(b <= a * ROUNDING for a, b in pairwise(found))


@few
@given(models, recipes, st.sampled_from(sorted(STACKS)), counts)
def test_recompute_never_keeps_more(name, recipe, code, batch):
    model, layout = MODELS[name], Layout(stack=code, micro_batch_size=batch)

    def kept(recompute: Recompute, modules: tuple[str, ...] = ()) -> list[float]:
        own = replace(layout, recompute=recompute, recompute_modules=modules)
        setting = setting_of(model, recipe, policy_of(recipe, code), own)
        rows = rows_of(model, setting, stack(code).kernels)
        full = recompute == Recompute.full
        return [sum(x.input if full else x.kept) for x in rows.layers]

    none, some, full = (kept(r) for r in (Recompute.none, Recompute.selective, Recompute.full))
    for a, b, c in zip(none, some, full, strict=True):
        assert c <= b <= a


@few
@given(models, counts, st.sampled_from((8, 32)))
def test_the_shards_of_all_ranks_are_the_whole(name, tensor, ranks):
    """Row shards round up: all GPUs together hold each weight once, and at most a row more each;
    what tensor parallelism does not split, each of its ranks may hold."""
    for place in MODELS[name].layers[:2]:
        weights = place.block.weights
        layout = Layout(tensor_parallel=tensor, data_parallel=ranks)
        held = float(holding(weights, layout, ranks).shard) * ranks * tensor
        once = sum(w.elements for w in weights)
        again = sum((tensor - 1) * w.elements for w in weights if w.split == "whole")
        rows = sum(w.elements // w.shape[0] for w in weights)
        assert once <= held <= once + again + tensor * ranks * rows


@few
@given(
    models,
    recipes,
    st.sampled_from(("ddp", "fsdp2", "torchtitan", "megatron", "deepspeed")),
    st.sampled_from(("h100-sxm-80gb", "rtx-4090")),
    counts,
)
def test_the_breakdown_adds_up_to_the_peak(name, recipe, code, gpu, batch):
    profile = find_gpu(gpu)
    answer = estimate(
        MODELS[name],
        recipe,
        Layout(stack=code, micro_batch_size=batch),
        cluster_of(profile, 1),
    ).memory
    assert sum(answer.breakdown_bytes.values()) == pytest.approx(answer.peak_bytes, abs=0.5)
    beside = answer.peak_bytes - answer.peak_allocated_bytes
    assert answer.breakdown_bytes["framework"] == pytest.approx(beside, abs=0.5)
    assert answer.peak_allocated_bytes <= answer.peak_reserved_bytes <= answer.peak_bytes


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_the_divisions_of_zero(ranks):
    """Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter (gradients in fp32 here)."""
    model, recipe = MODELS["llama-3.1-8b"], Recipe(128)
    parameters = 8_030_261_248

    def bytes_per_parameter(sharding: Sharding) -> tuple[float, ...]:
        layout = Layout(data_parallel=ranks, sharding=sharding, stack="megatron")
        found = step_peak(model, recipe, layout).breakdown
        names = ("weights", "gradients", "optimizer_states")
        return tuple(float(found[name]) / parameters for name in names)

    near = pytest.approx
    assert bytes_per_parameter(Sharding.none) == near((2, 4, 12), rel=1e-3)
    assert bytes_per_parameter(Sharding.zero1) == near((2, 4, 12 / ranks), rel=1e-3)
    assert bytes_per_parameter(Sharding.zero2) == near((2, 4 / ranks, 12 / ranks), rel=1e-3)
    weights, _, states = bytes_per_parameter(Sharding.zero3)
    assert (weights, states) == near((2 / ranks, 12 / ranks), rel=1e-3)


@pytest.mark.parametrize(("stages", "chunks"), [(2, 1), (4, 1), (8, 1), (4, 2), (8, 4)])
def test_the_first_stage_keeps_what_the_papers_say(stages, chunks):
    """p micro-batches of L / p layers are those of all L layers once; interleaved 1 + (p-1)/(p v)
    times (Narayanan et al. 2021, section 2.2; Korthikanti et al. 2022, section 4.2.3)."""
    model, recipe = MODELS["llama-3.1-8b"], Recipe(1024)
    base = Layout(stack="megatron", gradient_accumulation_steps=64)

    def saved(layout: Layout) -> float:
        rows = [r for r in step_peak(model, recipe, layout).rows if r.stage in ("only", "first")]
        return max(float(r.parts.get("saved_activations", 0)) for r in rows)

    alone = saved(replace(base, gradient_accumulation_steps=1))
    piped = saved(replace(base, pipeline_parallel=stages, virtual_pipeline=chunks))
    expected = 1.0 if chunks == 1 else 1 + (stages - 1) / (stages * chunks)
    assert piped / alone == pytest.approx(expected, rel=0.1)
