"""What torch.compile makes of a code base's layers: elementwise work joined to its neighbours.

The partitioner keeps what matrix products and attention read and write, and works out the
elementwise steps between them again in the backward pass (torch/_functorch/partitioners.py,
min_cut_rematerialization_partition, as inductor calls it; seen on layers of Llama, Qwen 3, Gemma 2,
GPT-NeoX and GPT-2). So a norm keeps its input and a number a row, an activation its input, a gate
and what it is multiplied with, and casts, rotations and scales nothing of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.memory import primitives as p
from planner.memory.kernels import norms, torchtitan
from planner.memory.kernels.liger import fused_gate, gate_inside
from planner.memory.player import Kernel, Player
from planner.memory.tape import Value
from planner.model.operations import Operation


def compiled(kernels: Mapping[str, Kernel]) -> Mapping[str, Kernel]:
    """A code base's kernels as the compiler leaves them."""

    def multiply(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
        gate, up = inputs
        if any(gate.storage.size):
            return kernels["multiply"](player, op, inputs)
        return [fused_gate(player, gate, up)]

    return {
        **kernels,
        "rms_norm": torchtitan.rms_norm,
        "python_layer_norm": norms.layer_norm,
        "activation": activation,
        "multiply": multiply,
        "rotary": rotary,
    }


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    if op.outputs[0].number in player.multiplied:
        return [gate_inside(player, x)]
    return [p.unary(player.tape, x, str(op.fact("function")))]


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply_constant(player.tape, inputs[0], "rotary")]
