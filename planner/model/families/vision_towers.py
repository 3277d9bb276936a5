"""Vision encoders, alone or inside a vision-language model: CLIP, SigLIP, ViT, DINOv2, Pixtral, ...

Each is a function of its config and the prefix of its weights' names; towers.TOWERS lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import (
    GATED_FEED,
    NONE,
    Biases,
    Names,
    attention_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed


@dataclass(frozen=True)
class Tower:
    """A vision encoder: its blocks in order, the width that it puts out, and warnings."""

    places: tuple[Placed, ...]
    width: int
    warnings: tuple[str, ...] = ()


def stacked(
    c: Config,
    prefix: str,
    width: int,
    first: BlockBuilder,
    layer: Block,
    layers: str,
    last: Callable[[BlockBuilder, Tensor], object] | None,
    count: int | None = None,
) -> Tower:
    """Embedding, equal layers, and what comes after them."""
    number = layers_of(c) if count is None else count
    placed = [Placed(prefix, first.block())]
    placed += [Placed(f"{prefix}{layers.format(i)}.", layer) for i in range(number)]
    if last is not None:
        b = BlockBuilder("vision end", width, sequence="image")
        last(b, b.input)
        placed.append(Placed(prefix, b.block()))
    return Tower(tuple(placed), width)


def ends_in(name: str) -> Callable[[BlockBuilder, Tensor], object]:
    """A layer norm after the last layer."""
    return lambda b, x: b.layer_norm(x, name)


def start(width: int) -> tuple[BlockBuilder, BlockBuilder]:
    """The block that embeds patches, and the same seen as its module `embeddings`."""
    b = BlockBuilder("patch embedding", width, sequence="image")
    return b, b.part("embeddings", "embedding")


# ---- CLIP and SigLIP ----------------------------------------------------------------------------

CLIP_NAMES = Names(("layer_norm1", "layer_norm2"), *attention_names("self_attn", "out_proj"))


# It takes what another encoder makes of the patches, and has no norm at the end.
ON_TOP = ("unlimited_ocr_vision_encoder",)


def clip_layer(c: Config, width: int) -> Block:
    c.divides("hidden_size", "num_attention_heads")
    inner, heads = c.size("intermediate_size"), c.size("num_attention_heads")
    return vision_layer(CLIP_NAMES, width, heads, inner, c.word("hidden_act"))


def clip(c: Config, prefix: str) -> Tower:
    width = c.size("hidden_size")
    c.ignore("projection_dim", "vocab_size")
    side = pair(c, "patch_size")
    b, e = start(width)
    alone = c.model_type not in ON_TOP
    x, channels = e.input, c.size("num_channels")
    if alone:
        x = patch_projection(e, "patch_embedding", width, channels, *side, bias=False)
    x = learned(e, x, "class_embedding", width)
    x = learned(e, x, "position_embedding.weight", patches(c) + 1, width)
    b.layer_norm(x, "pre_layrnorm")
    last = ends_in("post_layernorm") if alone else None
    return stacked(c, prefix, width, b, clip_layer(c, width), "encoder.layers.{}", last)


BLIP_NAMES = Names(("layer_norm1", "layer_norm2"), ("self_attn.qkv",), "self_attn.projection")


# The channels of an image where no field says.
COLOURS = 3


def blip(c: Config, prefix: str) -> Tower:
    """One linear makes queries, keys and values; positions are a bare parameter."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("projection_dim")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    x = learned(e, e.input, "class_embedding", 1, 1, width)
    x = patch_projection(e, "patch_embedding", width, COLOURS, *side)
    learned(e, x, "position_embedding", 1, patches(c) + 1, width)
    layer = vision_layer(
        BLIP_NAMES,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(query=c.flag("qkv_bias", True)),
    )
    return stacked(c, prefix, width, b, layer, "encoder.layers.{}", ends_in("post_layernorm"))


# Patches come flattened, and the table of positions has num_patches rows.
FLATTENED = ("siglip2_vision_model", "cosmos3_edge_vision")


