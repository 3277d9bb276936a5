"""Models that a training code for FSDP version 1 writes itself (llm-foundry's MPT, fms-fsdp).

Beside Transformers' kernels: attention is fused in every family, and the loss is taken of the
logits in their own dtype (torch.nn.functional.cross_entropy, no float32 copy of them).
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import eager
from planner.memory.player import Kernel, Player
from planner.memory.tape import Value
from planner.model.operations import Operation


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Log-softmax (kept), negative log-likelihood."""
    if player.setting.frozen:  # adapters are put into Transformers' models
        return eager.cross_entropy(player, op, inputs)
    t, (logits,) = player.tape, inputs
    log_probabilities = p.unary(t, logits, "log_softmax", keeps="output")
    loss = player.new(op.outputs[0], logits.itemsize)
    t.step("nll_loss", (log_probabilities,), (loss,), saves=(log_probabilities,))
    t.step("view", (logits,), ())  # the caller holds the logits until here
    return [loss]


KERNELS: dict[str, Kernel] = {**eager.KERNELS, "cross_entropy": cross_entropy}
