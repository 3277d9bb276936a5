"""Pix2Struct's encoder, also that of Kosmos 2.5: patches of any layout, a row and a column each."""

from __future__ import annotations

from planner.model.config import Config
from planner.model.families.vision_layers import (
    NONE,
    Names,
    learned,
    patch_projection,
    vision_layer,
)
from planner.model.families.vision_towers import Tower, stacked, start

PIX_NAMES = Names(
    ("pre_attention_layer_norm", "pre_mlp_layer_norm"),
    tuple(f"attention.{name}" for name in ("query", "key", "value")),
    "attention.output",
    tuple(f"mlp.{name}" for name in ("wi_0", "wi_1", "wo")),
    rms=True,
    gated=True,
)


def kosmos(c: Config, prefix: str) -> Tower:
    return _tower(c, prefix, c.size("head_dim"), "intermediate_size", "max_num_patches")


def pix2struct(c: Config, prefix: str) -> Tower:
    c.ignore("relative_attention_num_buckets", "relative_attention_max_distance")
    return _tower(c, prefix, c.size("d_kv"), "d_ff", "seq_len")


def _tower(c: Config, prefix: str, head_dim: int, inner: str, rows: str) -> Tower:
    """inner, rows: fields of the feed-forward part's width and of the tables' length."""
    width = c.size("hidden_size")
    b, e = start(width)
    x = patch_projection(e, "patch_projection", width, c.size("patch_embed_hidden_size"))
    for name in ("row_embedder", "column_embedder"):
        x = learned(e, x, f"{name}.weight", c.size(rows), width)
    layer = vision_layer(
        PIX_NAMES,
        width,
        c.size("num_attention_heads"),
        c.size(inner),
        c.word("dense_act_fn"),
        NONE,
        head_dim=head_dim,
    )
    return stacked(
        c, prefix, width, b, layer, "encoder.layer.{}", lambda b, x: b.rms_norm(x, "layernorm")
    )
