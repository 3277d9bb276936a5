"""Vision towers of GLM-4V, GLM-OCR and GLM-5 next, of Kimi K2.5, and of Ovis 2."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import (
    GATED_FEED,
    Biases,
    Names,
    attention_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.families.vision_towers import COLOURS, Tower, stacked, start
from planner.model.operations import Tensor

# Each head's queries and keys are normed; there is no table of positions.
NORMED_HEADS = ("glm_ocr_vision", "glm5_next_vision")


def glm4v(c: Config, prefix: str) -> Tower:
    """A convolution joins patches at the end, and a gated merger follows."""
    ocr = c.model_type in NORMED_HEADS
    width, out, side = c.size("hidden_size"), c.size("out_hidden_size"), pair(c, "patch_size")
    channels, heads = c.size("in_channels"), c.size("num_heads")
    bias, activation = c.flag("attention_bias"), c.word("hidden_act")
    c.ignore("swiglu_limit")
    inner = c.size("intermediate_size") if ocr else out
    context = merger_width(c, out)
    c.require(width % heads == 0, "num_heads", f"a divisor of {width}")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    shape = (channels, c.size("temporal_patch_size"), *side)
    x = patch_projection(e, "patch_embed.proj", width, *shape)
    rows = patches(c)
    if not ocr:
        x = learned(e, x, "embeddings.position_embedding.weight", rows, width)
        b.rms_norm(x, "post_conv_layernorm")
    names = Names(
        ("norm1", "norm2"),
        ("attn.qkv",),
        "attn.proj",
        GATED_FEED,
        rms=True,
        gated=True,
        head_norms=("attn.q_norm", "attn.k_norm") if ocr else None,
    )
    biases = Biases(query=bias, output=bias and ocr, feed=bias and ocr)
    layer = vision_layer(names, width, heads, inner, activation, biases, rotary=True)
    merge = c.size("spatial_merge_size")

    def last(b: BlockBuilder, x: Tensor) -> None:
        x = b.rms_norm(x, "post_layernorm")
        x = patch_projection(b.part("", "other"), "downsample", out, width, merge, merge)
        m = b.part("merger", "other")
        x = m.activation(m.layer_norm(m.linear(x, "proj", out), "post_projection_norm"), "gelu")
        gate = m.activation(m.linear(x, "gate_proj", context), activation)
        m.linear(m.multiply(gate, m.linear(x, "up_proj", context)), "down_proj", out, split="row")

    return stacked(c, prefix, width, b, layer, "blocks.{}", last, layers_of(c, "depth"))


def merger_width(c: Config, out: int) -> int:
    """Inner width of the gated linears at the end."""
    if c.model_type == "glm_ocr_vision":
        return out * c.size("in_channels")
    own = c.model_type == "glm5_next_vision"
    return c.size("projection_intermediate_size" if own else "intermediate_size")


def kimi_k25(c: Config, prefix: str) -> Tower:
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("pos_emb_time", "merge_kernel_size")
    c.divides("hidden_size", "num_attention_heads")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("patch_embed", "embedding")
    x = patch_projection(e, "proj", width, COLOURS, *side)
    grid = (c.size("pos_emb_height"), c.size("pos_emb_width"), width)
    learned(e, x, "pos_emb.position_embeddings", *grid)
    names = Names(("norm1", "norm2"), *attention_names("attn", "proj"))
    layer = vision_layer(
        names,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        rotary=True,
    )
    return stacked(
        c, prefix, width, b, layer, "layers.{}", lambda b, x: b.layer_norm(x, "final_layernorm")
    )


def ovis2(c: Config, prefix: str) -> Tower:
    """An encoder whose head scores a vocabulary of visual words."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("tokenize_function")
    c.divides("hidden_size", "num_attention_heads")
    b, _ = start(width)
    e = b.part("transformer.embeddings", "embedding")
    x = patch_projection(e, "patch_embedding", width, c.size("num_channels"), *side)
    x = learned(e, x, "position_embedding.weight", patches(c), width)
    e.rms_norm(x, "rms_norm")
    bias, stride = c.flag("qkv_bias"), c.size("hidden_stride")
    words = c.size("vocab_size") - c.count("num_visual_indicator_tokens")
    c.require(words > 0, "vocab_size", "more than num_visual_indicator_tokens")
    names = Names(
        ("rms_norm1", "rms_norm2"),
        *attention_names("attention", "out_proj"),
        feed=tuple(f"ffn.{name}_proj" for name in ("gate", "up", "down")),
        rms=True,
        gated=True,
    )
    layer = vision_layer(
        names,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(bias, bias, bias, bias, c.flag("mlp_bias")),
    )

    def last(b: BlockBuilder, x: Tensor) -> None:
        x = b.rms_norm(x, "transformer.rms_norm")
        h = b.part("", "other")
        x = h.opaque("join", width * stride * stride, (), (x,))
        h.layer_norm(h.linear(x, "head_linear", words), "head_norm")

    return stacked(c, prefix, width, b, layer, "transformer.encoder.layers.{}", last)
