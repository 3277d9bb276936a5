"""One stage's situation on one GPU, from model, recipe, layout and stack: its static bytes, its
units, and what each column of the tape is multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.memory.profile import BlockRows
from planner.memory.rows import Columns, Parts, amount
from planner.memory.shards import NOTHING, Holding, holding, local_elements
from planner.memory.situation import Situation
from planner.memory.stages import Stage
from planner.memory.states import (
    adapter_itemsize,
    optimizer_bytes,
    packed_itemsize,
    weight_bytes,
)
from planner.model.spec import ModelSpec
from planner.numeric import Number, where
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import Precision
from planner.training.recipe import Recipe
from planner.training.stacks import Stack

# Token ids and labels, int64 each, live through the step.
INPUT_BYTES_PER_TOKEN = 16
# embedding_dense_backward sums equal tokens in a float32 scratch of 1.1 x tokens x hidden_size once
# there are more than 3,072 tokens (PyTorch, aten/src/ATen/native/cuda/Embedding.cu; traced).
EMBEDDING_SCRATCH_TOKENS = 3072
EMBEDDING_SCRATCH_FACTOR = 1.1


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


@dataclass(frozen=True)
class Surroundings:
    """One stage's static bytes and units, from the four nouns."""

    spec: ModelSpec
    recipe: Recipe
    layout: Layout
    kind: Stack
    policy: Precision
    stage: Stage

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
        static, temporaries, host = self._static(ranks, tokens, trained)
        full = layout.recompute == Recompute.full
        layers = model.layer_count if layout.recompute_layers is None else layout.recompute_layers
        return Situation(
            columns=columns,
            static=static,
            host=host,
            embedding=embedding,
            layers=units,
            head=head,
            trained_layers=trained,
            embedding_made=self._embedding_made(embedding),
            tied=sum(local_elements(w, layout) for w in model.head.block.weights if w.tied_to),
            data_ranks=ranks,
            layer_itemsize=packed_itemsize(self.recipe) or policy.compute,
            compute=policy.compute,
            gradient=self.gradient_itemsize,
            reduce=policy.reduce,
            kept_gradient=0 if kind.steps_on_host(layout.offload) else self.gradient_itemsize,
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
            root_unit=kind.root_unit,
            main_gradients=kind.main_gradients and not divided,
            gradient_ranks=self._gradient_ranks,
            optimizer_temporaries=temporaries,
            embedding_scratch=self._scratch(tokens) if embedding_scratch else 0,
            frozen=self.recipe.finetune is not None,
            offloaded_layers=layout.layers_offloaded(model.layer_count),
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

    def _trained(self, ranks: Number, layers: tuple[Holding, ...]) -> Holding:
        """All that the optimizer updates on this stage."""
        total = NOTHING
        for held, layer in zip(layers, self.stage.model.layers, strict=True):
            total = total + held.times(len(layer.positions))
        for block in self._trained_ends:
            total = total + holding(block.trained, self.layout, ranks)
        return total

    @property
    def _trained_ends(self) -> tuple[BlockRows, ...]:
        """Embedding and head, where this stage holds and trains them."""
        model = self.stage.model
        if self.recipe.finetune is not None:
            return ()
        embedding = (model.embedding,) if self._counts_embedding else ()
        return (*embedding, model.head) if self.stage.holds_head else embedding

    @property
    def _state_ranks(self) -> Number:
        """Ranks among which the optimizer's states are divided."""
        return where(self.layout.sharding >= Sharding.zero1, self.layout.sharding_ranks, 1)

    def _optimizer_states(self, ranks: Number, by_rows: bool) -> Number:
        """States and master copies [bytes]."""
        blocks = [(x.trained, len(x.positions)) for x in self.stage.model.layers]
        blocks += [(end.trained, 1) for end in self._trained_ends]
        total: Number = 0
        for weights, count in blocks:
            total = total + count * optimizer_bytes(
                weights,
                self.layout,
                optimizer(self.recipe.optimizer),
                self.updated,
                ranks=ranks if by_rows else self._state_ranks,
                by_rows=by_rows,
                master=self.policy.master if self.recipe.finetune is None else 0.0,
            )
        return total

    def _weights(self, ranks: Number, by_rows: bool, trained: Holding) -> Number:
        """Stored weights, buffers and adapters [bytes]."""
        held = weight_bytes(
            self.stage,
            self.recipe,
            self.layout,
            self.policy,
            ranks,
            self._counts_embedding,
            by_rows,
        )
        if self.stage.holds_embedding:
            itemsize = self.policy.compute if self.recipe.finetune else self.policy.parameter
            held = held + self.spec.buffer_bytes + itemsize * self.spec.buffer_elements
        return held + self.updated * trained.shard if self.recipe.finetune else held

    def _step_temporaries(self, by_rows: bool, trained: Holding) -> Number:
        """What lives only during the optimizer's step [bytes]."""
        total: Number = 0
        if not self.kind.fused_optimizer:
            row = optimizer(self.recipe.optimizer)
            temporaries = self.kind.step_copies * row.temporary_parameters
            total = temporaries * self.updated * trained.shard
        if self.recipe.finetune is None:
            updated = trained.shard if by_rows else trained.whole / self._state_ranks
            total = total + self.policy.step_gradient * updated
        return total

    def _static(
        self, ranks: Number, tokens: Number, layers: tuple[Holding, ...]
    ) -> tuple[Parts, Number, Number]:
        """Bytes that live through the step, the optimizer step's temporaries, and bytes that the
        host's memory keeps instead."""
        layout, kind = self.layout, self.kind
        by_rows = kind.gathers(layout.sharding)
        trained = self._trained(ranks, layers)
        states = self._optimizer_states(ranks, by_rows)
        weights = self._weights(ranks, by_rows, trained)
        temporaries = self._step_temporaries(by_rows, trained)
        host: Number = 0
        if kind.steps_on_host(layout.offload):
            # the host's optimizer needs the gradients beside its states
            updated = trained.shard if by_rows else trained.whole / self._state_ranks
            host = states + self.gradient_itemsize * updated
            states, temporaries = 0, 0
        if "parameters" in layout.offload:
            host, weights = host + weights, 0
        static: Parts = {
            "weights": weights,
            "optimizer_states": states,
            "saved_activations": INPUT_BYTES_PER_TOKEN * tokens
            + self._stage_outputs()
            + self._waiting_operands(),
            "reductions": self._buckets(trained),
        }
        if kind.main_gradients and not by_rows:
            static["gradients"] = self.gradient_itemsize * trained.whole / self._gradient_ranks
        if kind.flat_gradients and by_rows and self.recipe.finetune is not None:
            static["gradients"] = self._flat_gradients(ranks)
        return static, temporaries, host

    def _flat_gradients(self, ranks: Number) -> Number:
        """Of layers whose adapters lie in one flat parameter with the frozen weights: as large as
        all of it, and whole between the passes of a step."""
        total: Number = 0
        for layer in self.stage.model.layers:
            held = holding(layer.weights, self.layout, ranks)
            kept = where(self.layout.gradient_accumulation_steps > 1, held.whole, held.shard)
            total = total + len(layer.positions) * kept
        return self.policy.compute * total

    def _stage_outputs(self) -> Number:
        """Outputs sent to the next stage, where the stack keeps them until their backward."""
        if not self.kind.keeps_stage_outputs or self.stage.holds_head:
            return 0
        stream = columns_of(self.recipe, self.layout)[1] * self.spec.hidden_size
        return self.stage.in_flight * self.policy.compute * stream

    def _waiting_operands(self) -> Number:
        """Of micro-batches whose weight gradients the schedule has put off."""
        columns = columns_of(self.recipe, self.layout)
        each = sum(len(x.positions) * amount(x.operands, columns) for x in self.stage.model.layers)
        return self.stage.waiting * each

    def _buckets(self, trained: Holding) -> Number:
        """Fixed communication buffers of data parallelism."""
        buckets: Number = self.kind.reduce_bucket_bytes + self.kind.gather_bucket_bytes
        if self.kind.buckets_double_gradients:
            buckets = self.gradient_itemsize * trained.whole
        return where(self.layout.data_parallel > 1, buckets, 0)

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
