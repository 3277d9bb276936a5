"""Chameleon: Llama with norms of its heads, over text and an image's tokens from a codebook."""

from __future__ import annotations

from dataclasses import replace

from planner.model import decoder, wiring
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, Traits


def norm_of_each_head(b: BlockBuilder, x: Tensor, name: str, heads: int) -> Tensor:
    """A layer norm over each head's width, whose weights differ by head."""
    shape, inner = (heads, x.width // heads), b.part(name)
    weights = (inner.weight("weight", *shape, kind="vector"), inner.weight("bias", *shape))
    return b.opaque(name, x.width, weights, (x,), group="norm")


def build(c: Config) -> ModelSpec:
    c.ignore("vocabulary_map", "model_parallel_size")
    swin = c.flag("swin_norm")
    traits = Traits(
        Attention(head_norm=norm_of_each_head, square=True),
        join=wiring.post_norm if swin else wiring.pre_norm,
        norms=wiring.PRE_NORM_NAMES,
        ignored=("vq_config",),
        not_trainable_because=NOT_MODELLED,
    )
    codec = tower(c.sub("vq_config"), "model.vqmodel.")
    spec = decoder.build(c, traits)
    warnings = (*spec.warnings, *codec.warnings)
    return replace(spec, layers=(*codec.places, *spec.layers), warnings=warnings)
