"""Peak memory of a training step on one GPU: the largest moment, and what it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from planner.memory.kernels import KERNELS
from planner.memory.moments import CATEGORIES, Parts, Row, Situation, step_rows
from planner.memory.player import Adapters, Numerics, Setting
from planner.memory.profile import ModelRows, model_rows
from planner.memory.shards import holding
from planner.memory.states import optimizer_bytes
from planner.model.operations import Weight
from planner.model.spec import ModelSpec
from planner.numeric import Number, where
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import Precision, precision
from planner.training.recipe import Recipe
from planner.training.stacks import Stack, stack

# Token ids and labels, int64 each, live through the step.
INPUT_BYTES_PER_TOKEN = 16
# embedding_dense_backward sums equal tokens in a float32 scratch of 1.1 x tokens x hidden_size once
# there are more than 3,072 tokens (PyTorch, aten/src/ATen/native/cuda/Embedding.cu; traced).
EMBEDDING_SCRATCH_TOKENS = 3072
EMBEDDING_SCRATCH_FACTOR = 1.1


@dataclass(frozen=True)
class PeakMemory:
    """What torch.cuda.max_memory_allocated would report, without cuBLAS's workspace [bytes]."""

    allocated_bytes: Number
    breakdown: Parts
    phase: str
    where: str
    rows: tuple[Row, ...] = field(repr=False, default=())


def step_peak(
    spec: ModelSpec, recipe: Recipe, layout: Layout, *, embedding_scratch: bool = True
) -> PeakMemory:
    """The peak of one step, from the model's shape alone.

    embedding_scratch: whether the embedding's backward is the GPU kernel (a CPU trace has none).
    """
    kind = stack(layout.stack)
    policy = precision(recipe.precision, layout.stack)
    model = rows_of(
        spec, setting_of(recipe, policy, bool(layout.tensor_parallel > 1)), kind.kernels
    )
    situation = situation_of(spec, recipe, layout, kind, policy, model, embedding_scratch)
    return largest(tuple(step_rows(model, situation)))


def largest(rows: Sequence[Row]) -> PeakMemory:
    """The row with the largest total; for arrays, layout by layout."""
    totals = np.stack(np.broadcast_arrays(*[np.asarray(row.total, float) for row in rows]))
    index = np.argmax(totals, axis=0)
    if totals.ndim == 1:
        row = rows[int(index)]
        parts: Parts = {name: float(row.parts.get(name, 0)) for name in CATEGORIES}
        return PeakMemory(float(totals[index]), parts, row.phase, row.where, tuple(rows))
    peak = np.take_along_axis(totals, index[None], 0)[0]
    breakdown: Parts = {}
    for name in CATEGORIES:
        values = np.stack(
            [np.broadcast_to(np.asarray(r.parts.get(name, 0), float), peak.shape) for r in rows]
        )
        breakdown[name] = np.take_along_axis(values, index[None], 0)[0]
    return PeakMemory(peak, breakdown, "", "", tuple(rows))


def setting_of(recipe: Recipe, policy: Precision, tensor_parallel: bool = False) -> Setting:
    """What the kernels need to know of a recipe."""
    elementwise = 4 if policy.autocast or policy.compute == 4 else policy.compute
    adapters = None
    if recipe.finetune is not None:
        # The frozen weights are bf16 throughout; peft casts an adapter's input to its dtype.
        elementwise = policy.compute
        quantised = recipe.finetune.method == "qlora"
        mixed = recipe.precision != "bf16-pure"
        adapters = Adapters(
            recipe.finetune.rank,
            recipe.finetune.targets,
            policy.compute if policy.autocast or not mixed else 4,
            own_input=mixed and not quantised,
            dequantise=quantised,
        )
    return Setting(
        Numerics(policy.compute, elementwise, elementwise),
        recipe.sequence_length,
        recipe.attention,
        recipe.cross_entropy,
        adapters,
        tensor_parallel=tensor_parallel,
    )


@lru_cache(maxsize=64)
def _cached_rows(key: int, spec: _ById, setting: Setting, code: str) -> ModelRows:
    return model_rows(spec.spec, setting, KERNELS[code])


@dataclass(frozen=True, eq=False)
class _ById:
    spec: ModelSpec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.spec is self.spec


def rows_of(spec: ModelSpec, setting: Setting, code: str) -> ModelRows:
    """The model's rows under a setting; played once per (model, setting, code)."""
    return _cached_rows(id(spec), _ById(spec), setting, code)


