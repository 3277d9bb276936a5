"""Kernels of torchtitan's own models: fused RMSNorm, complex rotary in float32, loss outside.

With tensor parallelism (torch.distributed.tensor): the residual stream is split along the sequence,
the input of each attention and feed-forward is gathered whole, and the loss runs on split logits.
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import eager
from planner.memory.player import Kernel, Player
from planner.memory.sizes import ZERO, Size
from planner.memory.tape import Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32


def rms_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The fused kernel: keeps its input and 1/rms of each row."""
    t, (x,) = player.tape, inputs
    out = t.like(x)
    heads = op.fact("heads") or 1
    assert isinstance(heads, int)
    rows = t.value(heads, FLOAT32, x.column)
    t.step(
        "rms_norm",
        (x,),
        (out,),
        saves=(x, rows),
        weight_gradient=player.gradient(*op.weights) if player.trainable() else ZERO,
    )
    return [out]


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Pairs as complex numbers in float32, turned, and cast back."""
    t, (x,) = player.tape, inputs
    turned = p.multiply_constant(t, p.cast(t, x, FLOAT32))
    return [p.cast(t, turned, x.itemsize)]


def linear(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Column splits read the gathered stream; row splits reduce and scatter their result."""
    if not player.setting.tensor_parallel:
        return eager.linear(player, op, inputs)
    t, (x,) = player.tape, inputs
    out = op.outputs[0]
    gradient = player.gradient(*op.weights)
    if out.split == "tensor":
        whole = player.gathered.get(x.storage)
        if whole is None:
            whole = t.value(x.width, x.itemsize, "tokens_whole")
            communicate(player, "all_gather", x, whole, p.full_size(whole))
            player.gathered[x.storage] = whole
        return [p.linear(t, whole, out.width, "tokens_tensor", gradient)]
    partial = p.linear(t, x, out.width, "tokens_whole", gradient)
    scattered = t.value(out.width, partial.itemsize, "tokens_sequence")
    communicate(player, "reduce_scatter", partial, scattered, p.full_size(partial))
    return [scattered]


def communicate(player: Player, name: str, x: Value, out: Value, whole: Size) -> None:
    """A collective along the sequence, the second axis: its ranks' parts lie one behind another, so
    that the whole is written once more before a reduction, or after a gather (funcol)."""
    player.tape.step(name, (x,), (out,), forward_scratch=whole, backward_scratch=whole)


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Float32 logits; with split logits the shifted logits and their exponentials as well."""
    if not player.setting.tensor_parallel:
        return eager.cross_entropy(player, op, inputs)
    t, (logits,) = player.tape, inputs
    wide = p.cast(t, logits, FLOAT32)
    shifted = t.like(wide)
    t.step("shift", (wide,), (shifted,), gradients=("same",))
    log_probabilities = t.like(shifted)
    t.step(
        "log_softmax",
        (shifted,),
        (log_probabilities,),
        saves=(log_probabilities,),
        forward_scratch=ZERO,
        backward_scratch=p.full_size(shifted),
    )
    loss = player.new(op.outputs[0], FLOAT32)
    t.step("nll_loss", (log_probabilities,), (loss,), saves=(log_probabilities,))
    return [loss]


KERNELS: dict[str, Kernel] = {
    **eager.KERNELS,
    "rms_norm": rms_norm,
    "rotary": rotary,
    "linear": linear,
    "cross_entropy": cross_entropy,
}
