"""The primitive steps of eager PyTorch, with what autograd keeps and makes for each.

Sources: PyTorch's derivative rules (tools/autograd/derivatives.yaml, release 2.13): which tensors a
step saves, and the formula of its gradient, whose intermediate results are the scratch. Each
function records one step on the tape and hands back the new value.
"""

from __future__ import annotations

from planner.memory.sizes import ZERO, Size, plus, size
from planner.memory.tape import WEIGHT_COPY, Storage, Tape, Value

FLOAT32 = 4


def full_size(value: Value) -> Size:
    return size(value.column, value.width * value.itemsize)


def sized(value: Value, width: float, itemsize: int) -> Size:
    return size(value.column, width * itemsize)


def cast(t: Tape, x: Value, itemsize: int) -> Value:
    """`x.to(dtype)`: the same tensor if it has that dtype already."""
    if x.itemsize == itemsize:
        return x
    out = t.like(x, itemsize)
    t.step("to", (x,), (out,))
    return out


def view(t: Tape, x: Value, width: float | None = None) -> Value:
    """Another look at the same storage; its gradient is the same storage too."""
    out = Value(
        x.storage, x.width if width is None else width, x.itemsize, x.column, x.requires_grad
    )
    t.step("view", (x,), (out,), gradients=("same",))
    return out


def parts(t: Tape, x: Value, *widths: float) -> tuple[Value, ...]:
    """Views of parts (chunk, split): the backward pass writes them into one new whole."""
    outs = tuple(Value(x.storage, w, x.itemsize, x.column, x.requires_grad) for w in widths)
    t.step("split", (x,), outs)
    return outs


def part(t: Tape, x: Value, width: float) -> Value:
    """A view of one part (a slice); its gradient is written into zeros of the whole's size."""
    out = Value(x.storage, width, x.itemsize, x.column, x.requires_grad)
    t.step("split", (x,), (out,))
    return out


def joined(t: Tape, *values: Value) -> Value:
    """Parts side by side in new memory; their gradients are views of the whole's."""
    out = t.like(values[0], width=sum(v.width for v in values))
    t.step("cat", values, (out,), gradients=("same",) * len(values))
    return out


def copy(t: Tape, x: Value, name: str = "contiguous") -> Value:
    out = t.like(x)
    t.step(name, (x,), (out,))
    return out


def add(t: Tape, a: Value, b: Value) -> Value:
    """a + b in the wider dtype; both gradients are the incoming one."""
    out = t.like(a if a.width >= b.width else b, max(a.itemsize, b.itemsize))
    rules = tuple(
        "same" if v.itemsize == out.itemsize and v.width == out.width else "new" for v in (a, b)
    )
    t.step("add", (a, b), (out,), gradients=rules)
    return out


def add_constant(t: Tape, x: Value) -> Value:
    out = t.like(x)
    t.step("add", (x,), (out,), gradients=("same",))
    return out


def multiply_constant(t: Tape, x: Value, name: str = "mul") -> Value:
    """x times a number, or times a tensor that is no parameter and counted elsewhere."""
    out = t.like(x)
    t.step(name, (x,), (out,))
    return out


def subtract(t: Tape, a: Value, b: Value) -> Value:
    """a - b: a's gradient is the incoming one, b's is its negative, summed where b is narrower."""
    out = t.like(a, max(a.itemsize, b.itemsize))
    scratch = full_size(out) if b.width < a.width else ZERO
    t.step("sub", (a, b), (out,), gradients=("same", "new"), backward_scratch=scratch)
    return out


def multiply(t: Tape, a: Value, b: Value) -> Value:
    """a * b, elementwise. Both gradients are first made in the product's shape and dtype; then that
    of a broadcast operand is summed, that of a narrower dtype cast."""
    out = t.like(a if a.width >= b.width else b, max(a.itemsize, b.itemsize))
    saves = [x for x, other in ((a, b), (b, a)) if other.requires_grad]
    changed = [x for x in (a, b) if x.requires_grad and full_size(x) != full_size(out)]
    t.step(
        "mul",
        (a, b),
        (out,),
        saves=saves,
        backward_scratch=plus(ZERO, *(_raw_gradient(x, out) for x in changed)),
        cast_scratch=max((full_size(x) for x in changed), key=sum, default=ZERO),
    )
    return out