def situation_of(
    spec: ModelSpec,
    recipe: Recipe,
    layout: Layout,
    kind: Stack,
    policy: Precision,
    model: ModelRows,
    embedding_scratch: bool,
) -> Situation:
    tokens = layout.micro_batch_size * recipe.sequence_length / layout.context_parallel
    tensor = layout.tensor_parallel
    sequence = tensor if layout.sequence_parallel else 1
    sharded = layout.sharding >= Sharding.zero2 if kind.gathers_units else False
    ranks = where(sharded, layout.sharding_ranks, 1) if kind.gathers_units else 1
    expert = layout.expert_parallel
    columns: tuple[Number, ...] = (
        tokens,
        tokens / sequence,
        tokens / tensor,
        tokens,
        1,
        1,
        1 / tensor,
        1 / expert,
    )
    row = optimizer(recipe.optimizer)
    divide_states = where(layout.sharding >= Sharding.zero1, layout.sharding_ranks, 1)
    trained = [w for x in _trained(spec, model, recipe) for w in x]
    updated = adapter_itemsize(recipe) if recipe.finetune else policy.updated
    states = optimizer_bytes(
        trained,
        layout,
        row,
        updated,
        ranks=ranks if kind.gathers_units else divide_states,
        by_rows=kind.gathers_units,
    )
    held_trained = holding(trained, layout, ranks)
    layers = tuple(holding(x.weights, layout, ranks) for x in model.layers)
    embedding = holding(spec.embedding.block.weights, layout, ranks)
    head = holding(spec.head.block.weights, layout, ranks)
    static: Parts = {
        "weights": _weight_bytes(spec, recipe, layout, policy, ranks),
        "optimizer_states": states,
        "activations": INPUT_BYTES_PER_TOKEN * tokens,
    }
    if recipe.finetune:
        static["weights"] = static["weights"] + updated * held_trained.shard
    elif policy.master:
        static["optimizer_states"] = states + policy.master * held_trained.whole / divide_states
    gradient = updated if recipe.finetune else policy.gradient
    if kind.main_gradients:
        static["gradients"] = gradient * held_trained.whole
    if kind.buckets_double_gradients:
        static["communication_buffers"] = where(
            layout.data_parallel > 1, gradient * held_trained.whole, 0
        )
    temporaries: Number = 0
    if not kind.fused_optimizer:
        temporaries = row.temporary_parameters * updated * held_trained.shard
    scratch: Number = 0
    if embedding_scratch:
        scratch = where(
            tokens > EMBEDDING_SCRATCH_TOKENS,
            EMBEDDING_SCRATCH_FACTOR * tokens * spec.hidden_size * 4,
            0,
        )
    return Situation(
        columns=columns,
        static=static,
        embedding=embedding,
        layers=layers,
        head=head,
        trained_layers=tuple(holding(x.trained, layout, ranks) for x in model.layers),
        data_ranks=ranks,
        compute=policy.compute,
        gradient=gradient,
        reduce=policy.reduce,
        kept_gradient=updated,
        accumulated=where(layout.gradient_accumulation_steps > 1, 1, 0),
        full_recompute=bool(layout.recompute == Recompute.full),
        autocast=policy.autocast,
        tables=model.tables_per_position * recipe.sequence_length,
        mask=model.mask_per_pair * recipe.sequence_length**2,
        gathered=kind.gathers_units and bool(layout.data_parallel > 1),
        keeps_gathered=bool(layout.sharding == Sharding.zero2),
        loss_in_model=kind.loss_in_model,
        prefetched_units=kind.prefetched_units,
        main_gradients=kind.main_gradients,
        optimizer_temporaries=temporaries,
        embedding_scratch=scratch,
        frozen=recipe.finetune is not None,
    )


def _trained(spec: ModelSpec, model: ModelRows, recipe: Recipe) -> list[list[Weight]]:
    """The weights that the optimizer updates: all, or the adapters."""
    if recipe.finetune is None:
        return [[w for _, w in place.weights()] for place in spec.places]
    return [list(x.trained) for x in model.layers for _ in x.positions]


def adapter_itemsize(recipe: Recipe) -> int:
    """LoRA's own weights are float32, but for bf16-pure [bytes]."""
    return 2 if recipe.precision == "bf16-pure" else 4


# NF4 with double quantisation: half a byte, an 8-bit scale per 64 weights, and a float32 scale of
# scales per 256 of those (Dettmers et al. 2023, section 3). int8: a byte and a float32 per row.
NF4_BYTES_PER_WEIGHT = 1 / 2 + 1 / 64 + 4 / (64 * 256)


def _weight_bytes(
    spec: ModelSpec, recipe: Recipe, layout: Layout, policy: Precision, ranks: Number
) -> Number:
    """Stored weights of one GPU; frozen ones in bf16, the layers' matrices of QLoRA in 4 bits."""
    if recipe.finetune is None:
        weights = [w for place in spec.places for _, w in place.weights()]
        extra = policy.quantised_weight
        return policy.parameter * holding(weights, layout, ranks).shard + extra * sum(
            holding(place.block.weights, layout, 1).matrices for place in spec.layers
        )
    layers = [w for place in spec.layers for _, w in place.weights()]
    ends = [w for place in (spec.embedding, spec.head) for _, w in place.weights()]
    total = policy.compute * holding(ends, layout, ranks).shard
    if recipe.finetune.method == "lora":
        return total + policy.compute * holding(layers, layout, ranks).shard
    matrices = [w for w in layers if w.kind in ("matrix", "expert")]
    vectors = [w for w in layers if w.kind not in ("matrix", "expert")]
    return (
        total
        + NF4_BYTES_PER_WEIGHT * holding(matrices, layout, ranks).shard
        + policy.compute * holding(vectors, layout, ranks).shard
    )
