"""Transformers before release 4.46 (October 2024): the loss inside each model's own code.

The logits are cast to float32, their last position is cut off by a copy, and the output that the
training loop holds keeps the float32 logits while the loss's backward pass runs.
Source: huggingface/transformers v4.38, models/llama/modeling_llama.py, LlamaForCausalLM.forward.
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import eager
from planner.memory.player import Kernel, Player
from planner.memory.tape import Value
from planner.model.operations import Operation


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (logits,) = player.tape, inputs
    wide = p.cast(t, logits, p.FLOAT32)
    shifted = p.copy(t, wide)
    log_probabilities = t.like(shifted)
    t.step(
        "log_softmax",
        (shifted,),
        (log_probabilities,),
        saves=(log_probabilities, wide),
    )
    loss = player.new(op.outputs[0], p.FLOAT32)
    t.step("nll_loss", (log_probabilities,), (loss,), saves=(log_probabilities,))
    t.step("view", (wide, *player.held), ())  # what the caller holds until here
    return [loss]


KERNELS: dict[str, Kernel] = {**eager.KERNELS, "cross_entropy": cross_entropy}
