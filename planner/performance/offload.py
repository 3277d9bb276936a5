"""What offloading to the host's memory costs in a step: copies over the slot, the host's optimizer.

Copies run beside compute, on engines of their own; what takes longer than the compute shows.
"""

from __future__ import annotations

from planner.memory.rows import amount
from planner.memory.situation import layers_away
from planner.memory.states import stored_itemsize
from planner.numeric import Number, maximum, where
from planner.performance.work import Work
from planner.training.optimizers import optimizer, state_bytes_per_element

# Of a slot's rate, what copies from pinned memory reach: 24.8 of 31.5 GB/s, A100 on PCIe 4
# (nvbandwidth, forums.developer.nvidia.com/t/352186).
HOST_LINK_EFFICIENCY = 0.79
# Bytes that the optimizer of a node's CPUs reads and writes: DeepSpeed's CPU Adam takes 2.6 s for
# 10e9 parameters of 28 bytes on a DGX-2 (Ren et al. 2021, ZeRO-Offload, table 4; recalled).
HOST_OPTIMIZER_BYTES_PER_SECOND = 10e9 * 28 / 2.6
_STATE_BYTES = 4.0  # states and master copies stand in the host's memory in float32


def offload_seconds(w: Work) -> Number:
    """Copies to and from the host's memory that the compute of a step does not hide [s]."""
    offload, passes = w.layout.offload, w.layout.gradient_accumulation_steps
    layers = w.layers_held
    ahead = w.mean_layer(lambda t: t.forward_seconds)
    back = w.mean_layer(lambda t: t.backward_seconds)
    kept, held = _kept_bytes(w), _held_bytes(w)
    # of a layer and pass: weights come in twice; activations go out, and come in for the backward,
    # which sets its pace (both directions run at once)
    shown = maximum(_copied(w, maximum(held, kept)) - ahead, 0)
    shown = shown + maximum(_copied(w, held + kept) - back, 0)
    total = passes * layers * shown
    trained = w.recipe.finetune is None
    if "parameters" in offload and trained and not w.steps_on_host:
        # brought once more for the step, and written back
        total = total + 2 * layers * _copied(w, held)
    if w.steps_on_host:
        gradients = _copied(w, w.updated_elements * w.policy.gradient)
        total = total + maximum(gradients - layers * back, 0)
        if "parameters" not in offload:
            total = total + _copied(w, w.updated_elements * w.policy.parameter)
    elif "optimizer" in offload:  # pages of states, in and out at once
        total = total + _copied(w, w.updated_elements * _state_bytes(w))
    return total


def host_optimizer_seconds(w: Work) -> Number:
    """The optimizer's step on the CPUs, which all GPUs of a node share [s].

    A parameter, its gradient and states are read, all but the gradient written.
    """
    states = len(optimizer(w.recipe.optimizer).states)
    moved = (2 * (1 + states) + 1) * _STATE_BYTES * w.updated_elements
    return moved * w.cluster.gpus_per_node / HOST_OPTIMIZER_BYTES_PER_SECOND


def _state_bytes(w: Work) -> float:
    """Of the states of one element of a matrix."""
    row = optimizer(w.recipe.optimizer)
    weight = max(w.rows.layers[0].block.weights, key=lambda one: one.elements)
    return sum(state_bytes_per_element(s, weight, w.policy.updated) for s in row.states)


def _copied(w: Work, size: Number) -> Number:
    """One direction [s]."""
    return size / (w.cluster.host_bytes_per_second * HOST_LINK_EFFICIENCY)


def _kept_bytes(w: Work) -> Number:
    """What a layer sends away of one micro-batch, mean of the layers."""
    total: Number = 0
    for layer in w.rows.layers:
        kept = layer.input if w.repeats_forward else layer.kept
        total = total + len(layer.positions) * amount(kept, w.columns)
    offloaded = w.layout.layers_offloaded(w.layers_held)
    return layers_away(w.layers_held, offloaded) / w.layers_held * total / w.layer_count


def _held_bytes(w: Work) -> Number:
    """Stored weights of a layer on one GPU: its shard where parameters are gathered."""
    layout = w.layout
    if "parameters" not in layout.offload:
        return 0
    divided = where(layout.sharding >= w.stack.gathers_from, layout.sharding_ranks, 1)
    held = w.layer_elements * stored_itemsize(w.recipe, w.policy)
    return held / (divided if w.stack.gathers_units else 1)
