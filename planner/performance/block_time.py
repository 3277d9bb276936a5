"""Time of one block's operations on one GPU, for one micro-batch: priced by their shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.memory.profile import BlockRows
from planner.memory.rows import Columns, amount
from planner.model.operations import Operation
from planner.numeric import Index, Number, is_array, maximum
from planner.performance.machine import Machine

_ACTIVATION_BYTES = 2.0  # bf16


@dataclass(frozen=True)
class Pass:
    """What one GPU works on in one pass.

    sequence          tokens of a sequence that it holds: a context-parallel rank's share
    traffic           bytes that elementwise kernels move, over those of the tape's steps
    experts_traffic   of them, what is left in blocks with experts
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
    eager_attention: bool = False
    traffic: float = 1.0
    experts_traffic: float = 1.0
    bias_passes: float = 0.0

    @property
    def tokens(self) -> Number:
        return self.batch * self.sequence


@dataclass(frozen=True)
class BlockTime:
    """Seconds by part, forward and backward; kernels started.

    repeated   of the forward pass, what selective recompute runs again
    weights    of the backward pass, the gradients of the weights: products that can be put off
    """

    forward: dict[str, Number]
    backward: dict[str, Number]
    launches: tuple[int, int]
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
    share = p.traffic * (p.experts_traffic if routed else 1.0)
    moved_forward, moved_backward = rows.profile.moved
    forward["elementwise"] = machine.moving_seconds(share * amount(moved_forward, p.columns))
    backward["elementwise"] = machine.moving_seconds(share * amount(moved_backward, p.columns))
    for op in routed:
        extra = machine.moving_seconds(_bias_bytes(op, p))
        forward["elementwise"] = forward["elementwise"] + extra
        backward["elementwise"] = backward["elementwise"] + 2 * extra
    if rows.repeated:
        # elementwise work by its share of the operations
        share = len(rows.repeated) / len(rows.block.operations)
        repeated = repeated + share * forward["elementwise"]
    return BlockTime(forward, backward, rows.profile.launches, repeated, weights)


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
    return _products(machine, p.tokens, outputs, inputs, p.trains_weights, exact=exact)


def _products(
    machine: Machine,
    m: Number,
    n: Number,
    k: Number,
    trained: bool,
    *,
    groups: Number = 1,
    exact: bool = False,
) -> tuple[Number, Number, Number]:
    """Forward, the gradient of the input, and that of the weights."""
    ahead = machine.product_seconds(m, n, k, groups=groups, exact=exact)
    back = machine.product_seconds(m, k, n, groups=groups, exact=exact)
    if not trained:
        return ahead, back, 0
    # both operands were cast for the other two products
    weights = machine.product_seconds(n, k, m, groups=groups, exact=exact, casts=False)
    return ahead, back, weights


def _experts(op: Operation, machine: Machine, p: Pass) -> tuple[Number, Number, Number]:
    """Grouped products of the experts that one rank holds, tokens spread evenly over them."""
    experts = op.number("experts") / p.expert_parallel
    tokens = p.tokens * op.number("top_k") / maximum(experts, 1)
    inner = op.number("intermediate_size") / p.expert_tensor_parallel
    tokens = tokens * p.expert_tensor_parallel / p.tensor_parallel
    width = op.inputs[0].width
    first = 2 * inner if op.fact("gated", True) else inner
    up = _products(machine, tokens, first, width, p.trains_weights, groups=experts)
    down = _products(machine, tokens, width, inner, p.trains_weights, groups=experts)
    return up[0] + down[0], up[1] + down[1], up[2] + down[2]


def _bias_bytes(op: Operation, p: Pass) -> Number:
    """Adding biases expert by expert, and gated activations with a clamp, are kernels apart."""
    if not op.fact("bias"):
        return 0
    inner = 3 * op.number("intermediate_size") / p.expert_tensor_parallel
    rows = p.tokens * op.number("top_k") * p.expert_tensor_parallel / p.tensor_parallel
    return p.bias_passes * rows * (inner + op.inputs[0].width) * _ACTIVATION_BYTES


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
