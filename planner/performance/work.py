"""What a step's time is worked out from, once each: blocks priced, sizes of what is exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from planner.hardware.cluster import Cluster
from planner.memory.profile import BlockRows, ModelRows
from planner.memory.rows import Columns
from planner.memory.shards import holding
from planner.model.operations import Operation, Weight
from planner.model.spec import ModelSpec
from planner.numeric import Index, Number, distinct_rows, is_array, where
from planner.performance.block_time import BlockTime, Pass, block_time
from planner.performance.constants import StepConstants
from planner.performance.machine import Machine, machine_of
from planner.performance.matmul import OUTPUT_BYTES
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import Precision
from planner.training.recipe import Recipe
from planner.training.stacks import Stack, stack

_PARALLEL = ("context_parallel", "tensor_parallel", "expert_parallel", "expert_tensor_parallel")


@dataclass(frozen=True)
class _Shapes:
    """The distinct passes of many layouts, and which of them each layout has."""

    few: Pass
    position: Index


@dataclass(frozen=True)
class Work:
    """One step on one of the GPUs, before anything is added up."""

    spec: ModelSpec
    rows: ModelRows
    recipe: Recipe
    layout: Layout
    policy: Precision
    cluster: Cluster
    columns: Columns
    constants: StepConstants

    @cached_property
    def stack(self) -> Stack:
        return stack(self.layout.stack)

    @cached_property
    def machine(self) -> Machine:
        kernel = self.layout.execution.attention_kernel or self.stack.attention_kernel
        return machine_of(self.cluster, self.policy.product, kernel, self.constants)

    @property
    def host_slowdown(self) -> float:
        """Of the CPUs that start the kernels, over a DGX H100's; as fast where nobody measured."""
        return self.cluster.gpu.host_slowdown or 1.0

    @cached_property
    def one_pass(self) -> Pass:
        layout, recipe = self.layout, self.recipe
        fused = layout.execution.cuda_graph == "full"
        return Pass(
            batch=layout.micro_batch_size,
            sequence=recipe.sequence_length / layout.context_parallel,
            context_parallel=layout.context_parallel,
            tensor_parallel=layout.tensor_parallel,
            expert_parallel=layout.expert_parallel,
            expert_tensor_parallel=layout.expert_tensor_parallel,
            columns=self.columns,
            trains_weights=recipe.finetune is None,
            gradient_bytes=self._gradient_bytes(),
            eager_attention=recipe.attention == "eager",
            traffic=self._elementwise_traffic(),
            experts_traffic=self._experts_traffic(),
            fused_experts_traffic=self.constants.traffic_experts_fused if fused else None,
            cast_rows=1 / layout.tensor_parallel if layout.sequence_parallel else 1.0,
            casts_in_norms=self.stack.casts_in_norms,
            sorts_chunks=layout.execution.dispatcher in (None, "alltoall"),
            grouped_library=None if self.stack.kernels == "megatron" else "torch",
            bias_passes=self.constants.expert_bias_passes,
        )

    @cached_property
    def layers(self) -> list[tuple[int, BlockTime]]:
        """Distinct layers, each with how many there are."""
        return [(len(x.positions), self._time_of(x)) for x in self.rows.layers]

    @cached_property
    def ends(self) -> tuple[BlockTime, BlockTime]:
        """Embedding and head."""
        return self._time_of(self.rows.embedding), self._time_of(self.rows.head)

    @property
    def layer_count(self) -> int:
        return self.rows.layer_count

    @property
    def repeats_forward(self) -> bool:
        return self.layout.recompute == Recompute.full

    def mean_layer(self, seconds: Callable[[BlockTime], Number]) -> Number:
        """Of the layers' times."""
        total: Number = sum(count * seconds(time) for count, time in self.layers)
        return total / self.layer_count

    @cached_property
    def stream_bytes(self) -> Number:
        """The residual stream of one micro-batch."""
        return self.one_pass.tokens * self.spec.hidden_size * self.policy.compute

    @cached_property
    def layer_elements(self) -> Number:
        """Mean elements of a layer on one rank of its model-parallel group."""
        return self._mean_elements(lambda x: x.weights)

    @cached_property
    def trained_elements(self) -> Number:
        """Of them, those that get gradients: all, or the adapters."""
        if self.recipe.finetune is None:
            return self.layer_elements
        return self._mean_elements(lambda x: x.trained)

    @cached_property
    def end_elements(self) -> tuple[Number, Number]:
        """Elements of embedding and head."""
        ends = (self.rows.embedding, self.rows.head)
        embedding, head = (holding(x.weights, self.layout, 1).whole for x in ends)
        return embedding, head

    @property
    def steps_on_host(self) -> bool:
        """Whether the optimizer runs on the CPUs."""
        paged = optimizer(self.recipe.optimizer).paged
        return self.stack.steps_on_host(self.layout.offload) and not paged

    @property
    def layers_held(self) -> Number:
        """Layers whose parameters a GPU holds."""
        return self.layout.stages_held * self.layer_count / self.layout.pipeline_parallel

    @cached_property
    def updated_elements(self) -> Number:
        """Elements that one rank's optimizer updates."""
        elements = self.trained_elements * self.layers_held
        if self.recipe.finetune is None:
            elements = elements + sum(self.end_elements)
        sharded = self.layout.sharding >= Sharding.zero1
        return elements / where(sharded, self.layout.sharding_ranks, 1)

    def operations(self, kind: str) -> list[tuple[int, Operation]]:
        """Operations of a kind in the layers, each with how many layers have it."""
        return [
            (len(x.positions), op)
            for x in self.rows.layers
            for op in x.block.operations
            if op.kind == kind
        ]

    def _mean_elements(self, weights: Callable[[BlockRows], Iterable[Weight]]) -> Number:
        total: Number = 0
        for x in self.rows.layers:
            total = total + len(x.positions) * holding(weights(x), self.layout, 1).whole
        return total / self.layer_count

    def _experts_traffic(self) -> float:
        if self.stack.kernels == "megatron":
            return self.constants.traffic_experts
        return self._elementwise_traffic()

    def _gradient_bytes(self) -> float:
        """Main gradients are added to where they are made: read and written each pass."""
        return 2 * self.policy.gradient if self.stack.main_gradients else OUTPUT_BYTES

    def _elementwise_traffic(self) -> float:
        if self.stack.kernels == "megatron":
            if self.recipe.attention == "eager":
                return self.constants.traffic_megatron_eager
            return self.constants.traffic_megatron
        return (
            self.constants.traffic_compiled if self.recipe.compile else self.constants.traffic_eager
        )

    def _time_of(self, block: BlockRows) -> BlockTime:
        """Many layouts have few shapes: each distinct one is priced once."""
        shapes = self._shapes
        if shapes is None:
            return block_time(block, self.machine, self.one_pass)
        return block_time(block, self.machine, shapes.few).at(shapes.position)

    @cached_property
    def _shapes(self) -> _Shapes | None:
        names = ("batch", *_PARALLEL)
        values = [getattr(self.one_pass, name) for name in names]
        if not any(is_array(value) for value in values):
            return None
        mesh = np.broadcast_arrays(*(np.asarray(value, float) for value in values))
        shape = mesh[0].shape
        first, position = distinct_rows([axis.ravel() for axis in mesh])

        def few(value: Number) -> Number:
            return np.broadcast_to(value, shape).ravel()[first] if is_array(value) else value

        changes: dict[str, Any] = {name: few(getattr(self.one_pass, name)) for name in names}
        for name in ("sequence", "cast_rows"):
            changes[name] = few(getattr(self.one_pass, name))
        changes["columns"] = tuple(few(column) for column in self.columns)
        return _Shapes(replace(self.one_pass, **changes), position.reshape(shape))
