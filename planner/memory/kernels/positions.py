"""Rotary positions as each family of Transformers writes them.

The tables are the model's and no parameter, so that only results are kept: by the attention.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.memory import primitives as p
from planner.memory.player import Player
from planner.memory.sizes import size
from planner.memory.tape import Storage, Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The rotated part of each head, joined with the rest where only a share is rotated."""
    t, (x,) = player.tape, inputs
    rotate = STYLES[str(op.fact("style", "half"))]
    share = float(str(op.fact("fraction", 1.0)))
    if share == 1.0:
        return [rotate(player, op, x)]
    width = x.width * share
    turned, rest = p.part(t, x, width), p.part(t, x, x.width - width)
    return [p.joined(t, rotate(player, op, turned), rest)]


def half(player: Player, op: Operation, x: Value) -> Value:
    """x * cos + rotate_half(x) * sin."""
    t = player.tape
    straight = p.multiply_constant(t, x)
    turned = p.multiply_constant(t, p.multiply_constant(t, x, "rotate_half"))
    return p.add(t, straight, turned)


def half_float32(player: Player, op: Operation, x: Value) -> Value:
    """The same in float32 (Cohere, ERNIE)."""
    t = player.tape
    return p.cast(t, half(player, op, p.cast(t, x, FLOAT32)), x.itemsize)


def float32_tables(player: Player, op: Operation, x: Value) -> Value:
    """The tables alone are float32, and so what is multiplied with them (OLMo-2)."""
    t = player.tape
    straight = _widened(player, x)
    turned = _widened(player, p.multiply_constant(t, x, "rotate_half"))
    return p.cast(t, p.add(t, straight, turned), x.itemsize)


def _widened(player: Player, x: Value, *tables: Storage) -> Value:
    t = player.tape
    out = t.like(x, FLOAT32)
    more = p.sized(x, x.width, FLOAT32 - x.itemsize)
    t.step("mul", (x,), (out,), saves=tables, backward_scratch=more)
    return out


def every_two(player: Player, op: Operation, x: Value) -> Value:
    """GPT-J: sine and cosine are written out for each pair anew, for queries and keys, by layer."""
    t = player.tape
    heads = op.number("heads")
    table = x.width / heads * x.itemsize
    sine, cosine = (Storage(size("positions", table)) for _ in range(2))
    straight, turned = t.like(x), t.like(x)
    t.step("mul", (x,), (straight,), saves=(cosine,))
    t.step("mul", (p.multiply_constant(t, x, "rotate_half"),), (turned,), saves=(sine,))
    return p.add(t, straight, turned)


def repeated_float32(player: Player, op: Operation, x: Value) -> Value:
    """ERNIE: in float32, with tables that each layer writes out anew for queries and keys."""
    t = player.tape
    table = size("positions", x.width / op.number("heads") * FLOAT32)
    cosine, sine = player.tables.setdefault("rotary", (Storage(table), Storage(table)))
    straight, turned = _widened(player, x, cosine), t.like(x, FLOAT32)
    wide = p.cast(t, p.multiply_constant(t, x, "rotate_half"), FLOAT32)
    t.step("mul", (wide,), (turned,), saves=(sine,))
    return p.cast(t, p.add(t, straight, turned), x.itemsize)


def halves(player: Player, op: Operation, x: Value) -> Value:
    """Two halves a, b of each head: a cos - b sin and b cos + a sin, joined (gpt-oss)."""
    a, b = p.parts(player.tape, x, x.width / 2, x.width / 2)
    return _turned(player, a, b)


def interleaved(player: Player, op: Operation, x: Value) -> Value:
    """The same with every other column as a and b (DeepSeek-V3)."""
    t = player.tape
    return _turned(player, p.part(t, x, x.width / 2), p.part(t, x, x.width / 2))


def _turned(player: Player, a: Value, b: Value) -> Value:
    t = player.tape

    def times(x: Value) -> Value:
        return p.multiply_constant(t, x)

    return p.joined(t, p.add(t, times(a), times(b)), p.add(t, times(b), times(a)))


def complex_pairs(player: Player, op: Operation, x: Value) -> Value:
    """Pairs as complex numbers in float32 (DeepSeek-V2, Llama 4)."""
    t = player.tape
    turned = p.multiply_constant(t, p.cast(t, x, FLOAT32))
    return p.cast(t, turned, x.itemsize)


STYLES: dict[str, Callable[[Player, Operation, Value], Value]] = {
    "half": half,
    "half_float32": half_float32,
    "float32_tables": float32_tables,
    "repeated_float32": repeated_float32,
    "every_two": every_two,
    "chunk": halves,
    "interleave": interleaved,
    "complex": complex_pairs,
}
