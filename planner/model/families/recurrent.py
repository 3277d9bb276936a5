"""Recurrent decoders without softmax attention, or nearly so: RecurrentGemma, RWKV, xLSTM."""

from __future__ import annotations

from planner.model import blocks, counted
from planner.model.assemble import assemble, layers_of, output_head, rms_float32, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import (
    SCAN_NOT_MODELLED,
    convolution_flops,
    depthwise_convolution,
    recurrence,
)
from planner.model.wiring import Part, pre_norm


def build(c: Config) -> ModelSpec:
    return {"recurrent_gemma": recurrent_gemma, "rwkv": rwkv, "xlstm": xlstm}[c.model_type](c)


# ---- RecurrentGemma: gated linear recurrences and local attention --------------------------------

GEMMA_KINDS = ("recurrent", "attention")


def recurrent_gemma(c: Config) -> ModelSpec:
    c.ignore("w_init_variance_scale", "final_w_init_variance_scale", "head_dim")
    width, vocab, layers = c.size("hidden_size"), c.size("vocab_size"), layers_of(c)
    types = c.words("block_types") or ()
    known = bool(types) and set(types) <= set(GEMMA_KINDS)
    c.require(known, "block_types", "a list of recurrent and attention")
    pattern = tuple(types[i % len(types)] for i in range(layers))
    names = ("temporal_pre_norm", "channel_pre_norm")
    kinds = {}
    for kind in dict.fromkeys(pattern):
        b = BlockBuilder(kind, width)
        mixer = gemma_recurrence(c) if kind == "recurrent" else gemma_attention(c)
        pre_norm(b, rms_float32, mixer, gemma_feed_forward(c), names=names)
        kinds[kind] = b.block()
    c.ignore("lru_width", "conv1d_width", "attention_window_size", "num_key_value_heads")
    c.ignore("attention_bias")
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, after=lambda b, x: b.scale(x)),
        blocks=kinds,
        pattern=pattern,
        head=output_head(
            width,
            vocab,
            tied_to="model.embed_tokens.weight" if c.flag("tie_word_embeddings") else None,
            norm=rms_float32,
            norm_name="model.final_norm",
            after=lambda b, x: b.softcap(x) if c.has("logits_soft_cap") else x,
        ),
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def gemma_attention(c: Config) -> Part:
    heads, window = c.size("num_attention_heads"), c.size("attention_window_size")
    head_dim = c.divides("hidden_size", "num_attention_heads")
    h = blocks.Heads(heads, c.size("num_key_value_heads", heads), head_dim)
    bias = c.flag("attention_bias")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("temporal_block", "attention")
        return blocks.grouped_query_attention(
            inner, x, h, bias=bias, output_bias=True, rotary=0.5, window=window
        )

    return part


def gemma_recurrence(c: Config) -> Part:
    """RG-LRU: gates from one small matrix per head, then a diagonal recurrence."""
    heads, kernel = c.size("num_attention_heads"), c.size("conv1d_width")
    lru = c.size("lru_width", c.size("hidden_size"))
    block, activation = lru // heads, c.word("hidden_activation")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("temporal_block", "state_space")
        y = inner.activation(inner.linear(x, "linear_y", lru, bias=True), activation)
        z = inner.linear(x, "linear_x", lru, bias=True)
        gates = [
            inner.weight(f"rg_lru.{gate}_gate_{what}", heads, *shape, kind="vector")
            for gate in ("input", "recurrent")
            for what, shape in (("weight", (block, block)), ("bias", (block,)))
        ]
        weights = (
            inner.weight("rg_lru.recurrent_param", lru),
            *gates,
            *depthwise_convolution(inner, "conv_1d", lru, kernel, bias=True),
        )
        products = 2 * 2 * heads * block * block
        flops = convolution_flops(lru, kernel) + products
        z = recurrence(inner, "rg_lru", lru, (z,), weights, state=lru, other_flops=flops)
        return inner.linear(inner.multiply(z, y), "linear_out", x.width, bias=True, split="row")

    return part


def gemma_feed_forward(c: Config) -> Part:
    half, activation = c.size("intermediate_size") // 2, c.word("hidden_activation")
    return lambda b, x: blocks.gated_feed_forward(
        b.part("mlp_block", "feed_forward"),
        x,
        intermediate_size=half,
        activation=activation,
        bias=True,
    )


# ---- RWKV: time mixing and channel mixing --------------------------------------------------------


