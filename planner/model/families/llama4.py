"""Llama 4's text model: chunked attention, unrotated layers, experts that see every token."""

from __future__ import annotations

from planner.model import decoder
from planner.model.assemble import layer_types
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.patterns import FULL
from planner.model.routing import Routing
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Traits

CHUNKED = "chunked_attention"


def build(c: Config) -> ModelSpec:
    c.ignore("attn_temperature_tuning", "floor_scale", "attn_scale", "attention_chunk_size")
    return decoder.build(c, TRAITS)


def rotates(c: Config, i: int, kind: str) -> bool:
    """no_rope_layers says 1 where a layer is rotated (sic); an empty list counts as none."""
    given = c.sizes("no_rope_layers")
    if given:
        c.require(len(given) > i, "no_rope_layers", "one number per layer")
        return given[i] != 0
    return bool((i + 1) % c.size("no_rope_layer_interval"))


def kinds(c: Config, layers: int) -> tuple[str, ...]:
    chunked = not c.is_null("attention_chunk_size")
    return layer_types(
        c,
        layers,
        lambda i: CHUNKED if chunked and rotates(c, i, "") else FULL,
        known=(FULL, CHUNKED),
    )


def sparse(c: Config, layers: int) -> tuple[bool, ...]:
    given, step = c.sizes("moe_layers"), c.size("interleave_moe_layer_step")
    if given is None:
        return tuple((i + 1) % step == 0 for i in range(layers))
    # numbers that no layer has count for nothing, as in a config whose layers were cut
    return tuple(i in given for i in range(layers))


def l2_of_heads(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    return b.rms_norm(x, name, cast="after_weight", heads=heads, weight=False)


TRAITS = Traits(
    Attention(
        rotates=rotates,
        rotary_style="complex",
        head_norm=l2_of_heads,
        head_norm_if="use_qk_norm",
        norm_last=True,
    ),
    FeedForward(bias=False, width="intermediate_size_mlp", part="feed_forward"),
    Routing(
        count="num_local_experts",
        width="intermediate_size",
        sparse=sparse,
        score="sigmoid_of_chosen",
        normalize=False,
        part="feed_forward",
        router="router",
        transposed=True,
        shared=("intermediate_size",),
        shared_name="shared_expert",
    ),
    kinds=kinds,
    not_trainable_because="Transformers runs every token through every expert of Llama 4",
)
