"""Kernels of the Hugging Face Transformers models as eager PyTorch runs them (release 5.24)."""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import activations, attention, experts, norms, positions
from planner.memory.player import Kernel, Player
from planner.memory.sizes import ZERO, size
from planner.memory.tape import Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32


def linear(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x,) = player.tape, inputs
    if op.group == "output_head":
        player.held.append(x)  # the model's output has the last hidden state in it
    x = p.cast(t, x, player.numerics.compute)
    out = op.outputs[0]
    column = "tokens_tensor" if out.split == "tensor" else "tokens_sequence"
    adapters = player.setting.adapters
    if adapters is None:
        copy = player.weight_copy(*op.weights)
        return [p.linear(t, x, out.width, column, player.gradient(*op.weights), copy=copy)]
    unpacked = ZERO
    if adapters.dequantise and op.group != "output_head":
        matrices = sum(w.elements for w in op.weights if len(w.shape) > 1)
        unpacked = size("fixed", matrices * DEQUANTISED_BYTES_PER_WEIGHT)
    base = p.linear(t, x, out.width, column, ZERO, trainable=False, scratch=unpacked)
    return [lora(player, op, x, base) if adapters.on(op) else base]


# One weight of a 4-bit matrix unpacked: bf16, and the block scales (64 weights each) in float32
# (bitsandbytes, functional.dequantize_4bit with double quantisation).
DEQUANTISED_BYTES_PER_WEIGHT = 2 + 4 / 64


def lora(player: Player, op: Operation, x: Value, base: Value) -> Value:
    """base + scale * B(A(x)): A keeps its input, B the narrow tensor between them."""
    t, adapters = player.tape, player.setting.adapters
    assert adapters is not None
    if adapters.own_input:
        x = p.cast(t, p.copy(t, p.cast(t, x, FLOAT32), "adapter_input"), adapters.itemsize)
    first, second = adapters.weights(op)
    narrow = p.linear(t, x, adapters.rank, x.column, player.gradient(first))
    wide = p.linear(t, narrow, base.width, base.column, player.gradient(second))
    return p.cast(t, p.add(t, base, p.multiply_constant(t, wide)), base.itemsize)


def embedding(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t = player.tape
    out = player.new(op.outputs[0], player.numerics.parameter)
    t.step(
        "embedding",
        (),
        (out,),
        weight_gradient=player.gradient(*op.weights) if player.trainable() else ZERO,
    )
    return [out]


def multiply(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply(player.tape, *inputs)]


def add(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.add(player.tape, *inputs)]


def scale(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply_constant(player.tape, inputs[0])]


def add_constant(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.add_constant(player.tape, inputs[0])]


def add_bias(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The bias's gradient is the incoming one, summed over the tokens."""
    t, (x,) = player.tape, inputs
    out = t.like(x)
    gradient = player.gradient(*op.weights) if player.trainable() else ZERO
    t.step("add", (x,), (out,), gradients=("same",), weight_gradient=gradient)
    return [out]


def multiply_vector(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x,) = player.tape, inputs
    gradient = player.gradient(*op.weights)
    return [p.multiply_weight(t, x, player.numerics.parameter, gradient, player.trainable())]


def softcap(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t = player.tape
    small = p.multiply_constant(t, inputs[0])
    return [p.multiply_constant(t, p.unary(t, small, "tanh", keeps="output"))]


def split(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return list(p.parts(player.tape, inputs[0], *(out.width for out in op.outputs)))


def concatenate(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Parts side by side; a part that all heads share is written into each (keys of DeepSeek)."""
    t = player.tape
    width = op.outputs[0].width
    if width == sum(x.width for x in inputs):
        return [p.joined(t, *inputs)]
    own, shared = inputs
    out = t.like(own, width=width)
    t.step("copy_", (own,), (out,), backward_scratch=p.full_size(out))
    every = Value(shared.storage, width - own.width, shared.itemsize, own.column)
    t.step("split", (shared,), (every,))
    filled = Value(out.storage, width, out.itemsize, out.column)
    t.step("copy_", (out, every), (filled,))
    return [filled]


def copy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.copy(player.tape, inputs[0])]


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """float32 logits, log-softmax (kept), negative log-likelihood."""
    t, (logits,) = player.tape, inputs
    wide = p.cast(t, logits, FLOAT32)
    log_probabilities = p.unary(t, wide, "log_softmax", keeps="output")
    loss = player.new(op.outputs[0], FLOAT32)
    t.step("nll_loss", (log_probabilities,), (loss,), saves=(log_probabilities,))
    t.step("view", (logits, *player.held), ())  # what the caller holds until here
    return [loss]


KERNELS: dict[str, Kernel] = {
    "linear": linear,
    "rms_norm": norms.rms_norm,
    "layer_norm": norms.layer_norm,
    "python_layer_norm": norms.python_layer_norm,
    "embedding": embedding,
    "activation": activations.activation,
    "multiply": multiply,
    "add": add,
    "scale": scale,
    "add_constant": add_constant,
    "add_bias": add_bias,
    "multiply_vector": multiply_vector,
    "softcap": softcap,
    "split": split,
    "concatenate": concatenate,
    "copy": copy,
    "repeat_heads": attention.repeat_heads,
    "rotary": positions.rotary,
    "attention": attention.attention,
    "router": experts.router,
    "experts": experts.experts,
    "cross_entropy": cross_entropy,
}
