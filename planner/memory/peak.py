"""Peak memory of a training step on one GPU: the largest moment, and what it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from planner.memory.gathered import gathered_rows
from planner.memory.kernels import KERNELS, as_run
from planner.memory.player import Adapters, Numerics, Setting
from planner.memory.profile import ModelRows, model_rows
from planner.memory.replicated import replicated_rows
from planner.memory.rows import CATEGORIES, Columns, Parts, Row
from planner.memory.shards import NOTHING, Holding, holding, local_elements
from planner.memory.situation import Situation
from planner.memory.stages import Stage, stages_of
from planner.memory.states import adapter_itemsize, optimizer_bytes, weight_bytes
from planner.model.spec import ModelSpec
from planner.numeric import Number, is_array, where
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import Precision, policy_of
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
    """What torch.cuda.max_memory_allocated would report, without cuBLAS's workspace [bytes].

    host_bytes: what offloading keeps in the host's memory per GPU. activations_bytes: the most that
    activations and logits take in any phase, of one layout.
    """

    allocated_bytes: Number
    breakdown: Parts
    phase: str
    where: str
    stage: str
    host_bytes: Number = 0
    activations_bytes: Number = 0
    rows: tuple[Row, ...] = field(repr=False, default=())


def step_peak(
    spec: ModelSpec, recipe: Recipe, layout: Layout, *, embedding_scratch: bool = True
) -> PeakMemory:
    """The peak of one step, from the model's shape alone.

    embedding_scratch: whether the embedding's backward is the GPU kernel (a CPU trace has none).
    """
    kind = stack(layout.stack)
    policy = policy_of(recipe, layout.stack)
    model = rows_of(spec, setting_of(spec, recipe, policy, layout), kind.kernels)
    rows: list[Row] = []
    host: Number = 0
    for stage in stages_of(model, layout):
        around = _Surroundings(spec, recipe, layout, kind, policy, stage)
        situation = around.situation(embedding_scratch)
        play = gathered_rows if situation.gathered else replicated_rows
        rows += [replace(row, stage=stage.name) for row in play(stage.model, situation)]
        host = around.host_bytes if stage.holds_embedding else host
    return replace(largest(rows), host_bytes=host)


def largest(rows: Sequence[Row]) -> PeakMemory:
    """The row with the largest total; for arrays, layout by layout."""
    if not any(is_array(row.total) for row in rows):
        row = max(rows, key=lambda one: one.total)
        parts: Parts = {name: float(row.parts.get(name, 0)) for name in CATEGORIES}
        total = float(row.total)
        live = max(r.parts.get("activations", 0) + r.parts.get("logits", 0) for r in rows)
        return PeakMemory(
            total,
            parts,
            row.phase,
            row.where,
            row.stage,
            activations_bytes=float(live),
            rows=tuple(rows),
        )
    totals = np.stack(np.broadcast_arrays(*[np.asarray(row.total, float) for row in rows]))
    index = np.argmax(totals, axis=0)
    peak = np.take_along_axis(totals, index[None], 0)[0]
    breakdown: Parts = {}
    for name in CATEGORIES:
        values = np.stack(
            [np.broadcast_to(np.asarray(r.parts.get(name, 0), float), peak.shape) for r in rows]
        )
        breakdown[name] = np.take_along_axis(values, index[None], 0)[0]
    return PeakMemory(peak, breakdown, "", "", "", rows=tuple(rows))


def setting_of(spec: ModelSpec, recipe: Recipe, policy: Precision, layout: Layout) -> Setting:
    """What the kernels need to know of a recipe and a layout."""
    own_attention = stack(layout.stack).own_attention
    eager_only = not own_attention and any(
        op.fact("eager_only") for block in spec.distinct_layers for op in block.operations
    )
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
    modules: tuple[str, ...] = ()
    if layout.recompute == Recompute.selective:
        modules = layout.recompute_modules or stack(layout.stack).selective
    return Setting(
        Numerics(policy.compute, elementwise, elementwise),
        # only written-out scores depend on the length; else every length shares the rows
        recipe.sequence_length if recipe.attention == "eager" or eager_only else 0,
        recipe.attention,
        recipe.cross_entropy,
        adapters,
        tensor_parallel=bool(np.all(layout.tensor_parallel > 1)),
        own_attention=own_attention,
        quantised_input=policy.quantised_input,
        recompute=modules,
    )


@dataclass(frozen=True, eq=False)
class _Same:
    """A model by identity: the key of the cache, which it keeps alive."""

    spec: ModelSpec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.spec is self.spec


@lru_cache(maxsize=64)
def _cached_rows(model: _Same, setting: Setting, code: str) -> ModelRows:
    spec = as_run(model.spec, code, adapters=setting.frozen)
    return model_rows(spec, setting, KERNELS[code])


def rows_of(spec: ModelSpec, setting: Setting, code: str) -> ModelRows:
    """The model's rows under a setting; played once per (model, setting, code).

    A chunked loss is Liger's, whose other kernels come with it.
    """
    if code == "transformers" and setting.cross_entropy == "chunked":
        code = "liger"
    return _cached_rows(_Same(spec), setting, code)


def columns_of(recipe: Recipe, layout: Layout) -> Columns:
    """What each column of sizes.BASIS is multiplied by, on one GPU."""
    tokens = layout.micro_batch_size * recipe.sequence_length / layout.context_parallel
    tensor = layout.tensor_parallel
    sequence = tensor if layout.sequence_parallel else 1
    experts = layout.expert_parallel * layout.expert_tensor_parallel
    return (
        tokens,
        tokens / sequence,
        tokens / tensor,
        tokens / tensor,
        where(layout.micro_batch_size == 1, tokens / tensor, 0),
        where(layout.micro_batch_size == 1, 0, tokens / tensor),
        recipe.sequence_length / layout.context_parallel,
        1,
        1,
        1 / tensor,
        1 / experts,
    )


@dataclass
class _Surroundings:
    """One stage's static bytes and units, from the four nouns."""

    spec: ModelSpec
    recipe: Recipe
    layout: Layout
    kind: Stack
    policy: Precision
    stage: Stage
    host_bytes: Number = 0

    def situation(self, embedding_scratch: bool) -> Situation:
        layout, kind, policy, stage = self.layout, self.kind, self.policy, self.stage
        model = stage.model
        columns = columns_of(self.recipe, self.layout)
        tokens = columns[0]
        length = self.recipe.sequence_length
        pairs = tokens * length
        divided = kind.gathers(layout.sharding)
        ranks = layout.sharding_ranks if divided else 1
        units = tuple(holding(x.weights, layout, ranks) for x in model.layers)
        trained = tuple(holding(x.trained, layout, ranks) for x in model.layers)
        embedding = holding(model.embedding.weights, layout, ranks)
        head = holding(model.head.weights, layout, ranks)
        static, temporaries = self._static(ranks, tokens, trained)
        full = layout.recompute == Recompute.full
        layers = model.layer_count if layout.recompute_layers is None else layout.recompute_layers
        return Situation(
            columns=columns,
            static=static,
            embedding=embedding,
            layers=units,
            head=head,
            trained_layers=trained,
            embedding_made=self._embedding_made(embedding),
            tied=sum(local_elements(w, layout) for w in model.head.block.weights if w.tied_to),
            data_ranks=ranks,
            compute=policy.compute,
            gradient=self.gradient_itemsize,
            reduce=policy.reduce,
            kept_gradient=0 if "optimizer" in layout.offload else self.gradient_itemsize,
            accumulated=where(layout.gradient_accumulation_steps > 1, 1, 0),
            recomputed_layers=layers if full else 0,
            autocast=policy.autocast,
            tables=model.tables_per_position * length + model.masks.saved * pairs,
            mask=model.masks.forward * pairs + model.passing_tables * length,
            kept_mask=model.masks.layers * pairs + model.passing_tables * length if full else 0,
            in_flight=stage.in_flight,
            holds_embedding=stage.holds_embedding,
            holds_head=stage.holds_head,
            gathered=divided,
            keeps_gathered=bool(layout.sharding == Sharding.zero2),
            loss_in_model=kind.loss_in_model,
            prefetched_units=kind.prefetched_units,
            main_gradients=kind.main_gradients and not divided,
            gradient_ranks=self._gradient_ranks,
            optimizer_temporaries=temporaries,
            embedding_scratch=self._scratch(tokens) if embedding_scratch else 0,
            frozen=self.recipe.finetune is not None,
            offloads_activations="activations" in layout.offload,
        )

    def _embedding_made(self, embedding: Holding) -> Number:
        """Elements of the embedding's gradient as made: DTensor's is the whole vocabulary's."""
        if self.kind.gathers_units and self.kind.tensor_parallel:
            return sum(w.elements for w in self.stage.model.embedding.weights)
        return embedding.whole

    @property
    def updated(self) -> float:
        """Element size of what the optimizer updates: the parameters, a master copy, adapters."""
        return adapter_itemsize(self.recipe) if self.recipe.finetune else self.policy.updated

    @property
    def gradient_itemsize(self) -> float:
        return self.updated if self.recipe.finetune else self.policy.gradient

    def _static(
        self, ranks: Number, tokens: Number, trained: tuple[Holding, ...]
    ) -> tuple[Parts, Number]:
        """Bytes that live through the step, and the optimizer step's temporaries."""
        layout, kind, policy, model = self.layout, self.kind, self.policy, self.stage.model
        row = optimizer(self.recipe.optimizer)
        by_rows = kind.gathers(layout.sharding)
        share = where(layout.sharding >= Sharding.zero1, layout.sharding_ranks, 1)
        blocks = [(x.trained, len(x.positions)) for x in model.layers]
        total = NOTHING
        for held, layer in zip(trained, model.layers, strict=True):
            total = total + held.times(len(layer.positions))
        if self.recipe.finetune is None:
            for block, present in (
                (model.embedding, self._counts_embedding),
                (model.head, self.stage.holds_head),
            ):
                if present:
                    blocks.append((block.trained, 1))
                    total = total + holding(block.trained, layout, ranks)
        states: Number = 0
        for weights, count in blocks:
            states = states + count * optimizer_bytes(
                weights,
                layout,
                row,
                self.updated,
                ranks=ranks if by_rows else share,
                by_rows=by_rows,
                master=policy.master if self.recipe.finetune is None else 0.0,
            )
        weights_held = weight_bytes(
            self.stage, self.recipe, layout, policy, ranks, self._counts_embedding, by_rows
        )
        if self.stage.holds_embedding:
            weights_held = weights_held + self.spec.buffer_bytes
        if self.recipe.finetune:
            weights_held = weights_held + self.updated * total.shard
        temporaries: Number = 0
        if not kind.fused_optimizer:
            temporaries = row.temporary_parameters * self.updated * total.shard
        if self.recipe.finetune is None:
            updated = total.shard if by_rows else total.whole / share
            temporaries = temporaries + policy.step_gradient * updated
        offload = layout.offload
        if "optimizer" in offload:
            self.host_bytes = self.host_bytes + states
            states, temporaries = 0, 0
        if "parameters" in offload:
            self.host_bytes = self.host_bytes + weights_held
            weights_held = 0
        static: Parts = {
            "weights": weights_held,
            "optimizer_states": states,
            "activations": INPUT_BYTES_PER_TOKEN * tokens,
        }
        if kind.keeps_stage_outputs and not self.stage.holds_head:
            stream = policy.compute * self.spec.hidden_size * columns_of(self.recipe, layout)[1]
            static["activations"] = static["activations"] + self.stage.in_flight * stream
        if kind.main_gradients and not by_rows:
            static["gradients"] = self.gradient_itemsize * total.whole / self._gradient_ranks
        buckets: Number = kind.reduce_bucket_bytes + kind.gather_bucket_bytes
        if kind.buckets_double_gradients:
            buckets = self.gradient_itemsize * total.whole
        static["communication_buffers"] = where(layout.data_parallel > 1, buckets, 0)
        return static, temporaries

    @property
    def _gradient_ranks(self) -> Number:
        """Ranks that divide the gradients of weights that each holds whole (ZeRO-2)."""
        return where(self.layout.sharding >= Sharding.zero2, self.layout.sharding_ranks, 1)

    @property
    def _counts_embedding(self) -> bool:
        """Whether the stage holds the embedding's matrix: its own, or the head's tied copy."""
        return self.stage.holds_embedding or (self.stage.model.tied and self.stage.holds_head)

    def _scratch(self, tokens: Number) -> Number:
        return where(
            tokens > EMBEDDING_SCRATCH_TOKENS,
            EMBEDDING_SCRATCH_FACTOR * tokens * self.spec.hidden_size * 4,
            0,
        )
