"""How many bytes go over the links in a step, against the textbook, whatever their rates are.

Every collective is made to take as many "seconds" as each rank sends bytes, and nothing hides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.memory.peak import rows_of, setting_of
from planner.memory.surroundings import columns_of
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.numeric import Number
from planner.performance import traffic
from planner.performance.collectives import Operation, bus_factor
from planner.performance.constants import step_constants
from planner.performance.dispatch import dispatch_seconds
from planner.performance.machine import Machine
from planner.performance.traffic import Group
from planner.performance.work import Work
from planner.training.execution import Execution
from planner.training.layout import Layout
from planner.training.precision import policy_of
from planner.training.recipe import Recipe
from planner.training.stacks import stack

RECIPE = Recipe(4096)
NOTHING_HIDES = Execution(overlap=())
ELEMENT = 2  # bf16 bytes


@pytest.fixture(autouse=True)
def bytes_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(
        operation: Operation, message: Number, group: Group, cluster: Cluster, machine: Machine
    ) -> Number:
        return message * bus_factor(operation, group.ranks)

    monkeypatch.setattr(traffic, "exchange_seconds", sent)


@cache
def _model(name: str) -> ModelSpec:
    return load_model(name)


def _work(layout: Layout, name: str = "llama-3.1-8b", recipe: Recipe = RECIPE) -> Work:
    policy = policy_of(recipe, layout.stack)
    setting = setting_of(_model(name), recipe, policy, layout)
    rows = rows_of(_model(name), setting, stack(layout.stack).kernels)
    cluster = cluster_of(find_gpu("h100-sxm-80gb"), 64)
    columns = columns_of(recipe, layout)
    constants = step_constants()
    return Work(_model(name), rows, recipe, layout, policy, cluster, columns, constants)


@pytest.mark.parametrize(("recompute", "passes"), [(0, 4), (2, 6)])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_tensor_and_sequence_parallel(ranks: int, recompute: int, passes: int) -> None:
    """Korthikanti et al. 2022, section 4.2.2: per layer four all-gathers and four reduce-scatters
    of s b h, forward and backward together; the recomputed forward pass has its own again. Inputs
    are kept in shards: "an extra all-gather in the backward pass" for each of the two."""
    layout = Layout(
        tensor_parallel=ranks,
        sequence_parallel=True,
        micro_batch_size=3,
        recompute=recompute,
        stack="megatron",
        execution=NOTHING_HIDES,
    )
    stream = 4096 * 3 * 4096 * ELEMENT  # s b h
    gather = (ranks - 1) / ranks
    pair = 2 * gather  # an all-gather and a reduce-scatter
    volume = traffic.tensor_parallel_seconds(_work(layout))
    assert volume == pytest.approx(32 * (passes * pair + 2 * gather) * stream)


def _held(layout: Layout) -> float:
    """Elements of the layers on one rank of its tensor-parallel group."""
    w = _work(layout)
    return float(w.layer_elements) * 32


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_sharded_optimizer_sends_two_parameters(ranks: int) -> None:
    """Rajbhandari et al. 2020, section 7.1 and 7.2: 2 Psi a step, as plain data parallelism."""
    for sharding in (0, 1):
        layout = Layout(
            data_parallel=ranks,
            sharding=sharding,
            gradient_accumulation_steps=4,
            stack="megatron",
            execution=NOTHING_HIDES,
        )
        share = (ranks - 1) / ranks
        w = _work(layout)
        itemsize = w.policy.reduce if sharding == 0 else (w.policy.reduce + w.policy.compute) / 2
        volume = traffic.data_parallel_seconds(w)
        assert volume == pytest.approx(2 * share * itemsize * _held(layout))


@pytest.mark.parametrize(("sharding", "times"), [(2, 2), (3, 3)])
def test_sharded_parameters_send_three(sharding: int, times: int) -> None:
    """Section 7.2.2: 3 Psi a pass where parameters are gathered again for the backward pass."""
    layout = Layout(
        data_parallel=16,
        sharding=sharding,
        gradient_accumulation_steps=5,
        stack="fsdp2",
        execution=NOTHING_HIDES,
    )
    w = _work(layout)
    sent = (times - 1) * w.policy.compute + w.policy.reduce
    volume = traffic.data_parallel_seconds(w)
    assert volume == pytest.approx(5 * 15 / 16 * sent * _held(layout))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 16), st.integers(1, 4), st.integers(1, 64), st.sampled_from([1, 2, 8]))
def test_pipeline_sends_the_stream_there_and_its_gradient_back(
    stages: int, chunks: int, passes: int, tensor: int
) -> None:
    """Narayanan et al. 2021, sections 3.2 and 4.1: b s h a boundary and micro-batch each way, v
    times with interleaving, and 1/t of it where each rank sends its part."""
    layout = Layout(
        pipeline_parallel=stages,
        virtual_pipeline=chunks,
        tensor_parallel=tensor,
        sequence_parallel=tensor > 1,
        gradient_accumulation_steps=passes,
        stack="megatron",
        execution=NOTHING_HIDES,
    )
    stream = 4096 * 4096 * ELEMENT
    volume = traffic.pipeline_seconds(_work(layout))
    assert volume == pytest.approx(2 * passes * chunks * stream / tensor)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 16), st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
def test_ranks_that_send_a_share_gather_the_rest(stages: int, passes: int, tensor: int) -> None:
    """Narayanan et al. 2021, section 4.1: 1/t of b s h to the next node, and an all-gather of the
    other (t - 1)/t inside it: as many bytes as the whole stream, most over the fast link."""
    layout = Layout(
        pipeline_parallel=stages,
        tensor_parallel=tensor,
        gradient_accumulation_steps=passes,
        stack="megatron-deepspeed",
    )
    volume = traffic.pipeline_seconds(_work(layout))
    assert volume == pytest.approx(2 * passes * 4096 * 4096 * ELEMENT)


@pytest.mark.parametrize(("recompute", "times"), [(0, 4), (2, 6)])
def test_all_reduces_that_wait_show_whole(recompute: int, times: int) -> None:
    """Shoeybi et al. 2019, section 3: two all-reduces forward and two backward a layer, two more
    where the forward pass runs again; before 2023 none of them beside a product."""
    layout = Layout(tensor_parallel=4, recompute=recompute, stack="megatron-deepspeed")
    one = 2 * 3 / 4 * 4096 * 4096 * ELEMENT
    volume = traffic.tensor_parallel_seconds(_work(layout))
    switches = 32 * times * step_constants().stream_switch_seconds
    assert volume == pytest.approx(32 * times * one + switches)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_experts_get_each_copy_of_a_token(ranks: int) -> None:
    """Lepikhin et al. 2020 (GShard), section 3.2: there and back, forward and backward, of top_k
    copies of each token; what stays on the rank is not sent."""
    layout = Layout(
        data_parallel=8, expert_parallel=ranks, stack="megatron", execution=NOTHING_HIDES
    )
    copies = 4096 * 2 * 4096 * ELEMENT  # s top_k h
    volume = traffic.expert_parallel_seconds(_work(layout, "mixtral-8x7b"))
    assert volume == pytest.approx(32 * 4 * copies * (ranks - 1) / ranks)


@pytest.mark.parametrize("dispatcher", ["deepep", "hybridep"])
@pytest.mark.parametrize(("ranks", "nodes"), [(2, 1), (8, 1), (32, 4)])
def test_dispatchers_have_kernels_of_their_own(dispatcher: str, ranks: int, nodes: int) -> None:
    """A dispatch and a combine forward, and what undoes them backward, in bf16, as measured."""
    key, multiprocessors = {
        "deepep": ("deepep/normal", 20),
        "hybridep": ("hybridep/bf16 kernel", 16),
    }[dispatcher]
    layout = Layout(
        data_parallel=64,
        expert_parallel=ranks,
        stack="megatron",
        execution=Execution(overlap=(), dispatcher=dispatcher),
    )
    work = _work(layout, "qwen3-30b-a3b")
    constants = work.machine.constants.dispatch
    once = sum(
        dispatch_seconds(
            4096,
            hidden=2048,
            top_k=8,
            experts=128,
            ranks=ranks,
            domains=nodes,
            multiprocessors=multiprocessors,
            constants=replace(constants[f"{key}/{operation}"], element_bytes=2),
            link_bytes_per_second=450e9,
            network_bytes_per_second=50e9,
        )
        for operation in ("dispatch", "combine")
    )
    assert traffic.expert_parallel_seconds(work) == pytest.approx(48 * 2 * once, rel=1e-6)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_of_keys_and_values(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Liu et al. 2023 (Ring Attention), section 3: a rank sends the keys and values that it has
    p - 1 times forward; backward they and their gradients go round."""

    def whole(sent: Number, compute: Number, interference: float) -> Number:
        return sent

    monkeypatch.setattr(traffic, "shown", whole)
    layout = Layout(context_parallel=ranks, stack="megatron", execution=NOTHING_HIDES)
    both = 2 * 8 * 128 * ELEMENT * 4096 / ranks  # 8 heads of keys and of values
    volume = traffic.context_parallel_seconds(_work(layout))
    assert volume == pytest.approx(32 * 3 * (ranks - 1) * both)