def siglip(c: Config, prefix: str) -> Tower:
    """No class token; a pooling head with a learned query, unless vision_use_head is false."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("projection_size", "vision_use_head", "vocab_size", "spatial_merge_size")
    c.ignore("projection_dim")
    headed = c.model_type.startswith(("siglip", "phi4"))
    pooled = headed and c.flag("vision_use_head", True)
    c.ignore("crop_size", "feature_layer")
    channels = c.size("num_channels")
    b, e = start(width)
    if c.model_type in FLATTENED:
        x = patch_projection(e, "patch_embedding", width, channels * side[0] * side[1])
        rows = c.size("num_patches")
    else:
        x = patch_projection(e, "patch_embedding", width, channels, *side)
        rows = 0 if c.model_type == "video_llama_3_vision" else patches(c)
    if rows:  # else positions are rotated in
        learned(e, x, "position_embedding.weight", rows, width)
    layer = clip_layer(c, width)
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    merges = c.model_type in MERGING
    window = prod(c.sizes("window_kernel_size") or ()) if merges else 0
    c.ignore("insert_layer_id")

    def last(b: BlockBuilder, x: Tensor) -> None:
        x = b.layer_norm(x, "post_layernorm")
        if merges:
            window_merger(b.part("vit_merger"), x, c.size("num_attention_heads"), inner, window)
        if pooled:
            pooling_head(b.part("head"), x, inner, activation)

    return stacked(c, prefix, width, b, layer, "encoder.layers.{}", last)


# Towers in which one layer's patches are merged by windows.
MERGING = ("minicpm_ocr_vision", "minicpmv4_6_vision", "minicpmv4_7_vision")


def window_merger(b: BlockBuilder, x: Tensor, heads: int, inner: int, window: int) -> None:
    """Attention in windows, whose patches two linears then bring to the place of one."""
    width, a = x.width, b.part("self_attn", "attention")
    y = b.layer_norm(x, "layer_norm1")
    q, k, v = (a.linear(y, f"{name}_proj", width, bias=True) for name in "qkv")
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, window=window, causal=False)
    x = b.add(x, a.linear(out, "out_proj", width, bias=True, split="row"))
    f = b.part("", "feed_forward")
    y = b.layer_norm(f.opaque("join", width * window, (), (x,)), "pre_norm")
    y = f.activation(f.linear(y, "linear_1", inner * window, bias=True), "gelu_pytorch_tanh")
    f.linear(y, "linear_2", width, bias=True, split="row")


def pooling_head(b: BlockBuilder, x: Tensor, inner: int, activation: str) -> None:
    """One learned query attends to all patches; then norm and feed-forward part."""
    width = x.width
    weights = (
        b.weight("probe", 1, 1, width, kind="embedding"),
        b.weight("attention.in_proj_weight", 3 * width, width),
        b.weight("attention.in_proj_bias", 3 * width),
    )
    # keys and values of every patch; the query is one token per image
    flops = 2 * width * 2 * width
    x = b.opaque("attention", width, weights, (x,), group="attention", flops_per_token=flops)
    a = b.part("", "attention")
    x = a.linear(x, "attention.out_proj", width, bias=True, split="row")
    f = b.part("", "feed_forward")
    y = f.linear(b.layer_norm(x, "layernorm"), "mlp.fc1", inner, bias=True)
    y = f.activation(y, activation)
    f.linear(y, "mlp.fc2", width, bias=True, split="row")


# ---- ViT and DINO -------------------------------------------------------------------------------


def vit(c: Config, prefix: str) -> Tower:
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("encoder_stride", "pooler_output_size", "pooler_act")
    c.divides("hidden_size", "num_attention_heads")
    extra = {"ijepa": 0, "deit": 2}.get(c.model_type, 1)
    b, e = start(width)
    x = patch_projection(e, "patch_embeddings.projection", width, c.size("num_channels"), *side)
    if extra:
        x = learned(e, x, "cls_token", 1, 1, width)
    if c.model_type == "deit":
        x = learned(e, x, "distillation_token", 1, 1, width)
    learned(e, x, "position_embeddings", 1, patches(c) + extra, width)
    bias = c.flag("qkv_bias")
    layer = vision_layer(
        Names(("layernorm_before", "layernorm_after"), *attention_names("attention", "o_proj")),
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(bias, bias, bias),
    )
    return stacked(c, prefix, width, b, layer, "layers.{}", ends_in("layernorm"))


# A gated feed-forward part has two thirds of the width, rounded up to a multiple of this
# (Transformers' Dinov2SwiGLUFFN).
GATED_MULTIPLE = 8


def dino_names(c: Config, width: int) -> tuple[Names, int, str]:
    """The names of DINOv2's layers, the inner width and the activation: plain, or gated."""
    inner, gated = int(width * c.number("mlp_ratio", 4)), c.flag("use_swiglu_ffn")
    c.ignore("hidden_act")
    if gated:
        inner = -(-int(inner * 2 / 3) // GATED_MULTIPLE) * GATED_MULTIPLE
    names = Names(
        ("norm1", "norm2"),
        *attention_names("attention", "o_proj"),
        feed=GATED_FEED if gated else ("mlp.fc1", "mlp.fc2"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        gated=gated,
    )
    return names, inner, "silu" if gated else c.word("hidden_act")


def dinov2(c: Config, prefix: str) -> Tower:
    """Layer scales, a mask token that plain training does not use, registers in one kin."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("layerscale_value", "drop_path_rate", "apply_layernorm", "reshape_hidden_states")
    c.ignore("stage_names", "out_features", "out_indices")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    x = patch_projection(e, "patch_embeddings.projection", width, c.size("num_channels"), *side)
    x = learned(e, x, "cls_token", 1, 1, width)
    if c.flag("use_mask_token", True):
        x = learned(e, x, "mask_token", 1, width)
    if c.model_type == "dinov2_with_registers":
        registers = c.count("num_register_tokens")
        if registers:
            x = learned(e, x, "register_tokens", 1, registers, width)
    learned(e, x, "position_embeddings", 1, patches(c) + 1, width)
    bias, heads = c.flag("qkv_bias"), c.size("num_attention_heads")
    names, inner, activation = dino_names(c, width)
    layer = vision_layer(names, width, heads, inner, activation, Biases(bias, bias, bias))
    return stacked(c, prefix, width, b, layer, "encoder.layer.{}", ends_in("layernorm"))


def dinov3(c: Config, prefix: str) -> Tower:
    """Rotary positions over the patches; biases each by its own switch."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("layerscale_value", "drop_path_rate", "apply_layernorm", "reshape_hidden_states")
    c.ignore("stage_names", "out_features", "out_indices", "image_size", "pos_embed_*")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    x = patch_projection(e, "patch_embeddings", width, c.size("num_channels"), *side)
    for name, count in (("cls_token", 1), ("mask_token", 1)):
        x = learned(e, x, name, 1, count, width)
    learned(e, x, "register_tokens", 1, c.count("num_register_tokens"), width)
    gated = c.flag("use_gated_mlp")
    names = Names(
        ("norm1", "norm2"),
        *attention_names("attention", "o_proj"),
        GATED_FEED if gated else GATED_FEED[1:],
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        gated=gated,
    )
    switches = ("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias")
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    biases = Biases(*(c.flag(name) for name in switches))
    layer = vision_layer(names, width, heads, inner, c.word("hidden_act"), biases, rotary=True)
    return stacked(c, prefix, width, b, layer, "model.layer.{}", ends_in("norm"))


# ---- Pixtral and InternVL -----------------------------------------------------------------------


def pixtral(c: Config, prefix: str) -> Tower:
    """Rotary positions, RMS norms, a gated feed-forward part, no biases."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("image_size", "head_dim", "vocab_size")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    x = patch_projection(e, "patch_conv", width, c.size("num_channels"), *side, bias=False)
    b.rms_norm(x, "ln_pre")
    names = Names(
        ("attention_norm", "ffn_norm"),
        *attention_names("attention", "o_proj"),
        feed=tuple(f"feed_forward.{name}_proj" for name in ("gate", "up", "down")),
        rms=True,
        gated=True,
    )
    c.divides("hidden_size", "num_attention_heads")
    layer = vision_layer(
        names,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        NONE,
        rotary=True,
    )
    return stacked(c, prefix, width, b, layer, "transformer.layers.{}", None)


def internvl(c: Config, prefix: str) -> Tower:
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("layer_scale_init_value", "drop_path_rate")
    c.divides("hidden_size", "num_attention_heads")
    style = c.one_of("norm_type", ("layer_norm", "rms_norm"))
    b, e = start(width)
    x = patch_projection(e, "patch_embeddings.projection", width, c.size("num_channels"), *side)
    x = learned(e, x, "cls_token", 1, 1, width)
    if c.flag("use_mask_token"):
        x = learned(e, x, "mask_token", 1, 1, width)
    if c.flag("use_absolute_position_embeddings"):
        learned(e, x, "position_embeddings", 1, patches(c) + 1, width)
    bias = c.flag("attention_bias")
    names = Names(
        ("layernorm_before", "layernorm_after"),
        *attention_names("attention", "projection_layer"),
        scales=("lambda_1", "lambda_2"),
        head_norms=("attention.q_norm", "attention.k_norm") if c.flag("use_qk_norm") else None,
        norms_all_heads=True,
        rms=style == "rms_norm",
    )
    layer = vision_layer(
        names,
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(bias, bias, bias),
    )
    where = "layers.{}" if c.model_type == "qianfan_ocr_vision" else "encoder.layer.{}"
    last = None if c.flag("use_mean_pooling") else ends_in("layernorm")
    return stacked(c, prefix, width, b, layer, where, last)
