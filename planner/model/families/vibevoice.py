"""VibeVoice's tokenizers of sound: ConvNeXt's layers along time, in stages that get slower."""

from __future__ import annotations

from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, per_channel
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

# A convolution that joins r frames is this many times r frames long.
OVERLAP = 2


def tokenizer(c: Config, prefix: str) -> Tower:
    c.ignore("vae_std", "layer_scale_init_value")
    filters, taps = c.size("num_filters"), c.size("kernel_size")
    depths, ratios = c.sizes("depths") or (), c.sizes("downsampling_ratios") or ()
    fits = len(depths) > len(ratios) and min(*depths, *ratios) > 0 and sum(depths) <= MOST_LAYERS
    c.require(fits, "depths", f"{len(ratios) + 1} numbers above 0: one more than ratios")
    places = _stage(c, f"{prefix}stem.", c.size("channels"), filters, taps, depths[0])
    for i, ratio in enumerate(ratios):
        before, after = filters * 2**i, filters * 2 ** (i + 1)
        where, kernel = f"{prefix}conv_layers.{i}.", OVERLAP * ratio
        places += _stage(c, where, before, after, kernel, depths[i + 1])
    end = BlockBuilder("tokenizer end", after, sequence="audio")
    out = c.size("hidden_size")
    convolution(end.part("head"), end.input, "conv", after, out, (taps,), bias=True)
    return Tower((*places, Placed(prefix, end.block())), out)


def _stage(
    c: Config, prefix: str, before: int, after: int, kernel: int, depth: int
) -> list[Placed]:
    """A convolution that widens, then equal layers."""
    b = BlockBuilder("tokenizer stage", before, sequence="audio")
    convolution(b.part("conv", "other"), b.input, "conv", before, after, (kernel,), bias=True)
    layer = _layer(c, after)
    layers = [Placed(f"{prefix}stage.{j}.", layer) for j in range(depth)]
    return [Placed(prefix, b.block()), *layers]


def _layer(c: Config, width: int) -> Block:
    """A depthwise convolution, then a feed-forward part; each normed before and scaled after."""
    b = BlockBuilder("tokenizer layer", width, sequence="audio")
    inner, taps = c.size("ffn_expansion") * width, (c.size("kernel_size"),)
    x = b.rms_norm(b.input, "norm")
    y = convolution(b.part("mixer"), x, "conv", width, width, taps, groups=width, bias=True)
    x = b.add(b.input, per_channel(b, y, "gamma"))
    f = b.part("ffn", "feed_forward")
    y = f.linear(b.rms_norm(x, "ffn_norm"), "linear1", inner, bias=True)
    y = f.linear(f.activation(y, c.word("hidden_act")), "linear2", width, bias=True, split="row")
    b.add(x, per_channel(b, y, "ffn_gamma"))
    return b.block()


def projector(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """What the sound is like and what is said, each by two linears with a norm between."""
    c.ignore("acoustic_tokenizer_chunk_size")
    meaning = c.sub("semantic_tokenizer_encoder_config").size("hidden_size")
    for name, x in (("acoustic", b.input), ("semantic", b.make(meaning))):
        y: Tensor = b.rms_norm(b.linear(x, f"{name}_linear_1", width, bias=True), f"{name}_norm")
        b.linear(y, f"{name}_linear_2", width, bias=True, split="row")
