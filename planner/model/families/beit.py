"""BEiT and Data2Vec's encoder: relative positions, no bias on keys, a factor for each branch."""

from __future__ import annotations

from dataclasses import replace

from planner.model.config import Config
from planner.model.families.vision_layers import (
    Biases,
    Names,
    attention_names,
    bert_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, ends_in, stacked, start
from planner.model.operations import Weight

UNUSED = (
    *("drop_path_rate", "vocab_size", "out_indices", "out_features", "pool_scales", "stage_names"),
    *("use_auxiliary_head", "auxiliary_channels", "auxiliary_num_convs", "auxiliary_loss_weight"),
    *("auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn", "reshape_hidden_states"),
)
SCALES = ("lambda_1", "lambda_2")
# Relative distances of the class token: to a patch, from a patch, to itself.
CLASS_TOKEN_DISTANCES = 3
TABLE = "relative_position_bias_table"
# Where a family keeps its layers, its names, and its tables: of a layer, and one for all layers.
KIN = {
    "beit": (
        "layers.{}",
        Names(("layernorm_before", "layernorm_after"), *attention_names("attention", "o_proj")),
        f"relative_position_bias.{TABLE}",
        f"shared_position_bias.{TABLE}",
    ),
    "data2vec-vision": (
        "encoder.layer.{}",
        bert_names("attention"),
        f"attention.attention.relative_position_bias.{TABLE}",
        f"encoder.relative_position_bias.{TABLE}",
    ),
}


def beit(c: Config, prefix: str) -> Tower:
    c.ignore(*UNUSED)
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.divides("hidden_size", "num_attention_heads")
    where, names, own_table, shared_table = KIN[c.model_type]
    heads = c.size("num_attention_heads")
    table = (_distances(c), heads)
    b, e = start(width)
    x = patch_projection(e, "patch_embeddings.projection", width, c.size("num_channels"), *side)
    x = learned(e, x, "cls_token", 1, 1, width)
    if c.flag("use_mask_token"):
        x = learned(e, x, "mask_token", 1, 1, width)
    if c.flag("use_absolute_position_embeddings"):
        x = learned(e, x, "position_embeddings", 1, patches(c) + 1, width)
    if c.flag("use_shared_relative_position_bias"):
        learned(b.part("", "embedding"), x, shared_table, *table)
    scaled = c.number("layer_scale_init_value", 0.1) > 0
    layer = vision_layer(
        replace(names, scales=SCALES) if scaled else names,
        width,
        heads,
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(key=False),
        extra=(Weight(own_table, table, "embedding"),)
        if c.flag("use_relative_position_bias")
        else (),
    )
    # the pooler norms the mean of the patches; without it the last layer's output is normed
    end = "pooler.layernorm" if c.flag("use_mean_pooling", True) else "layernorm"
    return stacked(c, prefix, width, b, layer, where, ends_in(end))


def _distances(c: Config) -> int:
    """How many relative positions two tokens of an image can have."""
    (height, width), (down, across) = pair(c, "image_size"), pair(c, "patch_size")
    return (2 * (height // down) - 1) * (2 * (width // across) - 1) + CLASS_TOKEN_DISTANCES
