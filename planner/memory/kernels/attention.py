"""Attention: a fused kernel, or the score matrix of every head written out."""

from __future__ import annotations

from collections.abc import Callable

from planner.memory import primitives as p
from planner.memory.player import Player
from planner.memory.sizes import ZERO, Size, plus, size
from planner.memory.tape import Storage, Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32
INT64 = 8
BOOLEAN = 1


def attention(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    written_out = op.fact("eager_only") and not player.setting.own_attention
    if player.setting.attention == "flash" and not written_out:
        return [flash_attention(player, op, *inputs)]
    return [eager_attention(player, op, *inputs)]


def flash_attention(player: Player, op: Operation, q: Value, k: Value, v: Value) -> Value:
    """FlashAttention 2: keeps q, k, v, out and a float32 log-sum-exp per row.

    Backward: float32 dq and row sums; with grouped heads dk and dv of all query heads first.
    """
    t = player.tape
    heads, kv_heads = op.number("heads"), op.number("kv_heads")
    head_dim, value_head = op.number("head_dim"), op.number("value_head_dim")
    q, k, v = (p.cast(t, x, player.numerics.compute) for x in (q, k, v))
    out = t.value(op.outputs[0].width, q.itemsize, q.column)
    lse = t.value(heads, FLOAT32, q.column)
    scratch = plus(p.sized(q, heads * head_dim, FLOAT32), p.sized(q, heads, FLOAT32))
    if kv_heads < heads:
        scratch = plus(scratch, p.sized(q, heads * (head_dim + value_head), q.itemsize))
    t.step(
        "flash_attention",
        (q, k, v),
        (out,),
        saves=(q, k, v, out, lse),
        backward_scratch=scratch,
    )
    return out


def eager_attention(player: Player, op: Operation, q: Value, k: Value, v: Value) -> Value:
    """The score matrix of every head: product, scale, position bias, mask, softmax, product."""
    t = player.tape
    heads, kv_heads = op.number("heads"), op.number("kv_heads")
    compute = v.itemsize
    late = op.fact("broadcast_keys")  # written out by each product itself
    if kv_heads < heads:
        k = repeated(player, k, heads // kv_heads)
        v = v if late else repeated(player, v, heads // kv_heads)
    if op.fact("scores_float32") or op.fact("sinks") == "wide":
        q, k = p.cast(t, q, FLOAT32), p.cast(t, k, FLOAT32)
    if player.numerics.autocast and op.fact("sinks") != "wide":  # autocast runs products so
        q, k = (p.cast(t, x, player.numerics.compute) for x in (q, k))
    pairs = heads * player.setting.sequence_length  # scores per token
    scores = product(player, q, k, pairs, kept(player, q), kept(player, k))
    held: list[Value] = []
    if op.fact("alibi") == "widened":
        held = widened(player, scores)
        scores = held[-1]
    scores = masked(player, op, scores)
    share: Value | None = None
    if op.fact("sinks") in SINKS:
        weights = p.cast(t, SINKS[str(op.fact("sinks"))](player, op, scores), compute)
    else:
        if op.fact("sinks") == "scaled":
            share = share_of_sinks(player, op, scores)
        # autocast runs every softmax in float32
        narrow = op.fact("softmax_float32", True) is False and not player.numerics.autocast
        weights = p.cast(t, p.softmax(t, scores, compute if narrow else FLOAT32), compute)
    t.step("view", held, ())  # names of their own in the code: they live until here
    if kv_heads < heads and late:
        v = repeated(player, v, heads // kv_heads)
    out = product(player, weights, v, op.outputs[0].width, (weights.storage,), kept(player, v))
    if share is not None:
        out = p.multiply(t, out, p.cast(t, share, compute))
    return p.copy(t, out)


def masked(player: Player, op: Operation, scores: Value) -> Value:
    """Scores scaled, capped or biased by position, and masked, as the family writes it.

    alibi: "in_product" (BLOOM: one baddbmm), "added" (MPT: a float32 bias widens the scores),
    "widened" (Falcon: scores cast to float32 first, then scaled in place)
    """
    t, alibi = player.tape, op.fact("alibi")
    if alibi in ("in_product", "widened"):
        return p.add_constant(t, scores)
    if op.fact("scaled_in_place"):
        return p.add_constant(t, in_place(player, scores))
    scores = p.multiply_constant(t, scores, "scale")
    if op.fact("softcap"):
        capped = p.unary(t, p.multiply_constant(t, scores), "tanh", keeps="output")
        scores = p.multiply_constant(t, capped)
    if alibi == "added":
        out = t.like(scores, FLOAT32)
        rule = "same" if scores.itemsize == FLOAT32 else "new"
        t.step("add", (scores,), (out,), gradients=(rule,))
        return p.multiply_constant(t, out, "masked_fill")
    scores = p.add_constant(t, scores)
    # without a mask (asked for a fused kernel) nothing is clamped
    clamps = op.fact("clamped_scores") and player.setting.attention == "eager"
    return clamped(player, scores) if clamps else scores


def clamped(player: Player, scores: Value) -> Value:
    """No score below the least of its dtype (XGLM's torch.max, which keeps what it compares).

    Backward: half the gradient where both are equal, a comparison in booleans.
    """
    t = player.tape
    out = t.like(scores)
    scratch = plus(p.full_size(scores), p.sized(scores, scores.width, BOOLEAN))
    t.step("maximum", (scores,), (out,), saves=(scores,), backward_scratch=scratch)
    return out


def widened(player: Player, scores: Value) -> list[Value]:
    """Falcon: the scores in float32, then with the bias, scaled in place."""
    t = player.tape
    wide = p.cast(t, scores, FLOAT32)
    return [scores, wide, in_place(player, p.add_constant(t, wide))]


def in_place(player: Player, x: Value) -> Value:
    """Scaled where it is; its gradient is a new tensor."""
    out = Value(x.storage, x.width, x.itemsize, x.column, x.requires_grad)
    player.tape.step("scale_", (x,), (out,))
    return out


def joined_sinks(player: Player, op: Operation, scores: Value) -> Value:
    """A learned score per head joins the softmax in the scores' dtype and is dropped after it."""
    wide = with_sinks(player, op, scores)
    return p.part(player.tape, stable_softmax(player, op, wide), scores.width)


def with_sinks(player: Player, op: Operation, scores: Value) -> Value:
    """The scores of each row, and the head's own."""
    t = player.tape
    wide = t.like(scores, width=scores.width + op.number("heads"))
    t.step("cat", (scores,), (wide,), gradients=("same",), weight_gradient=of_sinks(player, op))
    return wide


def of_sinks(player: Player, op: Operation) -> Size:
    """The gradient of the learned scores."""
    return player.gradient(*op.weights) if player.trainable() else ZERO


def stable_softmax(player: Player, op: Operation, scores: Value) -> Value:
    """Each row's maximum is subtracted first, whose place autograd keeps."""
    t, heads = player.tape, op.number("heads")
    largest = t.like(scores, width=heads)
    rows = Storage(size(scores.column, heads * INT64))
    t.step("max", (scores,), (largest,), saves=(rows,))
    return p.unary(t, p.subtract(t, scores, largest), "softmax", keeps="output")


def wide_sinks(player: Player, op: Operation, scores: Value) -> Value:
    """The learned score joins scores that are float32 already."""
    t = player.tape
    weights = p.unary(t, with_sinks(player, op, scores), "softmax", keeps="output")
    return p.part(t, weights, scores.width)


# How learned scores take part, and what layers of such a family do that have none.
SINKS: dict[str, Callable[[Player, Operation, Value], Value]] = {
    "joined": joined_sinks,
    "joined without": stable_softmax,
    "wide": wide_sinks,
}


def share_of_sinks(player: Player, op: Operation, scores: Value) -> Value:
    """sigmoid(log-sum-exp of the scores - the learned score): what the output is scaled by.

    The log-sum-exp keeps the scores; its gradient is a product of two tensors of their size.
    """
    t = player.tape
    total = t.like(scores, width=op.number("heads"))
    scratch = plus(p.full_size(scores), p.full_size(scores))
    t.step("logsumexp", (scores,), (total,), saves=(scores, total), backward_scratch=scratch)
    less = t.like(total)
    t.step("sub", (total,), (less,), gradients=("same",), weight_gradient=of_sinks(player, op))
    return p.unary(t, p.cast(t, less, FLOAT32), "sigmoid", keeps="output")


Kept = tuple[Storage, ...]


def product(player: Player, a: Value, b: Value, width: float, of_a: Kept, of_b: Kept) -> Value:
    """Batched product over sequences and heads: keeps both operands."""
    t = player.tape
    out = t.value(width, max(a.itemsize, b.itemsize), a.column)
    saves = (of_a if b.requires_grad else ()) + (of_b if a.requires_grad else ())
    t.step("bmm", (a, b), (out,), saves=saves)
    return out


def kept(player: Player, x: Value) -> Kept:
    """What a batched product keeps of an operand.

    Of a part of a larger tensor it keeps the whole of it for one sequence, where sequences and
    heads are one axis without a copy, and else a copy of the part.
    """
    own, whole = x.width * x.itemsize, sum(x.storage.size)
    if own >= whole:
        return (x.storage,)
    whole_kept = player.wholes.setdefault(x.storage, Storage(size("tokens_alone", whole)))
    return (Storage(size("tokens_together", own)), whole_kept)


def repeated(player: Player, x: Value, times: int) -> Value:
    """Each key or value head written out for all its query heads."""
    t = player.tape
    out = t.like(x, width=x.width * times)
    t.step("repeat_kv", (x,), (out,))
    return out


def repeat_heads(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [repeated(player, inputs[0], op.number("times"))]
