"""LitGPT's own models (Lightning-AI/litgpt, model.py, lora.py).

Queries, keys and values are parts of one tensor, which the values keep whole; activations are fused
kernels; LoRA drops out its input; the loss runs over chunks of logits in their own dtype.
bitsandbytes, as LitGPT pins it (before 0.43), keeps the input of a 4-bit product, cast to the
compute dtype that was left at float32; in 2023 as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.memory import primitives as p
from planner.memory.kernels import attention, eager
from planner.memory.player import Kernel, Player
from planner.memory.sizes import size
from planner.memory.tape import Storage, Value
from planner.model.operations import Operation
from planner.model.spec import ModelSpec

FLOAT32 = p.FLOAT32
QKV = ("q_proj", "k_proj", "v_proj")
# One linear for all three; two thirds of it are queries and values where there are as many key as
# query heads.
JOINT = ("query_key_value", "qkv_proj", "c_attn", "Wqkv", "W_pack")


def linear(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return adapted(player, op, inputs[0], widened=True)


def linear_2023(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """4-bit products in the activations' own dtype: their input is kept as it is."""
    return adapted(player, op, inputs[0], widened=False)


def adapted(player: Player, op: Operation, x: Value, *, widened: bool) -> list[Value]:
    t, inputs = player.tape, [x]
    adapters = player.setting.adapters
    if adapters is None or op.group == "output_head":
        return eager.linear(player, op, inputs)
    shared = op.group == "attention" and x.storage in player.gathered
    if adapters.dequantise and not shared:
        wide = Storage(size(x.column, x.width * FLOAT32)) if widened else x.storage
        t.step("view", (x,), (), saves=(wide,))
        player.gathered[x.storage] = x  # queries, keys and values are one linear
    if not adapters.on(op):
        return eager.linear(player, op, inputs)
    mask = Storage(size(x.column, x.width))
    dropped = t.like(x)
    t.step("dropout", (x,), (dropped,), saves=(mask,))
    (out,) = eager.linear(player, op, [dropped])
    placed = Storage(size(out.column, placed_width(op, adapters.targets) * out.itemsize))
    t.step("view", (out,), (), saves=(placed,))
    return [out]


def placed_width(op: Operation, targets: Sequence[str]) -> float:
    """Width of what index_copy puts among queries, keys and values, and keeps (lora.py, zero_pad).

    Nothing where all three are adapted; of a joint projection queries and values, by default.
    """
    name, width = op.name.rsplit(".", 1)[-1], op.outputs[0].width
    if name in JOINT:
        return width * 2 / 3
    return width if name in QKV and not set(QKV) <= set(targets) else 0


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    return [p.unary(player.tape, inputs[0], str(op.fact("function")))]


def fused_attention(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The values are a view of queries, keys and values together."""
    if player.setting.attention != "flash":
        return attention.attention(player, op, inputs)
    t, (q, k, v) = player.tape, inputs
    if sum(v.storage.size) == v.width * v.itemsize:
        rest = Storage(size(v.column, (q.width + k.width) * v.itemsize))
        t.step("view", (v,), (), saves=(rest,))
    return [attention.flash_attention(player, op, q, k, v)]


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """The chunks' log-softmaxes are kept; one chunk's gradient at a time is beside them."""
    t, (logits,) = player.tape, inputs
    log_probabilities = t.like(logits)
    loss = player.new(op.outputs[0], logits.itemsize)
    t.step("log_softmax", (logits,), (log_probabilities,), saves=(log_probabilities,))
    t.step("view", (log_probabilities,), (loss,), gradients=("kept",))
    t.step("view", (logits,), ())  # the caller holds the logits until here
    return [loss]


def untied(spec: ModelSpec) -> ModelSpec:
    """The model with a head of its own: LitGPT never shares the embedding's matrix with it."""
    if not spec.tied:
        return spec
    block = spec.head.block
    operations = tuple(
        replace(op, weights=tuple(replace(w, tied_to=None) for w in op.weights))
        for op in block.operations
    )
    return replace(spec, head=replace(spec.head, block=replace(block, operations=operations)))


KERNELS: dict[str, Kernel] = {
    **eager.KERNELS,
    "linear": linear,
    "activation": activation,
    "attention": fused_attention,
    "cross_entropy": cross_entropy,
}
KERNELS_2023: dict[str, Kernel] = {**KERNELS, "linear": linear_2023}
