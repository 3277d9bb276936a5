"""Routed experts of Transformers (integrations/moe.py, grouped_mm): sort, two grouped products.

Every token is written out once for each expert that it chose, in the order of the experts; the
results are weighted, put back in the order of the tokens and summed over the choices.
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import activations
from planner.memory.player import Player
from planner.memory.sizes import size
from planner.memory.tape import Storage, Tape, Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32
INT64 = 8


def indices(t: Tape, count: int, column: str) -> Storage:
    """Whole numbers of a look-up, kept for its backward pass."""
    return Storage(size(column, count * INT64))


def choose(t: Tape, scores: Value, top_k: int) -> Value:
    """topk: the largest values; keeps where they were."""
    out = t.like(scores, width=top_k)
    t.step("topk", (scores,), (out,), saves=(indices(t, top_k, scores.column),))
    return out


def router(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Scores of all experts, the top_k of them, and their weights."""
    t, (x,) = player.tape, inputs
    experts, top_k = op.number("experts"), op.number("top_k")
    compute = player.numerics.compute
    widened: tuple[Storage, ...] = ()
    if op.fact("float32") and not stored_wide(player, op):
        widened = (Storage(size("fixed", FLOAT32 * op.weights[0].elements)),)
    x = p.cast(t, x, FLOAT32 if op.fact("float32") else compute)
    logits = p.linear(t, x, experts, x.column, player.gradient(*op.weights), keeps=widened)
    score = op.fact("score")
    if score == "softmax_of_chosen":
        return [p.unary(t, choose(t, logits, top_k), "softmax", keeps="output")]
    logits = p.cast(t, logits, FLOAT32)
    scores = p.unary(t, logits, str(score), keeps="output")
    chosen = choose(t, scores, top_k)
    if op.fact("normalize"):
        chosen = normalised(t, chosen)
    if op.fact("scaled"):
        chosen = p.multiply_constant(t, chosen)
    if op.fact("float32") or op.fact("float32_scores"):
        return [chosen]
    return [p.cast(t, chosen, compute)]


def stored_wide(player: Player, op: Operation) -> bool:
    """Whether the router's weight is float32 where its product runs, so that no cast is made."""
    if player.numerics.parameter >= FLOAT32:
        return True
    return op.fact("float32") != "weight_cast" and not player.setting.gathered


def normalised(t: Tape, chosen: Value) -> Value:
    """In-place division by the sum: keeps a copy of the values, and the sum."""
    total = t.like(chosen, width=1)
    t.step("sum", (chosen,), (total,))
    out = t.like(chosen)
    before = Storage(chosen.storage.size)
    t.step("div_", (chosen, total), (out,), saves=(before, total))
    return out


def experts(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x, scores) = player.tape, inputs
    top_k, inner = op.number("top_k"), op.number("intermediate_size")
    width = op.outputs[0].width
    x = p.cast(t, x, player.numerics.compute)
    column = "tokens_expert"
    order, rows, back = (indices(t, top_k, column) for _ in range(3))
    chosen = t.value(top_k * width, x.itemsize, column)
    t.step("index", (x,), (chosen,), saves=(rows,))
    weights = t.value(top_k, scores.itemsize, column)
    t.step("index", (scores,), (weights,), saves=(order,))

    gated, function = bool(op.fact("gated")), str(op.fact("activation"))
    experts_of_rows = indices(t, top_k, column) if op.fact("bias") else None
    first = grouped(player, op, chosen, top_k * inner * (1 + gated), 0, experts_of_rows)
    if gated:
        product = activations.gated_product(player, first, top_k * inner, function)
    else:
        product = activations.apply(player, first, function)
    second = grouped(player, op, product, top_k * width, 1, experts_of_rows)

    weighted = p.multiply(t, second, weights)
    ordered = t.like(weighted)
    t.step("index", (weighted,), (ordered,), saves=(back,))
    total = t.value(width, ordered.itemsize, x.column)
    t.step("sum", (ordered,), (total,))  # its gradient is written out for each choice
    return [p.cast(t, total, x.itemsize)]


def grouped(
    player: Player, op: Operation, x: Value, width: int, which: int, chosen: Storage | None
) -> Value:
    """One grouped product over all experts; `chosen`: each row's expert, whose bias is added."""
    t = player.tape
    out = t.value(width, x.itemsize, x.column)
    copy = player.weight_copy(op.weights[which])
    if copy is None:
        gradient = player.gradient(op.weights[which])
        t.step("grouped_mm", (x,), (out,), saves=(x,), weight_gradient=gradient)
    else:
        t.step("grouped_mm", (x, copy), (out,), saves=(x, copy))
    if chosen is None:
        return out
    rows = t.like(out)
    gradient = player.gradient(op.weights[which + 2])
    t.step("index", (), (rows,), saves=(chosen,), weight_gradient=gradient)
    total = Value(out.storage, out.width, out.itemsize, out.column)
    t.step("add_", (out, rows), (total,), gradients=("same", "same"))
    return total
