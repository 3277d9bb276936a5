"""Time of one training step: what each operation computes and moves, and what GPUs exchange.

The first, plain form: FLOPs over an attainable share of the dense peak, bytes over an attainable
share of the bandwidth, messages by latency and bandwidth, overlap as the stack has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.hardware.cluster import Cluster
from planner.memory.profile import BlockRows, ModelRows
from planner.model.flops import FlopCount, block_flops, model_flops
from planner.model.spec import ModelSpec
from planner.numeric import Number, maximum, where
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.precision import Precision
from planner.training.recipe import Recipe

# Attainable share of the dense peak for large matrix products of a long step: the fit over nine
# GPUs of measured cuBLAS products gives 0.70 to 0.72 (aiconfigurator tables, bf16, m >= 4096).
PRODUCT_EFFICIENCY = 0.70
# Fused attention over the same peak, forward and backward together: FlashAttention and cuDNN reach
# 0.55 to 0.75 forward and about 0.45 to 0.6 backward at head size 128 (measured tables).
ATTENTION_EFFICIENCY = 0.50
# Memory-bound kernels reach this share of the peak bandwidth (measured norms, casts, activations).
BANDWIDTH_EFFICIENCY = 0.80
# Bus bandwidth of large NCCL collectives over the link's rate: 0.70 to 0.80 measured inside a node,
# 0.80 to 0.86 over InfiniBand.
LINK_EFFICIENCY = 0.75
# Latency of a collective per doubling of the ranks [s]: NCCL on NVLink, measured 10 to 25 us at 8.
COLLECTIVE_LATENCY_SECONDS = 6e-6
# Host time to start one kernel of an eager program, Python and dispatcher included [s]; compiled
# or captured graphs need a fraction of it.
HOST_SECONDS_PER_KERNEL = 6e-6
# The optimizer's fused kernels read and write parameter, gradient and states once.
OPTIMIZER_PASSES = 2.0


@dataclass(frozen=True)
class StepEstimate:
    """Seconds by part; the parts add up to step_seconds."""

    step_seconds: Number
    breakdown_seconds: dict[str, Number] = field(default_factory=dict)
    model_flops_per_token: float = 0.0
    hardware_flops_per_token: float = 0.0


def step_time(
    spec: ModelSpec,
    rows: ModelRows,
    recipe: Recipe,
    layout: Layout,
    policy: Precision,
    cluster: Cluster,
) -> StepEstimate:
    """One optimizer step on one of the GPUs."""
    tokens = layout.micro_batch_size * recipe.sequence_length / layout.context_parallel
    share = layout.tensor_parallel * layout.pipeline_parallel
    gpu = cluster.gpu
    peak = gpu.peak(policy.product) or gpu.peak("bf16") or gpu.peak("fp32") or 1.0
    attention_peak = gpu.peak("bf16") or peak
    bandwidth = gpu.memory_bandwidth_bytes_per_second * BANDWIDTH_EFFICIENCY
    full = model_flops(spec, recipe.sequence_length)
    passes = layout.gradient_accumulation_steps
    trained = 2.0 if recipe.finetune is None else 1.0  # no weight gradients of frozen matrices

    def compute(flops: FlopCount, times: float) -> Number:
        products = times * flops.products * tokens / share / (peak * PRODUCT_EFFICIENCY)
        heads = times * flops.attention * tokens / share
        return products + heads / (attention_peak * ATTENTION_EFFICIENCY)

    layers = _layers_flops(spec, recipe.sequence_length)
    recompute = where(layout.recompute == Recompute.full, 1.0, 0.0)
    moved_forward, moved_backward, launches = _movement(rows, tokens, layout)
    moving = (moved_forward * (1 + recompute) + moved_backward) / bandwidth
    seconds: dict[str, Number] = {
        "forward": passes * compute(full, 1.0),
        "backward": passes * compute(full, trained),
        "recompute": passes * recompute * compute(layers, 1.0),
        "elementwise": passes * moving,
    }
    busy = sum(seconds.values())
    host = passes * launches * (1 + recompute / 2) * HOST_SECONDS_PER_KERNEL
    if recipe.compile:
        host = host / 4
    seconds["host"] = maximum(host - busy, 0)
    stages = layout.pipeline_parallel
    seconds["bubble"] = (stages - 1) / (passes * layout.virtual_pipeline) * (busy + seconds["host"])
    seconds.update(_communication(spec, layout, recipe, policy, cluster, tokens, seconds))
    held = _parameters(spec) / share
    per_gpu = held / where(layout.sharding >= Sharding.zero1, layout.sharding_ranks, 1)
    state_bytes = 2 * policy.updated + policy.updated + policy.gradient
    if recipe.finetune is None:
        seconds["optimizer"] = OPTIMIZER_PASSES * per_gpu * state_bytes / bandwidth
    total: Number = sum(seconds.values())
    hardware = full.forward * (1 + trained) + layers.forward * float(
        1 if layout.recompute == Recompute.full else 0
    )
    return StepEstimate(total, seconds, full.training, hardware)


def _parameters(spec: ModelSpec) -> int:
    return sum(w.parameters for place in spec.places for _, w in place.weights())


def _layers_flops(spec: ModelSpec, sequence_length: int) -> FlopCount:
    products = attention = 0.0
    cache: dict[int, FlopCount] = {}
    for place in spec.layers:
        key = id(place.block)
        if key not in cache:
            cache[key] = block_flops(place.block, sequence_length)
        products += cache[key].products
        attention += cache[key].attention
    return FlopCount(products, attention)


def _movement(rows: ModelRows, tokens: Number, layout: Layout) -> tuple[Number, Number, Number]:
    """Bytes that elementwise kernels move forward and backward, and kernels started, per pass."""
    forward: Number = 0
    backward: Number = 0
    launches: Number = 0
    blocks: list[tuple[int, BlockRows]] = [(1, rows.embedding), (1, rows.head)]
    blocks += [(len(x.positions), x) for x in rows.layers]
    for times, block in blocks:
        first, second = block.profile.moved
        forward = forward + times * sum(first[:4]) * tokens
        backward = backward + times * sum(second[:4]) * tokens
        launches = launches + times * sum(block.profile.launches)
    split = layout.tensor_parallel * layout.pipeline_parallel
    return forward / split, backward / split, launches / layout.pipeline_parallel


def _communication(
    spec: ModelSpec,
    layout: Layout,
    recipe: Recipe,
    policy: Precision,
    cluster: Cluster,
    tokens: Number,
    seconds: dict[str, Number],
) -> dict[str, Number]:
    """Exposed seconds of each axis; data-parallel traffic hides behind the passes it overlaps."""
    out: dict[str, Number] = {}
    share = layout.tensor_parallel * layout.pipeline_parallel
    held = _parameters(spec) / share
    ranks = layout.data_parallel
    passes = layout.gradient_accumulation_steps
    rate = cluster.bytes_per_second(maximum(ranks, 2), layout.tensor_parallel) * LINK_EFFICIENCY
    fraction = (ranks - 1) / maximum(ranks, 1)
    latency = COLLECTIVE_LATENCY_SECONDS * maximum(ranks - 1, 0) ** 0.5
    trained = 1.0 if recipe.finetune is None else 0.02
    gathers = where(layout.sharding >= Sharding.zero3, 2.0, where(layout.sharding >= 1, 1.0, 0.0))
    each_pass = where(layout.sharding >= Sharding.zero2, passes, 1)
    reduce_passes = where(layout.sharding == Sharding.none, 2.0, 1.0)
    gather = gathers * each_pass * held * policy.compute * fraction / rate
    reduce = reduce_passes * each_pass * held * trained * policy.reduce * fraction / rate
    units = len(spec.layers) + 2
    waiting = where(ranks > 1, each_pass * units * 3 * latency, 0)
    hidden = OVERLAPPED_SHARE * (seconds["forward"] + seconds["backward"] + seconds["recompute"])
    out["data_parallel"] = maximum(gather + reduce + waiting - hidden, 0.05 * (gather + reduce))
    t = layout.tensor_parallel
    per_layer = 4 * tokens * spec.hidden_size * policy.compute * 2 * (t - 1) / maximum(t, 1)
    local = cluster.bytes_per_second(maximum(t, 2)) * LINK_EFFICIENCY
    layers = len(spec.layers) / layout.pipeline_parallel
    out["tensor_parallel"] = where(t > 1, passes * layers * per_layer / local, 0)
    return out


# Share of the passes' compute behind which FSDP and DDP hide their traffic: prefetch covers all
# but the first and last units and the slowdown of overlapped products (assumed).
OVERLAPPED_SHARE = 0.85
