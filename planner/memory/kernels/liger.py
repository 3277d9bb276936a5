"""Transformers' models with Liger's kernels, which come with its fused linear cross-entropy.

RMSNorm in one kernel; the gate's activation and the product with it in one, which keeps gate and up
and writes their gradients over them; rotary in place.
Source: linkedin/Liger-Kernel, ops/rms_norm.py, ops/swiglu.py, ops/rope.py.
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import eager, torchtitan
from planner.memory.player import Kernel, Player
from planner.memory.sizes import ZERO
from planner.memory.tape import Storage, Value
from planner.model.operations import Operation


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """SiLU is a gate's: no tensor of its own, the product's kernel works it out."""
    if op.fact("function") != "silu":
        return eager.KERNELS["activation"](player, op, inputs)
    return [gate_inside(player, inputs[0])]


def gate_inside(player: Player, gate: Value) -> Value:
    """An activation that exists only inside the product's kernel, which reads the gate."""
    inside = Value(Storage(ZERO), gate.width, gate.itemsize, gate.column)
    player.tape.step("view", (gate,), (inside,), saves=(gate,), gradients=("kept",))
    return inside


def multiply(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    gate, up = inputs
    if any(gate.storage.size):
        return eager.multiply(player, op, inputs)
    return [fused_gate(player, gate, up, gradients=("kept",) * 2)]


def fused_gate(
    player: Player, gate: Value, up: Value, gradients: tuple[str, ...] | None = None
) -> Value:
    """Activation and product in one kernel; gradients "kept": written over gate and up."""
    out = player.tape.like(up)
    player.tape.step("gated_activation", (gate, up), (out,), saves=(up,), gradients=gradients)
    return out


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply_constant(player.tape, inputs[0], "rotary")]


KERNELS: dict[str, Kernel] = {
    **eager.KERNELS,
    "rms_norm": torchtitan.rms_norm,
    "activation": activation,
    "multiply": multiply,
    "rotary": rotary,
}
