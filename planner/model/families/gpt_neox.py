"""GPT-NeoX, GPT-J and CodeGen: partly rotated heads, attention and feed-forward side by side."""

from __future__ import annotations

from collections.abc import Callable

from planner.model import blocks, wiring
from planner.model.assemble import layer, layers_of, rotary_fraction
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Names, framed
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec

DENSE = ("dense_h_to_4h", "dense_4h_to_h")


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "gpt_neox": gpt_neox,
        "gpt_neox_japanese": gpt_neox_japanese,
        "gptj": gptj,
        "codegen": gptj,
    }
    return builders[c.model_type](c)


def gpt_neox(c: Config) -> ModelSpec:
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    h = Heads(heads, heads, c.divides("hidden_size", "num_attention_heads"))
    bias, rotary = c.flag("attention_bias"), rotary_fraction(c, "rotary_pct")
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.fused_query_attention(
            b.part("attention", "attention"),
            x,
            h,
            names=("query_key_value", "dense"),
            bias=bias,
            output_bias=bias,
            rotary=rotary,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=DENSE,
        )

    b = BlockBuilder("decoder", width)
    if c.flag("use_parallel_residual"):
        attended = attention(b, layer(b, b.input, "input_layernorm"))
        fed = feed_forward(b, layer(b, b.input, "post_attention_layernorm"))
        b.add(b.add(fed, attended), b.input)
    else:
        wiring.pre_norm(b, layer, attention, feed_forward)
    return framed(
        c,
        Names("gpt_neox", "embed_in", layers="layers", final="final_layer_norm"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c),
        width=width,
    )


def gpt_neox_japanese(c: Config) -> ModelSpec:
    """No biases but one of the last layer's attention; attention in eager steps only."""
    width, heads, layers = c.size("hidden_size"), c.size("num_attention_heads"), layers_of(c)
    h = Heads(heads, heads, c.divides("hidden_size", "num_attention_heads"))
    rotary, activation = rotary_fraction(c, "rotary_pct"), c.word("hidden_act")
    inner = int(width * c.number("intermediate_multiple_size", 4))

    def block(name: str) -> Block:
        def attention(b: BlockBuilder, x: Tensor) -> Tensor:
            part = b.part("attention", "attention")
            out = blocks.fused_query_attention(
                part,
                x,
                h,
                names=("query_key_value", "dense"),
                rotary=rotary,
                eager_only=True,
                softmax_float32=False,
            )
            return part.add_bias(out, "dense_bias") if name == "last" else out

        def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
            return blocks.feed_forward(
                b.part("mlp", "feed_forward"),
                x,
                intermediate_size=inner,
                activation=activation,
                bias=False,
                names=DENSE,
            )

        b = BlockBuilder(name, width)
        wiring.pre_norm(b, layer, attention, feed_forward)
        return b.block()

    pattern = (*("decoder",) * (layers - 1), "last")
    return framed(
        c,
        Names(
            "gpt_neox_japanese",
            "embed_in",
            layers="layers",
            final="final_layer_norm",
            head="embed_out",
        ),
        {name: block(name) for name in set(pattern)},
        pattern,
        width=width,
    )


def gptj(c: Config) -> ModelSpec:
    """GPT-J has three linears for queries, keys and values; CodeGen one, whose parts it copies."""
    width, heads = c.size("n_embd"), c.size("n_head")
    h = Heads(heads, heads, c.divides("n_embd", "n_head"))
    rotated = c.size("rotary_dim", h.head_dim)
    c.require(rotated <= h.head_dim, "rotary_dim", f"at most the head's width, {h.head_dim}")
    inner, activation = c.size("n_inner", 4 * width), c.word("activation_function")
    c.ignore("n_ctx")
    positions, own = c.size("n_positions"), c.model_type == "codegen"

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("attn", "attention")
        if own:
            fused = part.linear(x, "qkv_proj", 3 * width)
            q, v, k = (part.copy(y) for y in part.split(fused, width, width, width))
        else:
            q, k, v = (part.linear(x, name, width) for name in ("q_proj", "k_proj", "v_proj"))
        share = rotated / h.head_dim
        out = blocks.rotated_attention(
            part, q, k, v, h, rotary=share, style="every_two", scores_float32=True
        )
        return part.linear(out, "out_proj", width, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("fc_in", "fc_out"),
        )

    b = BlockBuilder("decoder", width)
    x = layer(b, b.input, "ln_1")
    b.add(b.add(attention(b, x), feed_forward(b, x)), b.input)
    return framed(
        c,
        Names(),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c, "n_layer"),
        width=width,
        head_bias=True,
        # sines and cosines in float32: GPT-J has them once, CodeGen in every layer
        buffer_bytes=4 * positions * rotated * (layers_of(c, "n_layer") if own else 1),
    )
