"""torchtune's own models (pytorch/torchtune, modules/attention.py, rms_norm.py, loss/).

As torchtitan's, but keys and values are written out for all query heads before the fused attention,
and the loss runs over chunks of the logits, each cast to float32 by itself: the logits in the
compute dtype are all that is there at once.
"""

from __future__ import annotations

from planner.memory.kernels import attention, eager, losses, torchtitan
from planner.memory.player import Kernel, Player
from planner.memory.tape import Value
from planner.model.operations import Operation


def expanded_attention(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    q, k, v = inputs
    times = op.number("heads") // op.number("kv_heads")
    if times > 1:
        k, v = (attention.repeated(player, x, times) for x in (k, v))
    return attention.attention(player, op, [q, k, v])


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [losses.fused(player, op, inputs[0])]


KERNELS: dict[str, Kernel] = {
    **eager.KERNELS,
    "rms_norm": torchtitan.rms_norm,
    "rotary": torchtitan.rotary,
    "attention": expanded_attention,
    "cross_entropy": cross_entropy,
}
