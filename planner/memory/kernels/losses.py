"""Cross-entropy without whole float32 logits: fused in place, and chunked with the head's product.

fused     one kernel reads the logits and writes their gradient over them (flash-attn's and
          Transformer Engine's cross-entropy): the logits in the compute dtype are all there is.
chunked   the head's product and the loss run over chunks of tokens, forward and backward at once
          (Liger's fused linear cross-entropy): chunks are so many that one chunk's logits are as
          large as the hidden states; the gradient of the hidden states waits for the backward pass.
"""

from __future__ import annotations

from dataclasses import replace

from planner.memory import primitives as p
from planner.memory.player import Kernel, Player
from planner.memory.tape import Value
from planner.model.operations import Block, Operation


def with_choice(standard: Kernel) -> Kernel:
    """The kernel of the chosen cross-entropy; `standard` is the code base's own."""

    def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
        if player.setting.cross_entropy == "standard":
            return standard(player, op, inputs)
        return [fused(player, op, inputs[0])]

    return cross_entropy


def fused(player: Player, op: Operation, logits: Value) -> Value:
    """Keeps the logits; their gradient takes their place."""
    t = player.tape
    loss = player.new(op.outputs[0], p.FLOAT32)
    t.step("fused_cross_entropy", (logits,), (loss,), saves=(logits,), gradients=("kept",))
    return loss


def chunked_head(block: Block) -> Block:
    """A head whose logits are one chunk: as wide per token as the hidden states."""
    width = block.operations[0].inputs[0].width
    narrow = {
        out.number: replace(out, width=min(out.width, width))
        for op in block.operations
        if op.group == "output_head"
        for out in op.outputs
    }

    def narrowed(op: Operation) -> Operation:
        inputs = tuple(narrow.get(x.number, x) for x in op.inputs)
        outputs = tuple(narrow.get(x.number, x) for x in op.outputs)
        return replace(op, inputs=inputs, outputs=outputs)

    return replace(block, operations=tuple(narrowed(op) for op in block.operations))
