"""Image classifiers: a vision encoder and one linear over its pooled output."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.dual_encoders import dual_encoder
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import kind_of_head, labels
from planner.model.spec import ModelSpec, Placed

HEADS = ("images", "bare")

# Families whose config nests the encoder's.
NESTED = ("clip", "siglip", "siglip2", "metaclip_2")
# Families whose encoder alone is modelled; ViT's and DeiT's has a pooler.
POOLED = ("vit", "deit")
BARE = ("dinov2", "dinov2_with_registers", "dinov3_vit", *POOLED)
PREFIXES = {"vit_msn": "vit", "data2vec-vision": "data2vec_vision"}


def build(c: Config) -> ModelSpec:
    nested = c.model_type in NESTED
    if nested and kind_of_head(c) == "bare":
        return dual_encoder(c)
    if nested:
        c.ignore("text_config", "projection_dim", "logit_scale_init_value")
        c.ignore("text_config_dict", "vision_config_dict")
        c.raw("vision_config")
    inner = c.sub("vision_config") if nested else c
    bare = kind_of_head(c) == "bare"
    c.require(not bare or c.model_type in BARE, "architectures", "...ForImageClassification")
    name = "vision_model" if nested else PREFIXES.get(c.model_type, c.model_type)
    classes = labels(c)
    built = tower(inner, "" if bare else f"{name}.")
    head = BlockBuilder("head", built.width, sequence="image")
    h = head.part("", "output_head")
    if bare and c.model_type in POOLED:
        size = c.size("pooler_output_size", built.width)
        h.activation(h.linear(h.input, "pooler.dense", size, bias=True, split="whole"), "tanh")
    if not bare:
        x = h.input
        if c.model_type.startswith("dinov2"):  # the class token beside the mean of the patches
            x = h.concatenate(x, x)
        h.linear(x, "classifier", classes, bias=True, split="whole")
    first, *rest = built.places
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=built.width,
        embedding=first,
        layers=tuple(rest),
        head=Placed("", head.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=(*built.warnings, *(c.finish() if nested else ())),
        not_trainable_because=NOT_MODELLED,
    )
