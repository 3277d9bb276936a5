"""Vision towers of Llama 4 and Llama 3.2 (mllama)."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import (
    Biases,
    Names,
    attention_names,
    learned,
    pair,
    patch_projection,
    patches,
    vision_layer,
)
from planner.model.families.vision_towers import Tower
from planner.model.spec import Placed

LLAMA_NAMES = Names(
    ("input_layernorm", "post_attention_layernorm"), *attention_names("self_attn", "o_proj")
)

GATED_NAMES = Names(
    ("input_layernorm", "post_attention_layernorm"),
    *attention_names("self_attn", "o_proj"),
    scales=("gate_attn", "gate_ffn"),
    scalar_scales=True,
)
# How many arrangements of tiles mllama knows where the config lists none.
DEFAULT_ASPECT_RATIOS = 8


def llama4(c: Config, prefix: str) -> Tower:
    """Flattened patches, a class token, rotary positions beside learned ones, pixel shuffle."""
    width, side, channels = c.size("hidden_size"), pair(c, "patch_size"), c.size("num_channels")
    c.ignore("vision_feature_select_strategy", "multi_modal_projector_bias", "projector_dropout")
    c.ignore("pixel_shuffle_ratio", "vision_output_dim", "vision_feature_layer")
    c.divides("hidden_size", "num_attention_heads")
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    pixels = channels * side[0] * side[1]
    x = patch_projection(e, "patch_embedding.linear", width, pixels, bias=False)
    x = learned(e, x, "class_embedding", width)
    x = learned(e, x, "positional_embedding_vlm", patches(c) + 1, width)
    b.layer_norm(x, "layernorm_pre")
    inner = c.size("intermediate_size")
    heads = c.size("num_attention_heads")
    layer = vision_layer(LLAMA_NAMES, width, heads, inner, c.word("hidden_act"), rotary=True)
    end = BlockBuilder("vision end", width, sequence="image")
    end.layer_norm(end.input, "layernorm_post")
    adapter = end.part("vision_adapter.mlp", "other")
    y = adapter.linear(adapter.opaque("shuffle", inner, ()), "fc1", c.size("projector_input_dim"))
    out = c.size("projector_output_dim")
    y = adapter.opaque("adapted", out, (), (adapter.activation(y, "gelu"),))  # as wide, to run
    adapter.linear(y, "fc2", out, split="row")
    layers = [Placed(f"{prefix}model.layers.{i}.", layer) for i in range(layers_of(c))]
    return Tower((Placed(prefix, b.block()), *layers, Placed(prefix, end.block())), width)


def mllama(c: Config, prefix: str) -> Tower:
    """Tiles of an image with gated positions; a second, gated stack runs over all of them."""
    width, side, channels = c.size("hidden_size"), pair(c, "patch_size"), c.size("num_channels")
    c.ignore("intermediate_layers_indices", "vision_output_dim", "max_aspect_ratio_id")
    heads, inner = c.size("attention_heads"), c.size("intermediate_size")
    c.require(width % heads == 0, "attention_heads", f"a divisor of {width}")
    tiles, tokens = c.size("max_num_tiles"), patches(c) + 1
    ratios = c.raw("supported_aspect_ratios")
    count = len(ratios) if isinstance(ratios, list | tuple) else DEFAULT_ASPECT_RATIOS
    b = BlockBuilder("patch embedding", width, sequence="image")
    e = b.part("", "embedding")
    x = patch_projection(e, "patch_embedding", width, channels, *side, bias=False)
    x = learned(e, x, "class_embedding", width)
    for name, shape in (
        ("gated_positional_embedding.gate", (1,)),
        ("gated_positional_embedding.embedding", (tokens, width)),
        ("gated_positional_embedding.tile_embedding.weight", (count + 1, tiles * tokens * width)),
        ("pre_tile_positional_embedding.gate", (1,)),
        ("pre_tile_positional_embedding.embedding.weight", (count + 1, tiles * width)),
    ):
        x = learned(e, x, name, *shape)
    b.layer_norm(x, "layernorm_pre")
    between = BlockBuilder("tile embedding", width, sequence="image")
    y = between.layer_norm(between.input, "layernorm_post")
    g = between.part("post_tile_positional_embedding", "embedding")
    y = learned(g, y, "gate", 1)
    learned(g, y, "embedding.weight", count + 1, tiles * width)
    biases = Biases(False, False, False, False, True)
    activation = c.word("hidden_act")
    layer = vision_layer(LLAMA_NAMES, width, heads, inner, activation, biases)
    gated = vision_layer(GATED_NAMES, width, heads, inner, activation, biases)
    places = [Placed(prefix, b.block())]
    places += [Placed(f"{prefix}transformer.layers.{i}.", layer) for i in range(layers_of(c))]
    places.append(Placed(prefix, between.block()))
    count = layers_of(c, "num_global_layers")
    places += [Placed(f"{prefix}global_transformer.layers.{i}.", gated) for i in range(count)]
    return Tower(tuple(places), width)