VOLUMES: dict[str, tuple[Callable[[Work], Number], dict[str, int]]] = {
    "tensor": (traffic.tensor_parallel_seconds, {"tensor_parallel": 1}),
    "data": (traffic.data_parallel_seconds, {"data_parallel": 1}),
    "pipeline": (traffic.pipeline_seconds, {"pipeline_parallel": 1}),
    "context": (traffic.context_parallel_seconds, {"context_parallel": 1}),
    "expert": (traffic.expert_parallel_seconds, {"expert_parallel": 1}),
}


@pytest.mark.parametrize("axis", sorted(VOLUMES))
def test_one_rank_sends_nothing(axis: str) -> None:
    volume, sizes = VOLUMES[axis]
    layout = Layout(**sizes, stack="megatron", execution=NOTHING_HIDES)
    assert volume(_work(layout, "mixtral-8x7b")) == 0


def test_dualpipe_hides_what_its_pairs_hide() -> None:
    """DeepSeek-AI 2024, section 3.2.1: all-to-all and pipeline traffic behind the other direction;
    an execution that says otherwise wins."""
    sizes = {"pipeline_parallel": 4, "expert_parallel": 8, "data_parallel": 8}
    plain, both, told = (
        _work(Layout(**sizes, stack="megatron", **more), "mixtral-8x7b")
        for more in (
            {},
            {"pipeline_schedule": "dualpipe"},
            {"pipeline_schedule": "dualpipe", "execution": NOTHING_HIDES},
        )
    )
    for volume in (traffic.pipeline_seconds, traffic.expert_parallel_seconds):
        assert volume(both) < volume(plain) == volume(told)
