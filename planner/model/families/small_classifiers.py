"""Image classifiers of other makes: MobileNet v1, PVT and ImageGPT."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.residual_networks import block, finished, stages, with_norm
from planner.model.families.vision_layers import NOT_MODELLED, learned, patch_projection
from planner.model.heads import labels
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


def build(c: Config) -> ModelSpec:
    families = {"mobilenet_v1": mobilenet_v1, "pvt": pvt, "imagegpt": imagegpt}
    return families[c.model_type](c)


# ---- MobileNet v1: depthwise and pointwise convolutions in turn ----------------------------------

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
FIRST_CHANNELS = 32


def mobilenet_v1(c: Config) -> ModelSpec:
    c.ignore("hidden_act", "tf_padding", "image_size")
    factor, least = c.number("depth_multiplier", 1.0), c.size("min_depth")
    c.require(factor > 0, "depth_multiplier", "a number above 0")
    depth, shrunk = FIRST_CHANNELS, 1
    after = max(int(depth * factor), least)
    first = block("stem", after)
    channels = c.size("num_channels")
    with_norm(first, first.input, "mobilenet_v1.conv_stem", channels, after, 3)
    places = []
    for i, stride in enumerate(STRIDES):
        before, shrunk = after, shrunk * stride
        if stride == 2 or i == 0:
            depth *= 2
            after = max(int(depth * factor), least)
        b = block("layer", before)
        name = f"mobilenet_v1.layer.{2 * i}"
        x = with_norm(b, b.input, name, before, before, 3, groups=before, shrunk=shrunk)
        with_norm(b, x, f"mobilenet_v1.layer.{2 * i + 1}", before, after, 1, shrunk=shrunk)
        places.append(Placed("", b.block()))
    end = BlockBuilder("head", after, sequence="image")
    return finished(c, first.block(), places, after, end, "classifier")


# ---- PVT: a pyramid of transformers whose keys and values are thinned out ------------------------


def pvt(c: Config) -> ModelSpec:
    c.ignore("drop_path_rate", "num_encoder_blocks")
    sizes = stages(c, c.size("num_channels"))
    names = ("patch_sizes", "strides", "num_attention_heads", "mlp_ratios")
    given = {name: c.sizes(name) or () for name in (*names, "sequence_reduction_ratios")}
    for name, values in given.items():
        c.require(len(values) == len(sizes), name, f"{len(sizes)} numbers")
    same = c.size("num_encoder_blocks") == len(sizes)
    c.require(same, "num_encoder_blocks", f"{len(sizes)}, as many as hidden_sizes")
    image, places = c.size("image_size"), []
    for i, (before, after, depth) in enumerate(sizes):
        side = (image if i == 0 else image // 2 ** (i + 1)) // given["patch_sizes"][i]
        last = i == len(sizes) - 1
        b = BlockBuilder("patch embedding", before, sequence="image")
        e = b.part(f"pvt.encoder.patch_embeddings.{i}", "embedding")
        kernel = given["strides"][i]
        x = patch_projection(e, "projection", after, before, kernel, kernel)
        x = e.layer_norm(x, "layer_norm")
        if last:
            x = learned(e, x, "cls_token", 1, 1, after)
        learned(e, x, "position_embeddings", 1, side * side + last, after)
        places.append(Placed("", b.block()))
        heads, ratio = given["num_attention_heads"][i], given["mlp_ratios"][i]
        layer = pvt_layer(c, after, heads, ratio, given["sequence_reduction_ratios"][i])
        prefix = f"pvt.encoder.block.{i}."
        places += [Placed(f"{prefix}{j}.", layer) for j in range(depth)]
    end = BlockBuilder("head", after, sequence="image")
    end.layer_norm(end.input, "pvt.encoder.layer_norm")
    first = places.pop(0)
    return finished(c, first.block, places, after, end, "classifier")


def pvt_layer(c: Config, width: int, heads: int, ratio: int, reduction: int) -> Block:
    c.require(heads > 0 and width % heads == 0, "num_attention_heads", f"a divisor of {width}")
    bias, activation = c.flag("qkv_bias"), c.word("hidden_act")
    b = BlockBuilder("layer", width, sequence="image")
    a = b.part("attention", "attention")
    x = b.layer_norm(b.input, "layer_norm_1")
    q = a.linear(x, "self.query", width, bias=bias)
    if reduction > 1:
        where = "self.sequence_reduction"
        x = convolution(a, x, where, width, width, reduction, bias=True, shrunk=reduction)
        x = a.layer_norm(x, "self.layer_norm")
    k, v = (a.linear(x, f"self.{name}", width, bias=bias) for name in ("key", "value"))
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    x = b.add(b.input, a.linear(out, "output.dense", width, bias=True, split="row"))
    f = b.part("mlp", "feed_forward")
    y = f.linear(b.layer_norm(x, "layer_norm_2"), "dense1", width * ratio, bias=True)
    b.add(x, f.linear(f.activation(y, activation), "dense2", width, bias=True, split="row"))
    return b.block()


# ---- ImageGPT: GPT-2 over quantised pixels, norms without bias --------------------


def imagegpt(c: Config) -> ModelSpec:
    c.ignore("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
    c.ignore("tie_word_embeddings")
    width, heads = c.size("n_embd"), c.size("n_head")
    c.divides("n_embd", "n_head")
    inner, activation = c.size("n_inner", 4 * width), c.word("activation_function")
    b = BlockBuilder("embedding", 0, sequence="image")
    e = b.part("transformer", "embedding")
    x = e.embedding("wte", c.size("vocab_size"), width)
    e.add(x, e.embedding("wpe", c.size("n_positions"), width, split="whole", positions=True))
    layer = BlockBuilder("layer", width, sequence="image")
    a, f = layer.part("attn", "attention"), layer.part("mlp", "feed_forward")
    x = weighted_norm(layer, layer.input, "ln_1")
    h = blocks.Heads(heads, heads, width // heads)
    qkv = a.linear(x, "c_attn", 3 * width, bias=True, transposed=True)
    q, k, v = a.split(qkv, width, width, width)
    out = blocks.rotated_attention(a, q, k, v, h, rotary=0)
    y = a.linear(out, "c_proj", width, bias=True, split="row", transposed=True)
    x = layer.add(layer.input, y)
    y = weighted_norm(layer, x, "ln_2")
    y = f.activation(f.linear(y, "c_fc", inner, bias=True, transposed=True), activation)
    layer.add(x, f.linear(y, "c_proj", width, bias=True, split="row", transposed=True))
    end = BlockBuilder("head", width, sequence="image")
    x = weighted_norm(end, end.input, "transformer.ln_f")
    end.part("", "output_head").linear(x, "score", labels(c), split="whole")
    layers = layers_of(c, "n_layer")
    made = layer.block()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=width,
        embedding=Placed("", b.block()),
        layers=tuple(Placed(f"transformer.h.{i}.", made) for i in range(layers)),
        head=Placed("", end.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=c.finish(),
        not_trainable_because=NOT_MODELLED,
    )


def weighted_norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.layer_norm(x, name, bias=False)