def _raw_gradient(x: Value, out: Value) -> Size:
    """What a gradient needs beyond x's own size while it has the product's shape and dtype."""
    return sized(x, out.width * out.itemsize - x.width * x.itemsize, 1)


def multiply_weight(
    t: Tape, x: Value, weight_itemsize: int, gradient: Size, trainable: bool = True
) -> Value:
    """weight * x with a vector of weights: keeps x, and makes the whole product before the sum."""
    out = t.like(x, max(x.itemsize, weight_itemsize))
    scratch = plus(full_size(out), _raw_gradient(x, out)) if trainable else ZERO
    t.step(
        "mul_weight",
        (x,),
        (out,),
        saves=(x,) if trainable else (),
        weight_gradient=gradient if trainable else ZERO,
        backward_scratch=scratch,
    )
    return out


def unary(t: Tape, x: Value, name: str, keeps: str = "input") -> Value:
    """A pointwise function that keeps its "input", its "output" or "nothing"."""
    out = t.like(x)
    saves = {"input": (x,), "output": (out,), "nothing": ()}[keeps]
    t.step(name, (x,), (out,), saves=saves)
    return out


def power(t: Tape, x: Value) -> Value:
    """x ** n; backward: grad * (n * x ** (n - 1)), three tensors of x's size."""
    out = t.like(x)
    t.step("pow", (x,), (out,), saves=(x,), backward_scratch=plus(full_size(x), full_size(x)))
    return out


def mean(t: Tape, x: Value, groups: float = 1) -> Value:
    """The mean over the width (of each of `groups`); backward spreads it to the whole again."""
    out = t.like(x, width=groups)
    t.step("mean", (x,), (out,))
    return out


def linear(
    t: Tape,
    x: Value,
    outputs: float,
    column: str,
    gradient: Size,
    *,
    trainable: bool = True,
    scratch: Size = ZERO,
    keeps: tuple[Storage, ...] = (),
    copy: Value | None = None,
) -> Value:
    """x @ W.T: keeps x for the weight's gradient (the weight itself is counted as a weight).

    keeps: a copy of the weight that is made for the product
    copy: autocast's copy of the weight, of which the product makes the gradient
    """
    out = t.value(outputs, x.itemsize, column)
    of_weight = () if copy is None else (copy,)
    t.step(
        "linear",
        (x, *of_weight),
        (out,),
        saves=((x, *of_weight) if trainable else ()) + keeps,
        weight_gradient=gradient if trainable and copy is None else ZERO,
        forward_scratch=scratch,
        backward_scratch=scratch,
    )
    return out


def copied_weight(t: Tape, elements: int, itemsize: int, gradient: Size) -> Value:
    """A weight cast by autocast; backward: the copy's gradient is cast to the weight's dtype."""
    storage = Storage(size("fixed", elements * itemsize), weight_copy=True)
    out = Value(storage, elements, itemsize, "fixed")
    t.step(WEIGHT_COPY, (), (out,), weight_gradient=gradient)
    return out


def matmul(t: Tape, a: Value, b: Value, width: float, column: str) -> Value:
    """Batched product of two activations: keeps both."""
    out = t.value(width, max(a.itemsize, b.itemsize), column)
    saves = [x for x, other in ((a, b), (b, a)) if other.requires_grad]
    t.step("bmm", (a, b), (out,), saves=saves)
    return out


def softmax(t: Tape, x: Value, itemsize: int) -> Value:
    """Softmax computed and kept in `itemsize`; the caller holds the scores until it has run."""
    out = unary(t, cast(t, x, itemsize), "softmax", keeps="output")
    t.step("view", (x,), ())
    return out
