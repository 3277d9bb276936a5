"""Vision towers of MiniMax-M3, Hunyuan 4, Inkling 2, Dots3, Molmo 2, Nemotron (RADIO), Hunyuan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.model.assemble import layer_types, layers_of
from planner.model.blocks import Experts, routed_experts
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.sam_towers import shrinking
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
from planner.model.families.vision_towers import Tower, clip_layer, dino_names, stacked, start
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

OPEN_NAMES = Names(("layer_norm1", "layer_norm2"), *attention_names("self_attn", "o_proj"))


def merged_linears(
    b: BlockBuilder, x: Tensor, times: int, inner: int, out: int, bias: bool
) -> Tensor:
    """`times` patches side by side through two linears; priced per patch."""
    joined = b.opaque("join", x.width * times, (), (x,))
    y = b.activation(b.linear(joined, "linear_1", inner, bias=bias), "gelu")
    return b.linear(y, "linear_2", out, bias=bias, split="row")


def minimax_m3(c: Config, prefix: str) -> Tower:
    """CLIP's layers with rotary positions over patches of two frames; no norm at the end."""
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("image_size", "spatial_merge_size")
    b, e = start(width)
    shape = (c.size("num_channels"), c.size("temporal_patch_size"), *side)
    b.layer_norm(patch_projection(e, "proj", width, *shape, bias=False), "pre_layrnorm")
    return stacked(c, prefix, width, b, clip_layer(c, width), "layers.{}", None)


def hunyuan4(c: Config, prefix: str) -> Tower:
    """A table of positions for the largest image; convolutions merge patches at the end."""
    width, side, out = c.size("hidden_size"), c.size("patch_size"), c.size("out_hidden_size")
    c.ignore("interpolate_mode", "num_key_value_heads")
    rows = (c.size("max_image_size") // side) ** 2 + 1
    b, e = start(width)
    x = patch_projection(e, "patch_embedding", width, c.size("num_channels"), side, side)
    learned(e, x, "position_embedding.weight", rows, width)
    heads, merge = c.size("num_attention_heads"), c.size("spatial_merge_size")
    head_dim = c.optional("head_dim") or c.divides("hidden_size", "num_attention_heads")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    layer = vision_layer(OPEN_NAMES, width, heads, inner, activation, head_dim=head_dim)

    def last(b: BlockBuilder, x: Tensor) -> None:
        m = b.part("patch_merger", "other")
        wide = width * merge**2
        x = m.rms_norm(x, "before_rms")
        y = convolution(m, x, "proj_conv", width, wide, merge, bias=True, shrunk=merge)
        y = convolution(m, m.activation(y, activation), "proj_out", wide, out, bias=True)
        learned(m, y, "image_newline", out)

    return replace(stacked(c, prefix, width, b, layer, "layers.{}", last), width=out)


def inkling2(c: Config, prefix: str) -> Tower:
    """Flattened patches, a class token with a position of its own, layer scales, a merger."""
    width, side, out = c.size("hidden_size"), c.size("patch_size"), c.size("text_hidden_size")
    c.ignore("layer_scale_init_value")
    c.divides("hidden_size", "num_attention_heads")
    inner = c.optional("intermediate_size") or int(width * c.number("mlp_ratio", 4))
    c.ignore("mlp_ratio")
    b, e = start(width)
    pixels = c.size("num_channels") * side * side
    x = patch_projection(e, "patch_embedding", width, pixels, bias=False)
    x = learned(e, x, "position_embedding.weight", c.size("posemb_grid_size") ** 2, width)
    x = learned(e, x, "class_embedding", width)
    b.layer_norm(learned(e, x, "cls_position_embedding", width), "pre_layernorm")
    layer = scaled_layer(c, width, inner)
    merge, middle = c.size("spatial_merge_size") ** 2, c.size("projection_hidden_dim")
    bias = c.flag("projector_bias")

    def last(b: BlockBuilder, x: Tensor) -> None:
        merged_linears(b.part("merger", "other"), x, merge, middle, out, bias)

    return replace(stacked(c, prefix, width, b, layer, "layers.{}", last), width=out)


SCALED_NAMES = Names(
    ("layernorm_before", "layernorm_after"),
    *attention_names("self_attn", "out_proj"),
    scales=("lambda_1", "lambda_2"),
)


def scaled_layer(c: Config, width: int, inner: int) -> Block:
    """CLIP's attention with rotary positions and a learned factor on each branch."""
    heads, activation = c.size("num_attention_heads"), c.word("hidden_act")
    return vision_layer(SCALED_NAMES, width, heads, inner, activation, rotary=True)


STEP_OLDER = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}


