"""What turns speech tokens into a waveform: Qwen2.5-Omni's and Qwen3-Omni's last parts."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, per_channel
from planner.model.families.vision_layers import (
    GATED_FEED,
    NONE,
    Biases,
    Names,
    attention_names,
    vision_layer,
)
from planner.model.families.vision_towers import Tower
from planner.model.operations import Block, Tensor
from planner.model.spec import Placed

# Taps of the first and the last convolution, and of those between (both modeling files).
TAPS = 7
# A convolution for each of three dilations, and as many after them.
DILATIONS = 3
# Widths of what tells the diffusion's time; shifts, scales and gates that come of it.
TIME, MODULATIONS, LAST_MODULATIONS = 256, 6, 2


def transposed(b: BlockBuilder, x: Tensor, name: str, out: int, taps: int) -> Tensor:
    """A transposed convolution along time: more tokens come out than go in."""
    weights = (b.weight(f"{name}.weight", x.width, out, taps), b.weight(f"{name}.bias", out))
    return b.opaque(name, out, weights, (x,), flops_per_token=2 * x.width * out * taps)


def wave(
    b: BlockBuilder, x: Tensor, name: str, out: int, taps: int = 1, *, bias: bool = True
) -> Tensor:
    return convolution(b, x, name, x.width, out, (taps,), bias=bias)


def snake(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """An activation with a learned frequency and size for each channel."""
    inner = b.part(name) if name else b
    return per_channel(inner, per_channel(inner, x, "alpha"), "beta")


# ---- Qwen2.5-Omni: a diffusion transformer, then BigVGAN -----------------------------------------


def token2wav(c: Config, prefix: str) -> Tower:
    d, v = c.sub("dit_config"), c.sub("bigvgan_config")
    places = [*diffusion(d, f"{prefix}code2wav_dit_model.")]
    places.append(Placed(f"{prefix}code2wav_bigvgan_model.", bigvgan(v)))
    return Tower(tuple(places), 1, (*d.finish(), *v.finish(), *c.finish()))


def diffusion(c: Config, prefix: str) -> list[Placed]:
    width, heads, head = (
        c.size(name) for name in ("hidden_size", "num_attention_heads", "head_dim")
    )
    mel, embedded, speaker = c.size("mel_dim"), c.size("emb_dim"), c.size("enc_dim")
    c.ignore("max_position_embeddings", "block_size", "look_ahead_layers", "repeats", "dropout")
    c.ignore("look_backward_layers", "rope_theta", "rope_parameters")
    first = BlockBuilder("speech tokens", embedded, sequence="audio")
    t = first.part("time_embed.time_mlp", "embedding")
    t.linear(t.linear(t.make(TIME), "0", width, bias=True), "2", width, bias=True)
    first.part("text_embed").embedding("codec_embed", c.size("num_embeds") + 1, embedded)
    e = first.part("input_embed", "embedding")
    speaker_encoder(c, e.part("spk_encoder"), mel, speaker)
    joined = mel + speaker + c.size("enc_emb_dim") + embedded
    e.linear(e.opaque("join", joined, (), (first.input,)), "proj", width, bias=True)
    b = BlockBuilder("diffusion layer", width, sequence="audio")
    x = b.linear(b.input, "attn_norm.linear", MODULATIONS * width, bias=True)
    x = b.split(x, *(width,) * MODULATIONS)[0]
    a, f = b.part("attn", "attention"), b.part("ff.ff", "feed_forward")
    q, k, value = (a.linear(x, f"to_{name}", heads * head, bias=True) for name in "qkv")
    out = a.attention(q, k, value, heads=heads, kv_heads=heads, causal=False)
    x = b.add(b.input, a.linear(out, "to_out.0", width, bias=True, split="row"))
    inner = int(width * c.number("ff_mult", 2))
    y = f.activation(f.linear(x, "0", inner, bias=True), "gelu_pytorch_tanh")
    b.add(x, f.linear(y, "3", width, bias=True, split="row"))
    last = BlockBuilder("spectrogram", width, sequence="audio")
    o = last.part("", "other")
    x = o.linear(o.input, "norm_out.linear", LAST_MODULATIONS * width, bias=True)
    o.linear(o.split(x, *(width,) * LAST_MODULATIONS)[0], "proj_out", mel, bias=True)
    places = [Placed(prefix, first.block())]
    places += [Placed(f"{prefix}transformer_blocks.{i}.", b.block()) for i in range(layers_of(c))]
    return [*places, Placed(prefix, last.block())]


def speaker_encoder(c: Config, b: BlockBuilder, mel: int, out: int) -> None:
    """ECAPA-TDNN: whose voice it is. Source: arXiv 2005.07143."""
    channels, kernels = c.sizes("enc_channels") or (), c.sizes("enc_kernel_sizes") or ()
    same = len(channels) == len(kernels) >= 2
    c.require(same, "enc_channels", "as many as enc_kernel_sizes, two or more")
    scale, narrow = c.size("enc_res2net_scale"), c.size("enc_se_channels")
    c.ignore("enc_dilations")
    x = wave(b, b.make(mel), "blocks.0.conv", channels[0], kernels[0])
    for i in range(1, len(channels) - 1):
        block, wide = b.part(f"blocks.{i}"), channels[i]
        c.require(wide % scale == 0, "enc_res2net_scale", f"a divisor of {wide}")
        x = wave(block, x, "tdnn1.conv", wide)
        share = block.opaque("share", wide // scale, (), (x,))
        for j in range(scale - 1):
            share = wave(block, share, f"res2net_block.blocks.{j}.conv", wide // scale, kernels[i])
        x = wave(block, block.opaque("shares", wide, (), (x, share)), "tdnn2.conv", wide)
        x = wave(block, wave(block, x, "se_block.conv1", narrow), "se_block.conv2", wide)
    end = channels[-1]
    x = wave(b, b.opaque("joined", end, (), (x,)), "mfa.conv", end, kernels[-1])
    pool = b.opaque("statistics", 3 * end, (), (x,))
    x = wave(b, pool, "asp.tdnn.conv", c.size("enc_attention_channels"))
    x = wave(b, x, "asp.conv", end)
    wave(b, b.opaque("mean and deviation", 2 * end, (), (x,)), "fc", out)


def bigvgan(c: Config) -> Block:
    """Source: arXiv 2206.04658: each stage halves the channels and draws time out."""
    start, rates = c.size("upsample_initial_channel"), c.sizes("upsample_rates") or ()
    steps, kernels = c.sizes("upsample_kernel_sizes") or (), c.sizes("resblock_kernel_sizes") or ()
    c.require(len(rates) == len(steps), "upsample_kernel_sizes", "as many as upsample_rates")
    dilations = c.raw("resblock_dilation_sizes")
    same = isinstance(dilations, list | tuple) and len(dilations) == len(kernels)
    c.require(same, "resblock_dilation_sizes", "as many as resblock_kernel_sizes")
    b = BlockBuilder("waveform", c.size("mel_dim"), sequence="audio")
    o, number = b.part("", "other"), 0
    x = wave(o, o.input, "conv_pre", start, TAPS)
    for stage, taps in enumerate(steps):
        channels = start // 2 ** (stage + 1)
        x = transposed(o, x, f"ups.{stage}.0", channels, taps)
        for kernel in kernels:
            block = o.part(f"resblocks.{number}")
            for i in range(DILATIONS):
                for j, name in enumerate(("convs1", "convs2")):
                    x = snake(block, x, f"activations.{2 * i + j}.act")
                    x = wave(block, x, f"{name}.{i}", channels, kernel)
            number += 1
    wave(o, snake(o, x, "activation_post.act"), "conv_post", 1, TAPS, bias=False)
    return b.block()


# ---- Qwen3-Omni: a small transformer, then convolutions ------------------------------------------

NAMES = Names(
    ("input_layernorm", "post_attention_layernorm"),
    *attention_names("self_attn", "o_proj"),
    feed=GATED_FEED,
    scales=("self_attn_layer_scale.scale", "mlp_layer_scale.scale"),
    rms=True,
    gated=True,
)
INNER = 4


def code2wav(c: Config, prefix: str) -> Tower:
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    head_dim = c.optional("head_dim") or c.divides("hidden_size", "num_attention_heads")
    c.ignore("max_position_embeddings", "layer_scale_initial_scale", "rope_theta")
    bias = c.flag("attention_bias")
    layer = vision_layer(
        NAMES,
        width,
        heads,
        c.size("intermediate_size"),
        c.word("hidden_act"),
        Biases(bias, bias, bias, bias, feed=False) if bias else NONE,
        rotary=True,
        sequence="audio",
        causal=True,
        head_dim=head_dim,
        kv_heads=c.size("num_key_value_heads"),
        window=c.optional("sliding_window"),
    )
    first = BlockBuilder("speech tokens", width, sequence="audio")
    rows = c.size("codebook_size") * c.size("num_quantizers")
    first.part("", "embedding").embedding("code_embedding", rows, width)
    last = BlockBuilder("waveform", width, sequence="audio")
    o = last.part("", "other")
    x = o.rms_norm(o.input, "pre_transformer.norm")
    for i, factor in enumerate(c.sizes("upsampling_ratios") or ()):
        x = drawn_out(o.part(f"upsample.{i}"), x, factor)
    decoder(c, o.part("decoder"), x)
    places = [Placed(prefix, first.block())]
    layers = layers_of(c)
    places += [Placed(f"{prefix}pre_transformer.layers.{i}.", layer) for i in range(layers)]
    return Tower((*places, Placed(prefix, last.block())), 1, c.finish())


def drawn_out(b: BlockBuilder, x: Tensor, factor: int) -> Tensor:
    """`factor` tokens out of one, then ConvNeXt's block."""
    width, n = x.width, b.part("1")
    x = transposed(b, x, "0.conv", width, factor)
    y = convolution(n, x, "dwconv.conv", width, width, (TAPS,), groups=width, bias=True)
    y = n.linear(n.layer_norm(y, "norm"), "pwconv1", INNER * width, bias=True)
    y = n.linear(n.activation(y, "gelu"), "pwconv2", width, bias=True, split="row")
    return n.add(x, per_channel(n, y, "gamma"))


def decoder(c: Config, b: BlockBuilder, x: Tensor) -> None:
    width, rates = c.size("decoder_dim"), c.sizes("upsample_rates") or ()
    x = wave(b, x, "0.conv", width, TAPS)
    for i, rate in enumerate(rates, 1):
        block, channels = b.part(f"{i}.block"), width // 2**i
        x = transposed(block, snake(block, x, "0"), "1.conv", channels, 2 * rate)
        for j in range(2, 2 + DILATIONS):
            unit = block.part(str(j))
            y = wave(unit, snake(unit, x, "act1"), "conv1.conv", channels, TAPS)
            x = unit.add(x, wave(unit, snake(unit, y, "act2"), "conv2.conv", channels))
    end = len(rates)
    wave(b, snake(b, x, str(end + 1)), f"{end + 2}.conv", 1, TAPS)
