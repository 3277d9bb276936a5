"""What GPUs exchange in a step, and how much of it shows: time by axis.

Traffic behind compute shows where it takes longer, and slows the compute that hides it; traffic
between two dependent products shows whole, unless the stack overlaps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from planner.hardware.cluster import Cluster
from planner.model.operations import Operation as ModelOperation
from planner.numeric import Number, maximum, minimum, once_each, where
from planner.performance.collectives import Operation, collective_seconds
from planner.performance.dispatch import dispatch_seconds
from planner.performance.machine import Machine
from planner.performance.work import Work
from planner.training.layout import Sharding

# Constants of each dispatcher's kernels, and how many multiprocessors Megatron-Core gives them
# (core/transformer/transformer_config.py: moe_deepep_num_sms, moe_hybridep_num_sms).
_KERNELS: Mapping[str, tuple[str, int]] = {
    "deepep": ("deepep/normal", 20),
    "hybridep": ("hybridep/bf16 kernel", 16),
}


@dataclass(frozen=True)
class Group:
    """Ranks of one parallel axis: how many, and how many GPUs apart."""

    ranks: Number
    stride: Number


def exchange_seconds(
    operation: Operation, message_bytes: Number, group: Group, cluster: Cluster, machine: Machine
) -> Number:
    """One collective of a group of ranks on the cluster's links."""

    def seconds(message: Number, ranks: Number, stride: Number) -> Number:
        # groups that share a node's network share its rails: one GPU's share is what each has
        outward = cluster.outward_bytes_per_second(
            ranks, stride, each_to_each=operation == "all_to_all"
        )
        return collective_seconds(
            operation,
            message,
            ranks,
            ranks_per_domain=cluster.nearest(ranks, stride),
            link_bytes_per_second=cluster.nearest_bytes_per_second(ranks, stride),
            network_bytes_per_second=outward,
            constants=machine.constants.collectives,
        )

    return once_each(seconds, message_bytes, group.ranks, group.stride)


def exposed(traffic: Number, compute: Number, units: Number, interference: float) -> Number:
    """Of traffic hidden behind the neighbouring unit's compute, what shows over all units.

    The first (or last) unit has nothing to hide behind. Collectives take multiprocessors and
    bandwidth from the kernels beside them: `interference` of the hidden time.
    """
    return where(traffic > 0, traffic + (units - 1) * shown(traffic, compute, interference), 0)


def shown(traffic: Number, compute: Number, interference: float) -> Number:
    """What one unit's traffic adds to the compute that it runs beside."""
    return maximum(traffic - compute, 0) + interference * minimum(traffic, compute)


def tensor_parallel_seconds(w: Work) -> Number:
    """Two exchanges of the stream forward and two backward in each layer, again if recomputed [s].

    Of one micro-batch, all layers. An exchange is an all-reduce; with sequence parallelism an
    all-gather, of an input in the products' format, and a reduce-scatter (Korthikanti et al. 2022,
    section 4.2.2). Where the stack's linears are asynchronous, the backward pass sends the inputs'
    gradients beside the products that make the weights', and gathers the inputs that it kept in
    shards beside the others; the gradients that row-parallel ones gather always show.
    """
    layout = w.layout

    def seconds(operation: Operation, itemsize: float) -> Number:
        message = w.stream_bytes * itemsize / w.policy.compute
        group = Group(layout.tensor_parallel, 1)
        once = exchange_seconds(operation, message, group, w.cluster, w.machine)
        return once + w.constants.stream_switch_seconds

    gather: Number = 0
    if layout.sequence_parallel:
        gather = seconds("all_gather", w.policy.exchanged_input or w.policy.compute)
        returned = seconds("reduce_scatter", w.policy.compute)
    else:
        returned = seconds("all_reduce", w.policy.compute)
    forward = 2 * (gather + returned)
    backward, beside = forward, 0 * returned
    if w.stack.asynchronous_linears and w.one_pass.trains_weights:
        backward, beside = 2 * gather, forward
    again = forward if w.repeats_forward else 0
    overlapped = layout.overlaps("tp")
    share = w.constants.tensor_parallel_shown if overlapped else 1.0
    products = w.mean_layer(lambda t: t.backward["products"])
    hidden = shown(beside, products, w.constants.interference)
    total = w.layer_count * (share * (forward + again + backward) + hidden)
    return where(layout.tensor_parallel > 1, total, 0)


