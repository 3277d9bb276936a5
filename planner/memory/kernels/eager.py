"""Kernels of the Hugging Face Transformers models as eager PyTorch runs them (release 5.24)."""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.player import Kernel, Player
from planner.memory.tape import ZERO, Value, plus, size
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32


def linear(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x,) = player.tape, inputs
    x = p.cast(t, x, player.numerics.compute)
    out = op.outputs[0]
    column = "tokens_tensor" if out.split == "tensor" else "tokens_sequence"
    adapters = player.setting.adapters
    if adapters is None:
        return [p.linear(t, x, out.width, column, player.gradient(*op.weights))]
    unpacked = ZERO
    if adapters.dequantise and op.group != "output_head":
        unpacked = size("fixed", op.weights[0].elements * DEQUANTISED_BYTES_PER_WEIGHT)
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


def rms_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x,) = player.tape, inputs
    heads = op.fact("heads") or 1
    assert isinstance(heads, int)
    wide = p.cast(t, x, FLOAT32)
    variance = p.mean(t, p.power(t, wide), heads)
    scale = p.unary(t, p.add_constant(t, variance), "rsqrt", keeps="output")
    normal = p.multiply(t, wide, scale)
    if op.fact("cast") == "before_weight":
        normal = p.cast(t, normal, x.itemsize)
    if op.weights:
        normal = p.multiply_weight(
            t,
            normal,
            player.numerics.parameter if op.fact("cast") == "before_weight" else FLOAT32,
            player.gradient(*op.weights),
            player.trainable(),
        )
    return [p.cast(t, normal, x.itemsize) if op.fact("cast") == "after_weight" else normal]


def layer_norm(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The fused kernel: keeps its input, and mean and 1/std of each row in float32."""
    t, (x,) = player.tape, inputs
    if player.numerics.autocast:
        x = p.cast(t, x, FLOAT32)
    out = t.like(x)
    rows = t.value(2, FLOAT32, x.column)
    t.step(
        "layer_norm",
        (x,),
        (out,),
        saves=(x, rows),
        weight_gradient=player.gradient(*op.weights) if player.trainable() else ZERO,
    )
    return [out]


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


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t, (x,) = player.tape, inputs
    function = str(op.fact("function"))
    if function in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh_steps"):
        return [gelu_in_steps(player, x)]
    keeps = "output" if function in ("relu", "tanh", "sigmoid") else "input"
    if function == "relu2":
        return [p.power(t, p.unary(t, x, "relu", keeps="output"))]
    return [p.unary(t, x, function, keeps)]


def gelu_in_steps(player: Player, x: Value) -> Value:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), each factor a tensor of its own."""
    t = player.tape
    half = p.multiply_constant(t, x)
    # autocast runs pow in float32, and what it is added to and multiplied with follows
    base = p.cast(t, x, FLOAT32) if player.numerics.autocast else x
    cubic = p.multiply_constant(t, p.power(t, base))
    inner = p.multiply_constant(t, p.add(t, x, cubic))
    outer = p.add_constant(t, p.unary(t, inner, "tanh", keeps="output"))
    return p.multiply(t, half, outer)


def multiply(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply(player.tape, *inputs)]


def add(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.add(player.tape, *inputs)]


def scale(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.multiply_constant(player.tape, inputs[0])]


def softcap(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t = player.tape
    small = p.multiply_constant(t, inputs[0])
    return [p.multiply_constant(t, p.unary(t, small, "tanh", keeps="output"))]


def split(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return list(p.parts(player.tape, inputs[0], *(out.width for out in op.outputs)))


def concatenate(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    t = player.tape
    out = t.like(inputs[0], width=op.outputs[0].width)
    t.step("cat", inputs, (out,))
    return [out]


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """x * cos + rotate_half(x) * sin; the tables are the model's and no parameter."""
    t, (x,) = player.tape, inputs
    straight = p.multiply_constant(t, x)
    turned = p.multiply_constant(t, p.multiply_constant(t, x, "rotate_half"))
    return [p.add(t, straight, turned)]


def attention(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    if player.setting.attention == "flash":
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
    """The score matrix of every head written out: scale, mask, float32 softmax, product."""
    t = player.tape
    heads, kv_heads = op.number("heads"), op.number("kv_heads")
    pairs = heads * player.setting.sequence_length  # scores per token
    if kv_heads < heads:
        k, v = (repeat_heads(player, x, heads // kv_heads) for x in (k, v))
    scores = p.matmul(t, q, k, pairs, q.column)
    scores = p.multiply_constant(t, scores, "scale")
    scores = p.add_constant(t, scores)  # the mask
    weights = p.cast(t, p.softmax(t, scores, FLOAT32), q.itemsize)
    out = p.matmul(t, weights, v, op.outputs[0].width, q.column)
    return p.copy(t, out)


def repeat_heads(player: Player, x: Value, times: int) -> Value:
    t = player.tape
    out = t.like(x, width=x.width * times)
    t.step("repeat_kv", (x,), (out,))
    return out


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """float32 logits, log-softmax (kept), negative log-likelihood."""
    t, (logits,) = player.tape, inputs
    wide = p.cast(t, logits, FLOAT32)
    log_probabilities = p.unary(t, wide, "log_softmax", keeps="output")
    loss = player.new(op.outputs[0], FLOAT32)
    t.step("nll_loss", (log_probabilities,), (loss,), saves=(log_probabilities,))
    return [loss]


KERNELS: dict[str, Kernel] = {
    "linear": linear,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "embedding": embedding,
    "activation": activation,
    "multiply": multiply,
    "add": add,
    "scale": scale,
    "softcap": softcap,
    "split": split,
    "concatenate": concatenate,
    "rotary": rotary,
    "attention": attention,
    "cross_entropy": cross_entropy,
}
