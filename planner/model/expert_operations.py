"""Routed experts as operations: the router's choice, and the stacked matrices of the chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight


def router(
    b: BlockBuilder,
    x: Tensor,
    name: str,
    *,
    experts: int,
    top_k: int,
    score: str = "softmax",
    bias: bool = False,
    normalize: bool = False,
    more_weights: Iterable[Weight] = (),
    **facts: Any,
) -> Tensor:
    """Scores of all experts and the choice of top_k; makes one weight per chosen expert.

    facts: float32=True (the product is float32, and so is its weight; "weight_cast": its weight is
    cast for it), scaled=True (the chosen scores times a constant).
    """
    weights = [b.weight(f"{name}.weight", experts, x.width)]
    if bias:
        weights.append(b.weight(f"{name}.bias", experts))
    weights.extend(more_weights)
    out = b.make(top_k)
    b.record(
        "router",
        name,
        (x,),
        (out,),
        weights,
        group="router",
        flops_per_token=2 * x.width * experts,
        experts=experts,
        top_k=top_k,
        score=score,
        normalize=normalize,
        **facts,
    )
    return out


def experts(
    b: BlockBuilder,
    x: Tensor,
    scores: Tensor,
    name: str,
    *,
    experts: int,
    top_k: int,
    intermediate_size: int,
    activation: str,
    gated: bool = True,
    bias: bool = False,
    transposed: bool = False,
    **facts: Any,
) -> Tensor:
    """Each token through its top_k experts, stacked as (experts, outputs, inputs) matrices."""
    d, inner = x.width, intermediate_size
    first = 2 * inner if gated else inner
    used = (top_k, experts)

    def stacked(weight: str, *shape: int) -> Weight:
        return b.weight(
            f"{name}.{weight}", experts, *shape, kind="expert", split="expert", used=used
        )

    up = "gate_up_proj" if gated else "up_proj"
    weights = [
        stacked(up, *((d, first) if transposed else (first, d))),
        stacked("down_proj", *((inner, d) if transposed else (d, inner))),
    ]
    if bias:
        weights += [stacked(f"{up}_bias", first), stacked("down_proj_bias", d)]
    out = b.make(d)
    b.record(
        "experts",
        name,
        (x, scores),
        (out,),
        weights,
        group="experts",
        flops_per_token=2 * top_k * (d * first + inner * d),
        experts=experts,
        top_k=top_k,
        intermediate_size=inner,
        activation=activation,
        gated=gated,
        bias=bias,
        transposed=transposed,
        **facts,
    )
    return out