def step(c: Config, prefix: str) -> Tower:
    """Learned and rotary positions; two convolutions with stride 2 widen what comes out."""
    c.modernize(STEP_OLDER)
    width, side = c.size("hidden_size"), pair(c, "patch_size")
    c.ignore("layer_scale_init_value", "ls_init_value", "intermediate_size")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    channels = c.size("num_channels")
    x = patch_projection(e, "patch_embedding", width, channels, *side, bias=False)
    b.layer_norm(learned(e, x, "position_embedding.weight", patches(c), width), "pre_layernorm")
    layer = scaled_layer(c, width, int(width * c.number("mlp_ratio", 4)))
    wider = (2 * width, 4 * width)

    def last(b: BlockBuilder, x: Tensor) -> None:
        names = ("downsampler1", "downsampler2")
        shrinking(b.part("", "other"), x, names, wider, bias=True)

    return replace(stacked(c, prefix, width, b, layer, "layers.{}", last), width=wider[1])


# ---- Dots3: experts in the later layers, more of them in each -----------------------------------

# Experts of each layer where the config has neither mlp_layer_types nor pyramid_num_routed
# (configuration_dots3_note.py); -1: a dense layer.
PYRAMID = (*(-1,) * 25, *range(4, 65, 4), 64)
DOTS_NAMES = Names(
    ("norm1", "norm2"),
    ("attn.qkv",),
    "attn.proj",
    GATED_FEED,
    rms=True,
    gated=True,
    head_norms=("attn.q_norm", "attn.k_norm"),
)


def dots3(c: Config, prefix: str) -> Tower:
    older = {"embed_dim": "hidden_size", "num_heads": "num_attention_heads"}
    c.modernize({**older, "use_bias": "attention_bias"})
    width, out, side = c.size("hidden_size"), c.size("adapter_out_dim"), c.size("patch_size")
    c.ignore("router_scaling_factor", "router_scale", "is_causal")
    c.require(c.size("adapter_in_dim") == width, "adapter_in_dim", f"hidden_size = {width}")
    c.divides("hidden_size", "num_attention_heads")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("patch_embed", "embedding")
    x = patch_projection(e, "proj", width, c.size("num_channels"), side, side)
    e.rms_norm(x, "norm")
    counts = dots3_experts(c, layers_of(c))
    layers = {count: dots3_layer(c, width, count) for count in dict.fromkeys(counts)}
    end = BlockBuilder("vision end", width, sequence="image")
    end.rms_norm(end.input, "norm")
    merge = c.size("adapter_merge_size")
    same = c.size("spatial_merge_size") == merge
    c.require(same, "spatial_merge_size", f"adapter_merge_size = {merge}")
    m = end.part("merger", "other")
    wide = width * merge**2
    joined = m.opaque("join", wide, (), (m.layer_norm(m.input, "ln_q"),))
    y = m.activation(m.linear(joined, "mlp.0", wide, bias=True), "gelu")
    m.linear(y, "mlp.2", out, bias=True, split="row")
    places = [Placed(prefix, b.block())]
    places += [Placed(f"{prefix}blocks.{i}.", layers[n]) for i, n in enumerate(counts)]
    return Tower((*places, Placed(prefix, end.block())), out)


def dots3_experts(c: Config, layers: int) -> tuple[int, ...]:
    """How many experts each layer has; 0: it is dense."""
    pyramid = c.raw("pyramid_num_routed")
    if pyramid is None and c.words("mlp_layer_types") is None:
        pyramid = list(PYRAMID)
    c.ignore("mlp_layer_types", "num_local_experts")
    own = c.per_layer("per_layer_config", ("num_local_experts", "num_experts_per_tok")) or {}
    if pyramid is None:
        known = ("dense", "sparse")
        words = layer_types(c, layers, known=known, field="mlp_layer_types")
        every = c.size("num_local_experts")
        pyramid = [every if word == "sparse" else 0 for word in words]
    c.require(isinstance(pyramid, list), "pyramid_num_routed", "a list of whole numbers")
    complete = len(pyramid) == layers and all(isinstance(count, int) for count in pyramid)
    c.require(complete, "num_hidden_layers", f"{len(pyramid)}, the layers with known experts")
    counts = [max(count, 0) for count in pyramid]
    return tuple(own_experts(own, i, n) if n else 0 for i, n in enumerate(counts))


