"""Routed experts as families state them: which fields count them, how they are scored and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from planner.model import blocks
from planner.model.assemble import layer_types
from planner.model.blocks import Experts
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor

FUSED_NAMES = {
    "fused": ("input_linear", "output_linear"),
    "gate_up": ("gate_up_proj", "down_proj"),
}
Sparse = Callable[[Config, int], tuple[bool, ...]]
Part = Callable[[BlockBuilder, Tensor], Tensor]


def all_layers(c: Config, layers: int) -> tuple[bool, ...]:
    return (True,) * layers


def after_first(field: str = "first_k_dense_replace") -> Sparse:
    """The first layers are dense: as many as the field says."""

    def rule(c: Config, layers: int) -> tuple[bool, ...]:
        dense = c.count(field)
        return tuple(i >= dense for i in range(layers))

    return rule


def by_mlp_layer_types(first_dense: int | str = 1) -> Sparse:
    """mlp_layer_types, or else dense up to `first_dense` (a number or a field), then sparse."""

    def rule(c: Config, layers: int) -> tuple[bool, ...]:
        dense = first_dense if isinstance(first_dense, int) else c.count(first_dense, 1)
        words = layer_types(
            c,
            layers,
            lambda i: "dense" if i < dense else "sparse",
            known=("dense", "sparse"),
            field="mlp_layer_types",
        )
        return tuple(word == "sparse" for word in words)

    return rule


def every_step(c: Config, layers: int) -> tuple[bool, ...]:
    """Each decoder_sparse_step-th layer, but those of mlp_only_layers (Qwen)."""
    given = c.sizes("mlp_only_layers")
    dense = set(c.resolved("mlp_only_layers") or () if given is None else given)
    step = c.size("decoder_sparse_step")
    experts = c.count("num_experts")
    return tuple(bool(i not in dense and experts and (i + 1) % step == 0) for i in range(layers))


def ernie_interval(c: Config, layers: int) -> tuple[bool, ...]:
    """Each moe_layer_interval-th layer between a first and a last one (ERNIE 4.5)."""
    step, first = c.size("moe_layer_interval"), c.count("moe_layer_start_index")
    end = c.raw("moe_layer_end_index")
    last = layers - 1 if end in (None, -1) else c.count("moe_layer_end_index")
    return tuple((i + 1) % step == 0 and first <= i <= last for i in range(layers))


@dataclass(frozen=True)
class Routing:
    """Fields and names of a family's experts.

    count, top_k, width   fields
    shared                fields whose product is the width of the expert that all tokens use
    float32, float32_scores   the router's product, or its scores alone, are left in float32
                          (float32 "weight_cast": its weight is stored as the others are)
    shared_gate           a linear whose sigmoid weighs the shared expert (Qwen2)
    shared_form           "gated", "fused" (input_linear, output_linear: Granite), or "gate_up"
    correction_bias       name of a bias of the choice that is a (frozen) parameter;
                          correction_rows: stored as a matrix of one row
    halved                routed and shared experts are averaged
    after                 name of a norm of the sum (A.X K1)
    """

    count: str = "num_experts"
    top_k: str = "num_experts_per_tok"
    width: str = "moe_intermediate_size"
    sparse: Sparse = all_layers
    score: str = "softmax"
    normalize: str | bool = "norm_topk_prob"
    float32: bool | str = False
    float32_scores: bool = False
    scaled: bool = False
    part: str = "mlp"
    router: str = "gate"
    experts: str = "experts"
    router_bias: bool = False
    correction_bias: str | None = None
    correction_rows: bool = False
    bias: bool = False
    transposed: bool = False
    activation: str | None = None
    shared: tuple[str, ...] = ()
    shared_name: str = "shared_experts"
    shared_gate: str | None = None
    shared_form: str = "gated"
    shared_outside: bool = False
    shared_first: bool = False
    halved: bool = False
    after: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The config's fields that only a layer with experts reads."""
        switches = (self.normalize,) if isinstance(self.normalize, str) else ()
        return (self.count, self.top_k, self.width, *self.shared, *switches)


def sparse_layers(c: Config, r: Routing | None, layers: int) -> tuple[bool, ...]:
    return (False,) * layers if r is None else r.sparse(c, layers)


def experts_of(c: Config, r: Routing, activation: str) -> Experts:
    count = c.size(r.count)
    top_k = c.size(r.top_k, count)
    c.require(top_k <= count, r.top_k, f"at most {r.count} = {count}")
    normalize = r.normalize if isinstance(r.normalize, bool) else c.flag(r.normalize)
    return Experts(count, top_k, c.size(r.width), r.activation or activation, r.score, normalize)


def routed_feed_forward(c: Config, r: Routing, *, bias: bool, activation: str) -> Part:
    """The layer's feed-forward part: routed experts, and beside them a shared one."""
    e = experts_of(c, r, activation)
    shared_width = prod(c.count(name) for name in r.shared) if r.shared else 0

    def shared(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part(r.shared_name, "feed_forward" if r.shared_outside else None)
        if r.shared_form == "gated":
            return blocks.gated_feed_forward(
                inner, x, intermediate_size=shared_width, activation=activation, bias=bias
            )
        first, second = FUSED_NAMES[r.shared_form]
        both = inner.linear(x, first, 2 * shared_width)
        gate, up = inner.split(both, shared_width, shared_width)
        product = inner.multiply(inner.activation(gate, activation), up)
        return inner.linear(product, second, x.width, split="row")

    def part(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part(r.part, "experts")
        beside = outer if r.shared_outside else b
        early = shared(beside, x) if shared_width and r.shared_first else None
        weights = []
        if r.correction_bias:
            shape = (1, e.experts) if r.correction_rows else (e.experts,)
            weights.append(b.weight(r.correction_bias, *shape, kind="vector"))
        routed = blocks.routed_experts(
            b,
            x,
            e,
            router=r.router,
            experts=r.experts,
            router_bias=r.router_bias,
            bias=r.bias,
            transposed=r.transposed,
            more_weights=tuple(weights),
            float32=r.float32,
            float32_scores=r.float32_scores,
            scaled=r.scaled,
        )
        if shared_width:
            other = early if early is not None else shared(beside, x)
            if r.shared_gate:
                gate = b.linear(x, r.shared_gate, 1, split="whole")
                other = b.multiply(b.activation(gate, "sigmoid"), other)
            routed = b.add(routed, other)
            routed = b.scale(routed) if r.halved else routed
        return routed if r.after is None else b.rms_norm(routed, r.after)

    return part
