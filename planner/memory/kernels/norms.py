"""Norms as Transformers runs them: RMSNorm and Cohere's layer norm in steps, LayerNorm fused."""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.player import Player
from planner.memory.sizes import ZERO, Size
from planner.memory.tape import Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32


def rms_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """x / sqrt(mean(x^2)) in float32, cast back before or after the weight."""
    t, (x,) = player.tape, inputs
    wide = p.cast(t, x, FLOAT32)
    variance = p.mean(t, p.power(t, wide), _groups(op))
    scale = p.unary(t, p.add_constant(t, variance), "rsqrt", keeps="output")
    normal = named = p.multiply(t, wide, scale)
    after = op.fact("cast") == "after_weight"
    if not after:
        normal = p.cast(t, normal, x.itemsize)
    if op.weights:
        itemsize = FLOAT32 if after else player.numerics.parameter
        normal = p.multiply_weight(t, normal, itemsize, _gradient(player, op), player.trainable())
    # the caller holds the input until here, and the code has a name for what the weight multiplies
    t.step("view", (x,) if after else (x, named), ())
    return [p.cast(t, normal, x.itemsize) if after else normal]


def layer_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The fused kernel: keeps its input, and mean and 1/std of each row in float32."""
    t, (x,) = player.tape, inputs
    itemsize = x.itemsize
    if player.numerics.autocast or op.fact("float32"):
        x = p.cast(t, x, FLOAT32)
    out = t.like(x)
    # Row statistics are float32 on a GPU whatever the input is.
    rows = t.value(2 * _groups(op), FLOAT32, x.column)
    gradient = _gradient(player, op) if player.trainable() else ZERO
    t.step("layer_norm", (x,), (out,), saves=(x, rows), weight_gradient=gradient)
    return [p.cast(t, out, itemsize) if op.fact("float32") else out]


def python_layer_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """weight * (x - mean) / sqrt(mean((x - mean)^2)), each step in float32 (Cohere)."""
    t, (x,) = player.tape, inputs
    groups = _groups(op)
    wide = p.cast(t, x, FLOAT32)
    mean = p.mean(t, wide, groups)
    variance = p.mean(t, p.power(t, p.subtract(t, wide, mean)), groups)
    centred = p.subtract(t, wide, mean)
    scale = p.unary(t, p.add_constant(t, variance), "rsqrt", keeps="output")
    normal = p.multiply(t, centred, scale)
    normal = p.multiply_weight(t, normal, FLOAT32, _gradient(player, op), player.trainable())
    return [p.cast(t, normal, x.itemsize)]


def _groups(op: Operation) -> int:
    heads = op.fact("heads") or 1
    assert isinstance(heads, int)
    return heads


def _gradient(player: Player, op: Operation) -> Size:
    return player.gradient(*op.weights)
