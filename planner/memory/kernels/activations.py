"""Activation functions as Transformers writes them: fused kernels, or each step a tensor."""

from __future__ import annotations

from collections.abc import Callable

from planner.memory import primitives as p
from planner.memory.player import Player
from planner.memory.sizes import ZERO, plus, size
from planner.memory.tape import Storage, Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32
# Functions of which autograd keeps the result; of all others the input.
KEEP_OUTPUT = ("relu", "tanh", "sigmoid")


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [apply(player, inputs[0], str(op.fact("function")))]


def apply(player: Player, x: Value, function: str) -> Value:
    if function in STEPS:
        return STEPS[function](player, x)
    return p.unary(player.tape, x, function, "output" if function in KEEP_OUTPUT else "input")


def gelu_new(player: Player, x: Value) -> Value:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), each factor a tensor of its own."""
    t = player.tape
    half = p.multiply_constant(t, x)
    # autocast runs pow in float32, and what it is added to and multiplied with follows
    base = p.cast(t, x, FLOAT32) if player.numerics.autocast else x
    cubic = p.multiply_constant(t, p.power(t, base))
    inner = p.multiply_constant(t, p.add(t, x, cubic))
    outer = p.add_constant(t, p.unary(t, inner, "tanh", keeps="output"))
    return p.multiply(t, half, outer)


def gelu_fast(player: Player, x: Value) -> Value:
    """0.5 x (1 + tanh(0.79788456 x (1 + 0.044715 x x)))."""
    t = player.tape
    half, scaled = p.multiply_constant(t, x), p.multiply_constant(t, x)
    square = p.multiply(t, p.multiply_constant(t, x), x)
    inner = p.multiply(t, scaled, p.add_constant(t, square))
    outer = p.add_constant(t, p.unary(t, inner, "tanh", keeps="output"))
    return p.multiply(t, half, outer)


def gelu_python(player: Player, x: Value) -> Value:
    """0.5 x (1 + erf(x / sqrt(2)))."""
    t = player.tape
    half = p.multiply_constant(t, p.multiply_constant(t, x))
    outer = p.add_constant(t, erf(player, p.multiply_constant(t, x)))
    return p.multiply(t, half, outer)


def laplace(player: Player, x: Value) -> Value:
    """0.5 (1 + erf((x - mean) / (sigma sqrt(2))))."""
    t = player.tape
    inner = p.multiply_constant(t, p.add_constant(t, x))
    return p.multiply_constant(t, p.add_constant(t, erf(player, inner)))


def erf(player: Player, x: Value) -> Value:
    """Its gradient, 2 / sqrt(pi) exp(-x^2) times the incoming one, is one expression of steps."""
    t, one = player.tape, p.full_size(x)
    out = t.like(x)
    t.step("erf", (x,), (out,), saves=(x,), backward_scratch=plus(one, one, one, one))
    return out


def identity(player: Player, x: Value) -> Value:
    return x


def clipped_gelu(player: Player, x: Value) -> Value:
    t = player.tape
    return p.unary(t, p.unary(t, x, "gelu"), "clamp")


def quick_gelu(player: Player, x: Value) -> Value:
    """x sigmoid(1.702 x)."""
    t = player.tape
    return p.multiply(t, x, p.unary(t, p.multiply_constant(t, x), "sigmoid", keeps="output"))


def relu_squared(player: Player, x: Value) -> Value:
    t = player.tape
    return p.power(t, p.unary(t, x, "relu", keeps="output"))


def bloom_gelu(player: Player, x: Value) -> Value:
    """A function of its own that keeps x alone; its derivative is written out in steps."""
    t = player.tape
    out = t.like(x)
    one = p.full_size(x)
    # x/2, and tanh's argument as it is built; backward: tanh, x/2, and three running products.
    t.step(
        "bloom_gelu",
        (x,),
        (out,),
        saves=(x,),
        forward_scratch=plus(one, one, one),
        backward_scratch=plus(one, one, one, one),
    )
    return out


def xielu(player: Player, x: Value) -> Value:
    """Where x > 0: a x x + b x, else (exp(min(x, eps)) - 1 - x) c + b x; a and c are weights."""
    t = player.tape
    itemsize = player.numerics.parameter
    square = p.multiply(t, p.multiply_weight(t, x, itemsize, ZERO, player.trainable()), x)
    right = p.add(t, square, p.multiply_constant(t, x))
    grown = p.unary(t, p.unary(t, x, "minimum"), "expm1", keeps="output")
    below = p.multiply_weight(t, p.subtract(t, grown, x), itemsize, ZERO, player.trainable())
    left = p.add(t, below, p.multiply_constant(t, x))
    out = t.like(right)
    choice = Storage(size(x.column, x.width))  # booleans
    t.step("where", (right, left), (out,), saves=(choice,))
    return out


def clamp_in_place(player: Player, x: Value) -> Value:
    """Clamping in place keeps a copy of what was there."""
    t = player.tape
    out = Value(x.storage, x.width, x.itemsize, x.column, x.requires_grad)
    t.step("clamp_", (x,), (out,), saves=(Storage(p.full_size(x)),))
    return out


STEPS: dict[str, Callable[[Player, Value], Value]] = {
    "gelu_new": gelu_new,
    "gelu_accurate": gelu_new,
    "gelu_python_tanh": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_python": gelu_python,
    "gelu_10": clipped_gelu,
    "laplace": laplace,
    "linear": identity,
    "quick_gelu": quick_gelu,
    "relu2": relu_squared,
    "bloom_gelu": bloom_gelu,
    "clamp_": clamp_in_place,
    "xielu": xielu,
}


def gated_product(player: Player, both: Value, width: int, function: str) -> Value:
    """function(gate) * up, where gate and up are the halves of one tensor."""
    t = player.tape
    if function == "gpt_oss_swiglu":
        return clamped_swiglu(player, both, width)
    gate, up = p.parts(t, both, width, width)
    return p.multiply(t, apply(player, gate, function), up)


def clamped_swiglu(player: Player, both: Value, width: int) -> Value:
    """(up + 1) * gate * sigmoid(alpha gate), both clamped first; every other column is a gate."""
    t = player.tape
    gate, up = p.part(t, both, width), p.part(t, both, width)
    gate, up = p.unary(t, gate, "clamp"), p.unary(t, up, "clamp")
    weight = p.unary(t, p.multiply_constant(t, gate), "sigmoid", keeps="output")
    glu = p.multiply(t, gate, weight)
    return p.multiply(t, p.add_constant(t, up), glu)
