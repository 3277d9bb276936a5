"""Cohere's Command: attention and feed-forward side by side, a layer norm written out in steps."""

from __future__ import annotations

from collections.abc import Callable

from planner.model import decoder, patterns, wiring
from planner.model.assemble import layer_types, rms, scaled
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import Routing, by_mlp_layer_types
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits


def build(c: Config) -> ModelSpec:
    row = ROWS[c.model_type]
    return decoder.build(c, row if isinstance(row, Traits) else row(c))


def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.python_layer_norm(x, name)


def norm_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.python_layer_norm(x, name, heads=heads)


def slides(c: Config, i: int, kind: str) -> bool:
    return kind == SLIDING


def with_experts(c: Config) -> Traits:
    """Command with experts: first dense layers with a width and a window pattern of their own."""
    first = c.count("first_k_dense_replace", 0)
    prefix = c.size("prefix_dense_sliding_window_pattern")
    period = c.size("sliding_window_pattern")
    words = by_mlp_layer_types(first)

    def kinds(c: Config, layers: int) -> tuple[str, ...]:
        c.optional("sliding_window")

        def rule(i: int) -> str:
            slides = (i + 1) % prefix if i < first else (i - first + 1) % period
            return SLIDING if slides else FULL

        return layer_types(c, layers, rule, known=(FULL, SLIDING))

    def rotates(c: Config, i: int, kind: str) -> bool:
        given = c.words("mlp_layer_types")
        dense = given[i] == "dense" if given else i < first
        return kind == SLIDING or (dense and prefix == 1)

    shared = c.count("num_shared_experts")
    return Traits(
        Attention(rotates=rotates, rotary_style="half_float32"),
        FeedForward(bias=False, width="prefix_dense_intermediate_size"),
        Routing(
            width="intermediate_size",
            sparse=words,
            score=c.one_of("expert_selection_fn", ("softmax", "sigmoid")) + "_of_chosen",
            shared=("intermediate_size", "num_shared_experts") if shared else (),
            halved=c.one_of("shared_expert_combination_strategy", ("sum", "average")) == "average",
        ),
        kinds=kinds,
        norm=rms if c.given.get("rms_norm_eps") is not None else norm,
        join=wiring.parallel,
        logits=scaled,
        ignored=("prefix_dense_intermediate_size",),
    )


ROWS: dict[str, Traits | Callable[[Config], Traits]] = {
    "cohere": Traits(
        Attention(head_norm=norm_of_heads, head_norm_if="use_qk_norm", rotary_style="half_float32"),
        FeedForward(bias=False),
        norm=norm,
        join=wiring.parallel,
        logits=scaled,
    ),
    "cohere2": Traits(
        Attention(rotates=slides, rotary_style="half_float32"),
        FeedForward(bias=False),
        kinds=patterns.by_layer_types,
        norm=norm,
        join=wiring.parallel,
        logits=scaled,
    ),
    "cohere_compass_text": Traits(
        Attention(rotates=slides, rotary_style="half_float32"),
        FeedForward(bias=False),
        kinds=patterns.by_layer_types,
        norm=norm,
        join=wiring.parallel,
        logits=scaled,
        ignored=("pooling",),
    ),
    "cohere2_moe": with_experts,
}
