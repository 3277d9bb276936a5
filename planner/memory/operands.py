"""What a delayed weight gradient needs: both operands of its product, kept after the input's."""

from __future__ import annotations

from planner.memory.player import SPLIT_COLUMN, Setting
from planner.memory.sizes import ZERO, Size, plus, size
from planner.model.operations import Block, Operation, Tensor


def operands(block: Block, setting: Setting) -> Size:
    """Bytes of a block's operands: each linear's input, once where several share it, and the
    gradient of its output.

    Source: Qi et al. 2023, section 2 (M_W, what W needs, beside M_B). None with frozen weights,
    whose adapters' gradients are too small to delay.
    """
    if setting.frozen:
        return ZERO
    itemsize = setting.quantised_input or setting.numerics.compute
    linears = [op for op in block.operations if op.kind == "linear"]
    inputs = {op.inputs[0].number: op.inputs[0] for op in linears}
    made = [tensor for op in linears for tensor in op.outputs]
    tensors = [_bytes(tensor, itemsize) for tensor in (*inputs.values(), *made)]
    experts = [_experts(op, itemsize) for op in block.operations if op.kind == "experts"]
    return plus(ZERO, *tensors, *experts)


def _bytes(tensor: Tensor, itemsize: float) -> Size:
    return size(SPLIT_COLUMN[tensor.split], tensor.width * itemsize)


def _experts(op: Operation, itemsize: float) -> Size:
    """Of the copies of a token that go to its experts."""
    width, inner = op.inputs[0].width, op.number("intermediate_size")
    up = 2 * inner if op.fact("gated", True) else inner
    return size("tokens_expert", op.number("top_k") * (width + up + inner + width) * itemsize)