def context_parallel_seconds(w: Work) -> Number:
    """Keys and values round the ring, behind the attention of the part at hand [s].

    Of one micro-batch, all layers: each rank sends the keys and values that it has p - 1 times
    forward; backward these and their gradients.
    """
    layout = w.layout
    ranks = layout.context_parallel
    # the ring leaves the node where its ranks do: then some neighbours are in different ones
    inside = w.cluster.nearest(ranks, layout.tensor_parallel)
    group = Group(2, where(inside < ranks, w.cluster.gpus_nearest, layout.tensor_parallel))
    total: Number = 0
    attention = w.mean_layer(lambda t: t.forward["attention"] + t.backward["attention"])
    for count, op in w.operations("attention"):
        width: Number = op.number("kv_heads") * (
            op.number("head_dim") + op.number("value_head_dim")
        )
        width = maximum(width / layout.tensor_parallel, op.number("head_dim"))
        sent = w.one_pass.tokens * width * w.policy.compute
        once = exchange_seconds("send_receive", sent, group, w.cluster, w.machine)
        total = total + count * shown(3 * (ranks - 1) * once, attention, w.constants.interference)
    return where(ranks > 1, total, 0)


def expert_parallel_seconds(w: Work) -> Number:
    """Dispatch and combine, forward and backward, of each layer with experts [s].

    Of one micro-batch, all layers. A plain all-to-all sends a token to each of its experts, as a
    collective; DeepEP and HybridEP have kernels of their own.
    """
    layout = w.layout
    ranks = layout.expert_parallel
    stride = layout.expert_tensor_parallel
    group = Group(ranks, stride)
    total: Number = 0
    for count, op in w.operations("experts"):
        if layout.execution.dispatcher in _KERNELS:
            total = total + count * _dispatched_seconds(w, op, group)
            continue
        sent = w.stream_bytes / layout.tensor_parallel * op.number("top_k")
        once = exchange_seconds("all_to_all", sent, group, w.cluster, w.machine)
        total = total + 4 * count * once
    compute = w.layer_count * w.mean_layer(lambda t: t.forward_seconds + t.backward_seconds)
    if layout.overlaps("ep"):
        total = shown(total, compute, w.constants.expert_shown)
    return where(ranks > 1, total, 0)


def _dispatched_seconds(w: Work, op: ModelOperation, group: Group) -> Number:
    """One layer's dispatch and combine by a library's kernels, there and back.

    The gradient of a dispatch is a combine, and the other way round. Rows are sent as the
    activations are. What a call costs beside its kernels is the host's (step.py).
    """
    cluster = w.cluster
    mode, multiprocessors = _KERNELS[w.layout.execution.dispatcher or ""]

    def seconds(tokens: Number, ranks: Number, stride: Number) -> Number:
        once: Number = 0
        for operation in ("dispatch", "combine"):
            constants = w.machine.constants.dispatch[f"{mode}/{operation}"]
            once = once + dispatch_seconds(
                tokens,
                hidden=op.inputs[0].width,
                top_k=op.number("top_k"),
                experts=op.number("experts"),
                ranks=ranks,
                domains=ranks / cluster.nearest(ranks, stride),
                multiprocessors=multiprocessors,
                constants=replace(constants, element_bytes=w.policy.compute),
                link_bytes_per_second=cluster.nearest_bytes_per_second(ranks, stride),
                network_bytes_per_second=cluster.outward_bytes_per_second(
                    ranks, stride, each_to_each=True
                ),
            )
        return 2 * once

    tokens = w.one_pass.tokens / w.layout.tensor_parallel
    return once_each(seconds, tokens, group.ranks, group.stride)


