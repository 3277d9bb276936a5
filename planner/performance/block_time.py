"""Time of one block's operations on one GPU, for one micro-batch: priced by their shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from planner.memory.profile import BlockRows
from planner.memory.rows import Columns, amount
from planner.model.operations import Operation
from planner.numeric import Index, Number, is_array, maximum
from planner.performance.machine import Machine
from planner.performance.matmul import OUTPUT_BYTES

_ACTIVATION_BYTES = 2.0  # bf16


@dataclass(frozen=True)
class Pass:
    """What one GPU works on in one pass.

    sequence          tokens of a sequence that it holds: a context-parallel rank's share
    gradient_bytes    moved per element of a weight's gradient by the product that makes it
    traffic           bytes that elementwise kernels move, over those of the tape's steps
    experts_traffic   the same in blocks with experts
    fused_experts_traffic  the same where the products of experts without biases have their
                      activation in one kernel; None: they have not
    cast_rows         of the rows that tensor-parallel ranks exchange, those that one of them casts
    casts_in_norms    a norm writes its output in the format of the product that reads it
    sorts_chunks      tokens of several experts come by rank and are sorted by expert
    grouped_library   whose kernel multiplies the rows of several experts; None: Megatron's
    bias_passes       over an expert's activations, where its linears have biases
    """

    batch: Number
    sequence: Number
    context_parallel: Number
    tensor_parallel: Number
    expert_parallel: Number
    expert_tensor_parallel: Number
    columns: Columns
    trains_weights: bool = True
    gradient_bytes: float = OUTPUT_BYTES
    eager_attention: bool = False
    traffic: float = 1.0
    experts_traffic: float = 1.0
    fused_experts_traffic: float | None = None
    cast_rows: Number = 1.0
    casts_in_norms: bool = False
    sorts_chunks: bool = False
    grouped_library: str | None = None
    bias_passes: float = 0.0

    @property
    def tokens(self) -> Number:
        return self.batch * self.sequence


@dataclass(frozen=True)
class BlockTime:
    """Seconds by part, forward and backward; kernels started, and those that selective recompute
    starts again.

    repeated   of the forward pass, what selective recompute runs again
    weights    of the backward pass, the gradients of the weights: products that can be put off
    """

    forward: dict[str, Number]
    backward: dict[str, Number]
    launches: tuple[int, int]
    launches_again: int = 0
    repeated: Number = 0
    weights: Number = 0

    def at(self, position: Index) -> BlockTime:
        """Of arrays, the values at these positions."""

        def take(value: Number) -> Number:
            return value[position] if is_array(value) else value

        return replace(
            self,
            forward={name: take(value) for name, value in self.forward.items()},
            backward={name: take(value) for name, value in self.backward.items()},
            repeated=take(self.repeated),
            weights=take(self.weights),
        )

    @property
    def forward_seconds(self) -> Number:
        return sum(self.forward.values())

    @property
    def backward_seconds(self) -> Number:
        return sum(self.backward.values())


def block_time(rows: BlockRows, machine: Machine, p: Pass) -> BlockTime:
    """Every operation of a block: products and attention by shape, the rest by what it moves."""
    forward: dict[str, Number] = {"products": 0, "attention": 0}
    backward: dict[str, Number] = {"products": 0, "attention": 0}
    repeated: Number = 0
    weights: Number = 0
    for index, op in enumerate(rows.block.operations):
        if op.kind in ("linear", "router", "experts"):
            products = _experts if op.kind == "experts" else _linear
            ahead, back, of_weights = products(op, machine, p)
            back, weights = back + of_weights, weights + of_weights
        elif op.kind == "attention":
            ahead, back = _attention(op, machine, p)
        elif op.flops_per_token:
            ahead, back = _other(op, machine, p)
        else:
            continue
        part = "attention" if op.kind == "attention" else "products"
        forward[part] = forward[part] + ahead
        backward[part] = backward[part] + back
        if index in rows.repeated:
            repeated = repeated + ahead
    routed = [op for op in rows.block.operations if op.kind == "experts"]
    share = _traffic(routed, p)
    moved_forward, moved_backward = rows.profile.moved
    forward["elementwise"] = machine.moving_seconds(share * amount(moved_forward, p.columns))
    backward["elementwise"] = machine.moving_seconds(share * amount(moved_backward, p.columns))
    for op in routed:
        extra = machine.moving_seconds(_bias_bytes(op, p))
        sorting = machine.moving_seconds(_sorting_bytes(op, p))
        backward["elementwise"] = backward["elementwise"] + sorting
        forward["elementwise"] = forward["elementwise"] + sorting
        forward["elementwise"] = forward["elementwise"] + extra
        backward["elementwise"] = backward["elementwise"] + 2 * extra
    if rows.repeated:
        moved_again = share * amount(rows.profile.moved_again, p.columns)
        repeated = repeated + machine.moving_seconds(moved_again)
    profile = rows.profile
    return BlockTime(forward, backward, profile.launches, profile.launches_again, repeated, weights)


def _traffic(routed: list[Operation], p: Pass) -> float:
    """Bytes that a block's elementwise kernels move, over those of the tape's steps."""
    if not routed:
        return p.traffic
    fused = p.fused_experts_traffic
    if fused is None or any(op.fact("bias") for op in routed):
        return p.experts_traffic
    return fused


def _linear(op: Operation, machine: Machine, p: Pass) -> tuple[Number, Number, Number]:
    """x W forward; backward the gradient of x and, if it is trained, of W."""
    weight = op.weights[0]
    outputs: Number = op.outputs[0].width if op.kind == "linear" else op.number("experts")
    inputs: Number = op.inputs[0].width
    if weight.split in ("column", "vocabulary"):
        outputs = outputs / p.tensor_parallel
    elif weight.split == "row":
        inputs = inputs / p.tensor_parallel
    exact = op.group in ("output_head", "router")
    casts: tuple[Number, Number] = (1.0, 1.0)
    if weight.split == "column":
        casts = (0.0 if p.casts_in_norms else p.cast_rows, 1.0)
    elif weight.split == "row":
        casts = (1.0, p.cast_rows)
    return _products(machine, p, p.tokens, outputs, inputs, exact=exact, casts=casts)


def _products(
    machine: Machine,
    p: Pass,
    m: Number,
    n: Number,
    k: Number,
    *,
    groups: Number = 1,
    exact: bool = False,
    casts: tuple[Number, Number] = (1.0, 1.0),
    library: str | None = None,
) -> tuple[Number, Number, Number]:
    """Forward, the gradient of the input, and that of the weights.

    casts: of the input and of the output's gradient, what this GPU casts. library: of grouped ones.
    """
    one = partial(machine.product_seconds, groups=groups, exact=exact, library=library)
    ahead = one(m, n, k, casts=casts[0])
    back = one(m, k, n, casts=casts[1], accurate=True)
    if not p.trains_weights:
        return ahead, back, 0
    weights = one(
        n,
        k,
        m,
        casts=0.0,  # both operands were cast for the other two products
        output_bytes=p.gradient_bytes,
        accurate=True,
    )
    return ahead, back, weights


def _experts(op: Operation, machine: Machine, p: Pass) -> tuple[Number, Number, Number]:
    """Grouped products of the experts that one rank holds, tokens spread evenly over them."""
    experts = op.number("experts") / p.expert_parallel
    tokens = p.tokens * op.number("top_k") / maximum(experts, 1)
    inner = op.number("intermediate_size") / p.expert_tensor_parallel
    tokens = tokens * p.expert_tensor_parallel / p.tensor_parallel
    width = op.inputs[0].width
    first = 2 * inner if op.fact("gated", True) else inner
    grouped = partial(_products, machine, p, groups=experts, library=p.grouped_library)
    up, down = grouped(tokens, first, width), grouped(tokens, width, inner)
    return up[0] + down[0], up[1] + down[1], up[2] + down[2]


def _bias_bytes(op: Operation, p: Pass) -> Number:
    """Adding biases expert by expert, and gated activations with a clamp, are kernels apart."""
    if not op.fact("bias"):
        return 0
    inner = 3 * op.number("intermediate_size") / p.expert_tensor_parallel
    rows = p.tokens * op.number("top_k") * p.expert_tensor_parallel / p.tensor_parallel
    return p.bias_passes * rows * (inner + op.inputs[0].width) * _ACTIVATION_BYTES


def _sorting_bytes(op: Operation, p: Pass) -> Number:
    """Received rows are read and written in another order, and once more before they return.

    Source: Megatron-Core, core/transformer/moe/token_dispatcher.py, MoEAlltoAllTokenDispatcher;
    DeepEP's and HybridEP's kernels write rows where their expert reads them.
    """
    if not p.sorts_chunks:
        return 0
    rows = p.tokens * op.number("top_k") * p.expert_tensor_parallel / p.tensor_parallel
    return 4 * rows * op.inputs[0].width * _ACTIVATION_BYTES


def _attention(op: Operation, machine: Machine, p: Pass) -> tuple[Number, Number]:
    heads = op.number("heads") / p.tensor_parallel
    kv_heads = maximum(op.number("kv_heads") / p.tensor_parallel, 1)
    head, value = op.number("head_dim"), op.number("value_head_dim")
    if p.eager_attention:
        groups = p.batch * heads
        keys = p.sequence * p.context_parallel
        scores = machine.product_seconds(p.sequence, keys, head, groups=groups, exact=True)
        mixed = machine.product_seconds(p.sequence, value, keys, groups=groups, exact=True)
        return scores + mixed, 2 * (scores + mixed)
    window = op.fact("window")
    causal = bool(op.fact("causal", True))

    def core(backward: bool) -> Number:
        # a ring of context-parallel ranks: so many kernels, each over one rank's keys
        return p.context_parallel * machine.attention_seconds(
            p.batch,
            heads,
            kv_heads,
            p.sequence,
            p.sequence,
            head_dim=head,
            value_head_dim=value,
            causal=causal,
            window=window if isinstance(window, int) else None,
            backward=backward,
        )

    return core(False), core(True)


def _other(op: Operation, machine: Machine, p: Pass) -> tuple[Number, Number]:
    """Work that has no shape of its own here (scans): its FLOPs at the peak of large products."""
    flops = op.flops_per_token * p.tokens / p.tensor_parallel
    ahead = flops / (machine.attention_peak * machine.constants.matmul["bf16"].efficiency)
    return ahead, 2 * ahead
