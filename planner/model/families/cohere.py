"""Cohere's Command: attention and feed-forward side by side, a layer norm written out in steps."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import heads_of, layers_of, llama_shaped, scaled
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    h, bias = heads_of(c), c.flag("attention_bias")
    head_norm = norm_of_heads if c.flag("use_qk_norm") else None
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attn", "attention")
        return blocks.grouped_query_attention(
            part, x, h, bias=bias, output_bias=bias, head_norm=head_norm
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("mlp", "feed_forward")
        return blocks.gated_feed_forward(part, x, intermediate_size=inner, activation=activation)

    b = BlockBuilder("decoder", c.size("hidden_size"))
    wiring.parallel(b, norm, attention, feed_forward)
    pattern = ("decoder",) * layers_of(c)
    return llama_shaped(c, {"decoder": b.block()}, pattern, norm=norm, logits=scaled)


def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.python_layer_norm(x, name)


def norm_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.python_layer_norm(x, name, heads=heads)