def pipeline_seconds(w: Work) -> Number:
    """Sending the stream to the next stage and its gradient back, all micro-batches [s].

    Each tensor-parallel rank sends all of it, or its share: of the sequence, or a part that the
    next stage's ranks gather (Narayanan et al. 2021, section 4.1).
    """
    layout = w.layout
    scattered = w.stack.scatters_stage_outputs and not layout.sequence_parallel
    split = layout.tensor_parallel if scattered or layout.sequence_parallel else 1
    stride = layout.data_parallel * layout.tensor_parallel * layout.context_parallel
    once = exchange_seconds(
        "send_receive", w.stream_bytes / split, Group(2, stride), w.cluster, w.machine
    )
    if scattered:
        ranks = Group(layout.tensor_parallel, 1)
        once = once + exchange_seconds("all_gather", w.stream_bytes, ranks, w.cluster, w.machine)
    times = 2 * layout.gradient_accumulation_steps * layout.virtual_pipeline
    share = w.constants.pipeline_shown if layout.overlaps("pp") else 1.0
    return where(layout.pipeline_parallel > 1, share * times * once, 0)


def data_parallel_seconds(w: Work) -> Number:
    """Gathers of parameters and reductions of gradients that the compute does not hide [s]."""
    layout, policy, constants = w.layout, w.policy, w.constants
    ranks, held = layout.replicas, layout.stages_held
    group = Group(ranks, layout.tensor_parallel)
    units = maximum(w.layers_held, 1)
    # a micro-batch passes one of the stages that are held
    forward = w.mean_layer(lambda t: t.forward_seconds) / held
    backward = w.mean_layer(lambda t: t.backward_seconds) / held
    if w.repeats_forward:
        backward = backward + forward

    def seconds(operation: Operation, itemsize: float, elements: Number) -> Number:
        return exchange_seconds(operation, elements * itemsize, group, w.cluster, w.machine)

    def behind(traffic: Number, compute: Number, hides: bool) -> Number:
        if hides:
            return exposed(traffic, compute, units, constants.interference)
        return units * traffic

    hides = layout.overlaps("dp", w.stack.overlaps_data_parallel)
    hides_reduce = hides or layout.overlaps("dp-reduce", w.stack.overlaps_data_parallel)
    gather = seconds("all_gather", policy.gathered, w.layer_elements)
    reduce = seconds("reduce_scatter", policy.reduce, w.trained_elements)
    passes = layout.gradient_accumulation_steps
    regather = where(layout.sharding >= Sharding.zero3, gather, 0)
    units_gathered = passes * (
        behind(gather, forward, hides) + behind(regather + reduce, backward, hides)
    )
    optimizer_divided = behind(reduce, backward, hides_reduce) + behind(gather, forward, hides)
    reduced = seconds("all_reduce", policy.reduce, w.trained_elements)
    total = where(
        layout.sharding >= Sharding.zero1,
        optimizer_divided,
        behind(reduced, backward, hides_reduce),
    )
    if w.stack.gathers_units:
        total = where(layout.sharding >= Sharding.zero2, units_gathered, total)
    return where(ranks > 1, total, 0)


def tied_embedding_seconds(w: Work) -> Number:
    """The shared embedding's gradients, summed between the first and the last stage [s]."""
    layout = w.layout
    if not w.rows.tied or w.recipe.finetune is not None:
        return 0
    stride = layout.data_parallel * layout.tensor_parallel * layout.context_parallel
    group = Group(2, stride * maximum(layout.pipeline_parallel - 1, 1))
    message = w.end_elements[0] * w.policy.gradient
    once = exchange_seconds("all_reduce", message, group, w.cluster, w.machine)
    return where(layout.pipeline_parallel > 1, once, 0)
