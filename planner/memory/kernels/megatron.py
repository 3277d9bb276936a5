"""Kernels of Megatron-Core with Transformer Engine, bf16.

What differs from eager code: norms are fused and keep their input, one linear makes queries, keys
and values and one gate and up (kernels/fusion.py), SwiGLU and GELU keep their input alone, weight
gradients are added to the main gradients as they are made. With tensor and sequence parallelism
linears keep the part of their input that their rank has and gather it again in the backward pass.
Sources: Megatron-Core's core/tensor_parallel/layers.py, core/fusions/, core/transformer/moe/;
Transformer Engine's pytorch/module/layernorm_linear.py; Korthikanti et al. 2022, sections 4 and 5.
"""

from __future__ import annotations

from planner.memory import primitives as p
from planner.memory.kernels import attention, eager, experts, norms, torchtitan
from planner.memory.player import Kernel, Player
from planner.memory.sizes import ZERO, size
from planner.memory.tape import Storage, Tape, Value
from planner.model.operations import Operation

FLOAT32 = p.FLOAT32
INT64 = 8


def linear(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Column splits gather the sequence, forward and again backward; row splits scatter it.

    Without sequence parallelism each rank has the whole stream, and row splits are summed in place.
    """
    if player.setting.frozen:
        return eager.linear(player, op, inputs)
    t, (x,) = player.tape, inputs
    out = op.outputs[0]
    if not (player.setting.tensor_parallel and player.setting.sequence_parallel):
        return [plain_linear(player, op, x, _column(out.split))]
    if out.split == "tensor":
        return [column_linear(player, x, out.width, op)]
    if x.column != "tokens_tensor":  # the weight is whole on every rank
        return [plain_linear(player, op, x, x.column)]
    partial = plain_linear(player, op, x, "tokens_whole")
    scattered = t.value(out.width, partial.itemsize, "tokens_sequence")
    t.step("reduce_scatter", (partial,), (scattered,))
    return [scattered]


def plain_linear(player: Player, op: Operation, x: Value, column: str) -> Value:
    out = player.tape.value(op.outputs[0].width, x.itemsize, column)
    player.tape.step(
        "linear",
        (x,),
        (out,),
        saves=(kept_input(player, op, x),),
        weight_gradient=player.gradient(*op.weights),
    )
    return out


def kept_input(player: Player, op: Operation, x: Value) -> Value | Storage:
    """What a product keeps of its input: a copy in the products' format, if that is narrower."""
    itemsize = player.setting.quantised_input
    if not itemsize or op.group in ("output_head", "router"):
        return x
    return Storage(size(x.column, x.width * itemsize))


def _column(split: str) -> str:
    return "tokens_tensor" if split == "tensor" else "tokens_sequence"


def column_linear(player: Player, x: Value, width: int, op: Operation) -> Value:
    """Keeps the rank's part of the sequence; the whole of it lives while the product runs."""
    t = player.tape
    whole = t.value(x.width, x.itemsize, "tokens_whole")
    t.step("all_gather", (x,), (whole,))
    out = t.value(width, x.itemsize, "tokens_tensor")
    t.step(
        "linear",
        (whole,),
        (out,),
        saves=(kept_input(player, op, x),),
        weight_gradient=player.gradient(*op.weights),
        backward_scratch=p.full_size(whole),
    )
    return out


def rotary(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """One kernel, forward and backward (apply_rope_fusion)."""
    t, (x,) = player.tape, inputs
    return [p.multiply_constant(t, x, "rotary")]


def core_attention(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """FlashAttention or cuDNN; a family's own eager code does not run here."""
    if player.setting.attention == "flash":
        return [attention.flash_attention(player, op, *inputs)]
    return [written_out(player, op, *inputs)]


def written_out(player: Player, op: Operation, q: Value, k: Value, v: Value) -> Value:
    """Unfused: scale, mask and softmax are one kernel that keeps its 16-bit result."""
    t = player.tape
    times = op.number("heads") // op.number("kv_heads")
    if times > 1:
        k, v = attention.repeated(player, k, times), attention.repeated(player, v, times)
    pairs = op.number("heads") * player.setting.sequence_length
    of_q, of_k, of_v = (attention.kept(player, x) for x in (q, k, v))
    scores = attention.product(player, q, k, pairs, of_q, of_k)
    weights = p.unary(t, scores, "softmax", keeps="output")
    out = attention.product(player, weights, v, op.outputs[0].width, (weights.storage,), of_v)
    return p.copy(t, out)


def activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Fused with the bias before it: keeps its input."""
    return [p.unary(player.tape, inputs[0], str(op.fact("function")))]


def gated_activation(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """SwiGLU in one kernel: keeps gate and up."""
    return [gated(player.tape, inputs[0], op.outputs[0].width)]


def gated(t: Tape, both: Value, width: float) -> Value:
    out = t.like(both, width=width)
    t.step("gated_activation", (both,), (out,), saves=(both,))
    return out


def router(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Scores in float32: their softmax or sigmoid, the dense gates, and the map of choices."""
    t, (x,) = player.tape, inputs
    count, top_k = op.number("experts"), op.number("top_k")
    logits = p.linear(t, x, count, x.column, player.gradient(*op.weights))
    scores = p.unary(t, p.cast(t, logits, FLOAT32), "scores", keeps="output")
    chosen = experts.choose(t, scores, top_k)
    gates = t.like(scores)
    choices = Storage(size(x.column, count))  # booleans
    t.step("scatter", (chosen,), (gates,), saves=(choices, gates))
    return [gates]


def routed(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """All-to-all dispatcher and grouped products; probabilities weigh the activation's result."""
    t, (x, gates) = player.tape, inputs
    top_k, inner = op.number("top_k"), op.number("intermediate_size")
    width = op.outputs[0].width
    rows = experts.indices(t, top_k, "tokens_expert")
    permuted = t.value(top_k * width, x.itemsize, "tokens_expert")
    t.step("permute", (x,), (permuted,), saves=(rows,))
    received = moved(t, moved(t, permuted, "all_to_all"), "sort_chunks")
    probabilities = t.value(top_k, FLOAT32, "tokens_expert")
    t.step("permute", (gates,), (probabilities,))
    is_gated = bool(op.fact("gated"))
    first = product(player, op, received, top_k * inner * (1 + is_gated), 0)
    hidden = t.like(first, width=top_k * inner)
    t.step("weighted_activation", (first, probabilities), (hidden,), saves=(first, probabilities))
    again = "moe_act" in player.setting.recompute
    second = product(player, op, hidden, top_k * width, 1, keeps_input=not again)
    returned = moved(t, moved(t, second, "sort_chunks"), "all_to_all")
    out = t.value(width, x.itemsize, x.column)
    t.step("unpermute", (returned,), (out,))
    return [out]


def moved(t: Tape, x: Value, name: str) -> Value:
    """The same rows in another order or on other ranks; nothing is kept."""
    return p.copy(t, x, name)


def product(
    player: Player, op: Operation, x: Value, width: int, which: int, keeps_input: bool = True
) -> Value:
    t = player.tape
    out = t.value(width, x.itemsize, x.column)
    t.step(
        "grouped_mm",
        (x,),
        (out,),
        saves=(kept_input(player, op, x),) if keeps_input else (),
        weight_gradient=player.gradient(op.weights[which]),
        backward_scratch=ZERO if keeps_input else p.full_size(x),
    )
    return out


def cross_entropy(player: Player, op: Operation, inputs: list[Value]) -> list[Value]:
    """Vocabulary-parallel, float32: the exponentials take the place of the logits' copy.

    Also with cross_entropy_loss_fusion and its own ("native") implementation; Transformer Engine's
    ("te") is the fused one of kernels.losses.
    """
    t, (logits,) = player.tape, inputs
    loss = player.new(op.outputs[0], FLOAT32)
    softmax = t.like(logits, FLOAT32)
    t.step("vocabulary_parallel_softmax", (logits,), (softmax,), saves=(softmax,))
    t.step("view", (softmax,), (loss,), gradients=("kept",))
    return [loss]


KERNELS: dict[str, Kernel] = {
    **eager.KERNELS,
    "linear": linear,
    "rms_norm": torchtitan.rms_norm,
    "layer_norm": norms.layer_norm,
    "python_layer_norm": norms.layer_norm,
    "activation": activation,
    "gated_activation": gated_activation,
    "rotary": rotary,
    "attention": core_attention,
    "router": router,
    "experts": routed,
    "cross_entropy": cross_entropy,
}
