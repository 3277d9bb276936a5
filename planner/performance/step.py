"""Time of one training step: blocks on the GPU, traffic between GPUs, bubbles, host, optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.hardware.cluster import Cluster
from planner.memory.profile import BlockRows, ModelRows
from planner.memory.rows import Columns
from planner.memory.shards import holding
from planner.model.flops import model_flops
from planner.model.spec import ModelSpec
from planner.numeric import Number, maximum, where
from planner.performance.block_time import BlockTime, Pass, block_time
from planner.performance.machine import Machine, machine_of
from planner.performance.traffic import Group, exchange_seconds, exposed
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import Precision
from planner.training.recipe import Recipe
from planner.training.stacks import Stack, stack

# Compiled programs and captured graphs start many kernels at once: this share of the host's time is
# left (assumed).
COMPILED_SHARE = 0.25


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
    columns: Columns,
) -> StepEstimate:
    """One optimizer step on one of the GPUs."""
    return _Step(spec, rows, recipe, layout, policy, cluster, columns).estimate()


class _Step:
    """The parts of a step, worked out once each."""

    def __init__(
        self,
        spec: ModelSpec,
        rows: ModelRows,
        recipe: Recipe,
        layout: Layout,
        policy: Precision,
        cluster: Cluster,
        columns: Columns,
    ) -> None:
        self.spec, self.rows, self.recipe, self.layout = spec, rows, recipe, layout
        self.policy, self.cluster = policy, cluster
        self.kind: Stack = stack(layout.stack)
        self.machine: Machine = machine_of(cluster, policy.product, self.kind.attention_kernel)
        sequence = recipe.sequence_length / layout.context_parallel
        self.work = Pass(
            batch=layout.micro_batch_size,
            sequence=sequence,
            keys=recipe.sequence_length,
            tensor_parallel=layout.tensor_parallel,
            expert_parallel=layout.expert_parallel,
            expert_tensor_parallel=layout.expert_tensor_parallel,
            columns=columns,
            trains_weights=recipe.finetune is None,
            eager_attention=recipe.attention == "eager",
        )
        self.layers = [(len(x.positions), self.time_of(x)) for x in rows.layers]
        self.ends = (self.time_of(rows.embedding), self.time_of(rows.head))
        self.passes = layout.gradient_accumulation_steps

    def time_of(self, block: BlockRows) -> BlockTime:
        return block_time(block, self.machine, self.work)

    def estimate(self) -> StepEstimate:
        layout = self.layout
        stages = layout.pipeline_parallel
        compute = self._compute()
        parts = {name: self.passes * seconds / stages for name, seconds in compute.items()}
        parts["tensor_parallel"] = self.passes * self._tensor_parallel()
        parts["expert_parallel"] = self.passes * self._expert_parallel()
        # the GPU waits where the host starts kernels more slowly than they run
        busy: Number = sum(parts.values())
        host = self.passes * (self._host() / stages + self.kind.host_seconds_per_pass)
        parts["host"] = maximum(host - busy, 0)
        parts["pipeline_transfer"] = self._pipeline_transfer()
        whole: Number = sum(parts.values())
        parts["bubble"] = whole * (stages - 1) / (self.passes * layout.virtual_pipeline)
        parts["data_parallel"] = self._data_parallel()
        parts["optimizer"] = self._optimizer() + self.kind.host_seconds_per_step
        flops = model_flops(self.spec, self.recipe.sequence_length)
        again = 1.0 if layout.recompute == Recompute.full else 0.0
        trained = 2.0 if self.recipe.finetune is None else 1.0
        return StepEstimate(
            sum(parts.values()),
            parts,
            flops.training,
            flops.forward * (1 + trained + again),
        )

    def _compute(self) -> dict[str, Number]:
        """Seconds of all blocks for one micro-batch, by part."""
        parts: dict[str, Number] = {}
        blocks = [*self.layers, *((1, end) for end in self.ends)]
        for count, time in blocks:
            for name, seconds in time.forward.items():
                parts[name] = parts.get(name, 0) + count * seconds
            for name, seconds in time.backward.items():
                parts[name] = parts.get(name, 0) + count * seconds
        parts["recompute"] = self._recompute()
        return parts

    def _recompute(self) -> Number:
        """The layers' forward passes that the backward pass runs again."""
        layout = self.layout
        if layout.recompute != Recompute.full:
            return sum(count * time.repeated for count, time in self.layers)
        total: Number = sum(count * time.forward_seconds for count, time in self.layers)
        if layout.recompute_layers is not None:
            layers = sum(count for count, _ in self.layers) / layout.pipeline_parallel
            total = total * layout.recompute_layers / layers
        return total

    def _host(self) -> Number:
        """Time the host needs to start all kernels of one micro-batch."""
        again = 1 if self.layout.recompute == Recompute.full else 0
        kernels = sum(
            count * (time.launches[0] * (1 + again) + time.launches[1])
            for count, time in self.layers
        )
        kernels += sum(sum(end.launches) for end in self.ends)
        share = COMPILED_SHARE if self.recipe.compile else 1.0
        return kernels * self.kind.host_seconds_per_kernel * share

    def _stream_bytes(self) -> Number:
        """The residual stream of one micro-batch."""
        return self.work.tokens * self.spec.hidden_size * self.policy.compute

    def _tensor_parallel(self) -> Number:
        """Two exchanges of the stream forward and two backward in each layer, again if recomputed.

        An all-reduce is as many bytes as an all-gather and a reduce-scatter (Korthikanti et al.
        2022, section 4.2.2).
        """
        layout = self.layout
        group = Group(layout.tensor_parallel, 1)
        once = exchange_seconds(
            "all_reduce", self._stream_bytes(), group, self.cluster, self.machine
        )
        again = 1 if layout.recompute == Recompute.full else 0
        layers = sum(count for count, _ in self.layers) / layout.pipeline_parallel
        return where(layout.tensor_parallel > 1, (4 + 2 * again) * layers * once, 0)

    def _expert_parallel(self) -> Number:
        """Dispatch and combine, forward and backward, of each layer with experts."""
        layout = self.layout
        routed = [
            (len(x.positions), op)
            for x in self.rows.layers
            for op in x.block.operations
            if op.kind == "experts"
        ]
        if not routed:
            return 0
        group = Group(layout.expert_parallel, 1)
        total: Number = 0
        for count, op in routed:
            sent = self._stream_bytes() * op.number("top_k") / layout.tensor_parallel
            once = exchange_seconds("all_to_all", sent, group, self.cluster, self.machine)
            total = total + 4 * count * once
        return where(layout.expert_parallel > 1, total / layout.pipeline_parallel, 0)

    def _pipeline_transfer(self) -> Number:
        """Sending the stream to the next stage and its gradient back, each micro-batch."""
        layout = self.layout
        split = layout.tensor_parallel if layout.sequence_parallel else 1
        stride = layout.data_parallel * layout.tensor_parallel * layout.context_parallel
        once = exchange_seconds(
            "send_receive",
            self._stream_bytes() / split,
            Group(2, stride),
            self.cluster,
            self.machine,
        )
        times = 2 * self.passes * layout.virtual_pipeline
        return where(layout.pipeline_parallel > 1, times * once, 0)

    def _data_parallel(self) -> Number:
        """Gathers and reductions that the compute does not hide."""
        layout, policy = self.layout, self.policy
        ranks = layout.data_parallel * layout.context_parallel
        group = Group(ranks, layout.tensor_parallel)
        stages = layout.pipeline_parallel
        layers = max(int(sum(count for count, _ in self.layers) / float(stages)), 1)
        held = self._layer_elements()
        forward = sum(c * t.forward_seconds for c, t in self.layers) / len_of(self.layers)
        backward = sum(c * t.backward_seconds for c, t in self.layers) / len_of(self.layers)
        again = forward if layout.recompute == Recompute.full else 0

        def seconds(operation: str, itemsize: float, elements: Number) -> Number:
            return exchange_seconds(
                operation,  # type: ignore[arg-type]
                elements * itemsize,
                group,
                self.cluster,
                self.machine,
            )

        reduced = held if self.recipe.finetune is None else self._adapter_elements()
        each_pass = self.kind.gathers_units and bool(layout.sharding >= Sharding.zero2)
        if each_pass:
            gather = seconds("all_gather", policy.compute, held)
            reduce = seconds("reduce_scatter", policy.reduce, reduced)
            regather = gather if layout.sharding >= Sharding.zero3 else 0
            once = exposed(gather, forward, layers)
            once = once + exposed(regather + reduce, backward + again, layers)
            return where(ranks > 1, self.passes * once, 0)
        if layout.sharding >= Sharding.zero1:
            shown = exposed(seconds("reduce_scatter", policy.reduce, reduced), backward, layers)
            shown = shown + exposed(seconds("all_gather", policy.compute, held), forward, layers)
        else:
            shown = exposed(seconds("all_reduce", policy.reduce, reduced), backward, layers)
        return where(ranks > 1, shown, 0)

    def _layer_elements(self) -> Number:
        """Mean elements of a layer on one rank of its model-parallel group."""
        total: Number = 0
        for x in self.rows.layers:
            total = total + len(x.positions) * holding(x.weights, self.layout, 1).whole
        return total / len_of(self.layers)

    def _adapter_elements(self) -> Number:
        total: Number = 0
        for x in self.rows.layers:
            total = total + len(x.positions) * holding(x.trained, self.layout, 1).whole
        return total / len_of(self.layers)

    def _optimizer(self) -> Number:
        """Parameters, gradients and states read and written once by memory-bound kernels."""
        layout, policy = self.layout, self.policy
        layers = sum(count for count, _ in self.layers)
        elements = self._layer_elements() if self.work.trains_weights else self._adapter_elements()
        elements = elements * layers / layout.pipeline_parallel
        if self.work.trains_weights:
            for end in (self.rows.embedding, self.rows.head):
                elements = elements + holding(end.weights, layout, 1).whole
        share = where(layout.sharding >= Sharding.zero1, layout.sharding_ranks, 1)
        states = len(optimizer(self.recipe.optimizer).states)
        # read and write parameter and states, read the gradient, write the low-precision copy
        moved = policy.updated * 2 * (1 + states) + policy.gradient + policy.parameter
        passes = 1.0 if self.kind.fused_optimizer else UNFUSED_OPTIMIZER_PASSES
        return self.machine.moving_seconds(elements / share * moved * passes)


# torch's foreach AdamW runs a dozen kernels over lists of tensors: about three times the traffic of
# a fused one (counted from its reads and writes).
UNFUSED_OPTIMIZER_PASSES = 3.0


def len_of(layers: list[tuple[int, BlockTime]]) -> int:
    return sum(count for count, _ in layers)