def rwkv(c: Config) -> ModelSpec:
    c.ignore("context_length", "rescale_every")
    width, vocab, layers = c.size("hidden_size"), c.size("vocab_size"), layers_of(c)
    inner = c.size("intermediate_size", 4 * width)
    channels = c.size("attention_hidden_size", width)
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="rwkv", name="embeddings"),
        blocks={
            "first": rwkv_layer(width, channels, inner, first=True),
            "layer": rwkv_layer(width, channels, inner, first=False),
        },
        pattern=("first", *("layer",) * (layers - 1)),
        head=output_head(
            width,
            vocab,
            tied_to="rwkv.embeddings.weight" if c.flag("tie_word_embeddings") else None,
            norm=lambda b, x, name: b.layer_norm(x, name),
            norm_name="rwkv.ln_out",
            name="head",
        ),
        layer_prefix="rwkv.blocks.{}.",
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def rwkv_layer(width: int, channels: int, inner: int, *, first: bool) -> Block:
    b = BlockBuilder("first" if first else "layer", width)
    x = b.layer_norm(b.input, "pre_ln") if first else b.input
    b_time = b.part("attention", "state_space")
    mixed = time_shift(b_time, b.layer_norm(x, "ln1"), ("key", "value", "receptance"))
    key, value, receptance = (
        b_time.linear(y, name, channels)
        for y, name in zip(mixed, ("key", "value", "receptance"), strict=True)
    )
    scan = (b_time.weight("time_decay", channels), b_time.weight("time_first", channels))
    out = recurrence(b_time, "wkv", channels, (key, value), scan, state=channels)
    out = b_time.multiply(b_time.activation(receptance, "sigmoid"), out)
    x = b.add(x, b_time.linear(out, "output", width, split="row"))
    b_channel = b.part("feed_forward", "feed_forward")
    key, receptance = time_shift(b_channel, b.layer_norm(x, "ln2"), ("key", "receptance"))
    key = b_channel.activation(b_channel.linear(key, "key", inner), "relu2")
    value = b_channel.linear(key, "value", width, split="row")
    receptance = b_channel.linear(receptance, "receptance", width, split="whole")
    b.add(x, b_channel.multiply(b_channel.activation(receptance, "sigmoid"), value))
    return b.block()


def time_shift(b: BlockBuilder, x: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    """Each token mixed with the one before it, by a learned share of each channel."""
    return [
        b.opaque(
            f"time_mix_{name}",
            x.width,
            (b.weight(f"time_mix_{name}", 1, 1, x.width, kind="vector"),),
            (x,),
        )
        for name in names
    ]


# ---- xLSTM: matrix memories ----------------------------------------------------------------------

XLSTM_SETTINGS = (
    "norm_reduction_force_float32",
    "chunkwise_kernel",
    "sequence_kernel",
    "step_kernel",
    "mode",
    "chunk_size",
    "return_last_states",
    "autocast_kernel_dtype",
    "eps",
    "inference_state_dtype",
    "gate_soft_cap",
    "output_logit_soft_cap",
    "max_inference_chunksize",
    "tie_word_embeddings",  # the head has a matrix of its own whatever it says
    "add_out_norm",
)


def xlstm(c: Config) -> ModelSpec:
    c.ignore(*XLSTM_SETTINGS)
    embedded = c.optional("embedding_dim")
    width, vocab = c.size("hidden_size", embedded), c.size("vocab_size")
    embedded = embedded or width
    c.runs_only_if(embedded == width, "embedding_dim", f"hidden_size = {width}")
    # num_hidden_layers counts only where num_blocks is left out
    layers = layers_of(c, "num_blocks" if c.has("num_blocks") else "num_hidden_layers")
    c.ignore("num_hidden_layers")
    c.one_of("weight_mode", ("single",))
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, embedded, prefix="backbone", name="embeddings"),
        blocks={"mlstm": xlstm_layer(c, width)},
        pattern=("mlstm",) * layers,
        head=output_head(
            width, vocab, norm_name="backbone.out_norm", after=lambda b, x: b.softcap(x)
        ),
        layer_prefix="backbone.blocks.{}.",
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def xlstm_layer(c: Config, width: int) -> Block:
    heads = c.size("num_heads")
    keys = int(width * c.number("qk_dim_factor", 0.5))
    values = int(width * c.number("v_dim_factor", 1.0))
    fits = keys % heads == 0 == values % heads
    c.runs_only_if(fits, "num_heads", f"a divisor of {keys}, {values}")
    multiple = c.size("ffn_round_up_to_multiple_of")
    inner = int((width * c.number("ffn_proj_factor", 2.667) + multiple - 1) // multiple) * multiple
    bias = c.flag("use_bias")
    b = BlockBuilder("mlstm", width)
    x = xlstm_norm(b, b.input, "norm_mlstm", bias)
    m = b.part("mlstm_layer", "state_space")
    projections = (("q", keys), ("k", keys), ("v", values))
    made = [m.linear(x, name, size, bias=bias) for name, size in projections]
    gate = m.activation(m.linear(x, "ogate_preact", values, bias=bias), "sigmoid")
    gates = ("igate_preact", "fgate_preact")
    made += [m.softcap(m.linear(x, name, heads, bias=True)) for name in gates]
    norm = counted.norm(m, "multihead_norm", values // heads * heads, bias)
    out = recurrence(m, "scan", values, made, norm, state=values * keys // heads)
    out = m.multiply(out, gate)
    x = b.add(b.input, m.linear(out, "out_proj", width, bias=bias, split="row"))
    y = blocks.gated_feed_forward(
        b.part("ffn", "feed_forward"),
        xlstm_norm(b, x, "norm_ffn", bias),
        intermediate_size=inner,
        activation="silu",
        bias=bias,
        names=("proj_up_gate", "proj_up", "proj_down"),
    )
    b.add(x, y)
    return b.block()


def xlstm_norm(b: BlockBuilder, x: Tensor, name: str, bias: bool) -> Tensor:
    """An RMS norm that may have a bias."""
    x = b.rms_norm(x, name)
    if not bias:
        return x
    weight = b.weight(f"{name}.bias", x.width)
    return b.opaque(f"{name}.bias", x.width, (weight,), (x,), group="norm")