def own_experts(own: Mapping[int, Mapping[str, int]], layer: int, count: int) -> int:
    return own.get(layer, {}).get("num_local_experts", count)


def dots3_layer(c: Config, width: int, count: int) -> Block:
    """A dense layer, or one whose experts all have their matrices in one tensor."""
    heads, bias = c.size("num_attention_heads"), c.flag("attention_bias")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    biases = Biases(query=bias, output=bias, feed=c.flag("mlp_bias"))
    chosen = c.size("num_experts_per_tok", c.size("capacity_factor", 2))
    e = Experts(
        count, min(chosen, count), c.size("moe_intermediate_size"), activation, score="sigmoid"
    )

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        c.require(not c.flag("mlp_bias"), "mlp_bias", "false: experts have no biases")
        return routed_experts(b.part("mlp", "experts"), x, e)

    return vision_layer(
        DOTS_NAMES,
        width,
        heads,
        inner,
        activation,
        biases,
        rotary=True,
        feed=feed if count else None,
    )


# ---- Molmo 2 and RADIO --------------------------------------------------------------------------


def molmo2(c: Config, prefix: str) -> Tower:
    """Flattened patches and a table of positions; no norm at the end."""
    c.modernize(
        {
            "image_default_input_size": "image_size",
            "image_patch_size": "patch_size",
            "image_num_pos": "num_position_embeddings",
        }
    )
    width, side, heads = c.size("hidden_size"), c.size("patch_size"), c.size("num_attention_heads")
    size = c.resolved("image_size")
    c.require(isinstance(size, list) and len(size) == 2, "image_size", "height and width")
    grid = (size[0] // side) * (size[1] // side)
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    x = patch_projection(e, "patch_embedding", width, side * side * c.size("num_channels"))
    learned(e, x, "positional_embedding", c.size("num_position_embeddings", grid), width)
    bias = c.flag("attention_bias")
    layer = vision_layer(
        OPEN_NAMES,
        width,
        heads,
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(bias, bias, bias, bias),
        head_dim=c.size("head_dim"),
        kv_heads=c.size("num_key_value_heads"),
    )
    return stacked(c, prefix, width, b, layer, "layers.{}", None)


def radio(c: Config, prefix: str) -> Tower:
    """Class tokens and registers before the patches; films have a projection of their own."""
    width, side, heads = c.size("hidden_size"), c.size("patch_size"), c.size("num_attention_heads")
    c.ignore("layerscale_value", "drop_path_rate", "image_size", "patch_dim", "video_patch_dim")
    c.ignore("summary_idxs", "norm_mean", "norm_std")
    c.divides("hidden_size", "num_attention_heads")
    pixels, frames = c.size("num_channels") * side * side, c.optional("video_temporal_patch_size")
    b, e = start(width)
    x = patch_projection(e, "patch_projection", width, pixels, bias=False)
    if frames is not None:
        x = patch_projection(e, "video_patch_projection", width, frames * pixels, bias=False)
    x = learned(e, x, "position_embedding", 1, (c.size("max_img_size") // side) ** 2, width)
    learned(e, x, "cls_register_token", c.count("num_cls_tokens") + c.count("num_registers"), width)
    bias = c.flag("qkv_bias")
    names, inner, activation = dino_names(c, width)
    layer = vision_layer(names, width, heads, inner, activation, Biases(bias, bias, bias))
    return stacked(c, prefix, width, b, layer, "encoder.layer.{}", None)


def hunyuan_vl(c: Config, prefix: str) -> Tower:
    """Hunyuan-OCR: SigLIP's layers, positions for the largest picture and one more; no norm at the
    end."""
    width, side = c.size("hidden_size"), c.size("patch_size")
    c.ignore("interpolate_mode", "num_key_value_heads", "out_hidden_size", "spatial_merge_size")
    c.ignore("temporal_patch_size", "img_max_token_num", "min_image_size", "max_vit_seq_len")
    c.ignore("text_hidden_size")
    c.divides("hidden_size", "num_attention_heads")
    b, e = start(width)
    x = patch_projection(e, "patch_embedding", width, c.size("num_channels"), side, side)
    rows = (c.size("max_image_size") // side) ** 2 + 1
    learned(e, x, "position_embedding.weight", rows, width)
    heads, inner = c.size("num_attention_heads"), c.size("intermediate_size")
    layer = vision_layer(OPEN_NAMES, width, heads, inner, c.word("hidden_act"))
    return stacked(c, prefix, width, b, layer, "layers.{}", None)
