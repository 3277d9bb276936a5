"""OPT, BioGPT and XGLM: biases everywhere, norms before (or after) each part."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks, counted, wiring
from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Names, Step, framed
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.wiring import Norm

# Positions start at 2 in the table (modeling_opt.py, OPTLearnedPositionalEmbedding).
POSITION_OFFSET = 2
NORM_NAMES = ("self_attn_layer_norm", "final_layer_norm")


def build(c: Config) -> ModelSpec:
    return {"opt": opt, "biogpt": biogpt, "xglm": xglm}[c.model_type](c)


@dataclass(frozen=True)
class Shape:
    """One layer.

    scaled_query: queries are scaled before the attention, which then does not.
    softmax_float32, clamped_scores: as Operation's facts of these names.
    """

    width: int
    heads: int
    intermediate_size: int
    activation: str
    bias: bool = True
    scaled_query: bool = True
    eager_only: bool = False
    softmax_float32: bool = True
    clamped_scores: bool = False
    cross_attention: bool = False


def layer_norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.layer_norm(x, name)


def decoder_layer(s: Shape, norm: Norm = layer_norm, before: bool = True) -> Block:
    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attn", "attention")
        q = part.linear(x, "q_proj", s.width, bias=s.bias)
        q = part.scale(q) if s.scaled_query else q
        k = part.linear(x, "k_proj", s.width, bias=s.bias)
        v = part.linear(x, "v_proj", s.width, bias=s.bias)
        out = part.attention(
            q,
            k,
            v,
            heads=s.heads,
            kv_heads=s.heads,
            eager_only=s.eager_only,
            softmax_float32=s.softmax_float32,
            clamped_scores=s.clamped_scores,
        )
        return part.linear(out, "out_proj", s.width, bias=s.bias, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        if s.cross_attention:
            x = cross_attention(b, x)
        return blocks.feed_forward(
            b.part("", "feed_forward"),
            x,
            intermediate_size=s.intermediate_size,
            activation=s.activation,
            bias=s.bias,
        )

    b = BlockBuilder("decoder", s.width)
    join = wiring.pre_norm if before else wiring.norm_after_add
    join(b, norm, attention, feed_forward, names=NORM_NAMES)
    return b.block()


def cross_attention(b: BlockBuilder, x: Tensor) -> Tensor:
    """Weights that a language model alone has and never runs: there is no encoder."""
    d, inner = x.width, b.part("encoder_attn", "attention")
    weights = []
    for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
        weights += [inner.weight(f"{name}.weight", d, d), inner.weight(f"{name}.bias", d)]
    norm = "encoder_attn_layer_norm"
    weights += [b.weight(f"{norm}.weight", d), b.weight(f"{norm}.bias", d)]
    return b.opaque("encoder_attn", d, weights, (x,), group="attention")


def opt(c: Config) -> ModelSpec:
    width = c.size("hidden_size")
    narrow = c.size("word_embed_proj_dim", width)
    c.divides("hidden_size", "num_attention_heads")
    before, affine = c.flag("do_layer_norm_before"), c.flag("layer_norm_elementwise_affine")
    shape = Shape(
        width,
        c.size("num_attention_heads"),
        c.size("ffn_dim"),
        c.word("activation_function"),
        bias=c.flag("enable_bias"),
    )

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        return b.layer_norm(x, name, bias=affine, weight=affine)

    def widened(b: BlockBuilder, x: Tensor) -> Tensor:
        return b.linear(x, "project_in", width, split="whole")

    def narrowed(b: BlockBuilder, x: Tensor) -> Tensor:
        return b.linear(x, "model.decoder.project_out", narrow, split="whole")

    final = before and not c.flag("_remove_final_layer_norm")
    return framed(
        c,
        Names(
            "model.decoder",
            "embed_tokens",
            "embed_positions",
            "layers",
            "final_layer_norm" if final else None,
        ),
        {"decoder": decoder_layer(shape, norm, before)},
        ("decoder",) * layers_of(c),
        width=width,
        embedding_width=narrow,
        positions=c.size("max_position_embeddings") + POSITION_OFFSET,
        norm=norm,
        embedded=widened if narrow != width else None,
        before_head=narrowed if narrow != width else None,
    )


def scaled_if(c: Config) -> Step | None:
    return (lambda b, x: b.scale(x)) if c.flag("scale_embedding") else None


def biogpt(c: Config) -> ModelSpec:
    width = c.size("hidden_size")
    c.divides("hidden_size", "num_attention_heads")
    shape = Shape(
        width,
        c.size("num_attention_heads"),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        scaled_query=False,
        softmax_float32=False,
    )
    return framed(
        c,
        Names(
            "biogpt",
            "embed_tokens",
            "embed_positions",
            "layers",
            "layer_norm",
            head="output_projection",
        ),
        {"decoder": decoder_layer(shape)},
        ("decoder",) * layers_of(c),
        width=width,
        positions=c.size("max_position_embeddings") + POSITION_OFFSET,
        embedded=scaled_if(c),
    )


# Rows of XGLM's table of sines before the first position (modeling_xglm.py).
XGLM_OFFSET = 2


def xglm(c: Config) -> ModelSpec:
    """Sinusoidal positions; attention in eager steps only."""
    width = c.size("d_model")
    c.divides("d_model", "attention_heads")
    shape = Shape(
        width,
        c.size("attention_heads"),
        c.size("ffn_dim"),
        c.word("activation_function"),
        eager_only=True,
        softmax_float32=False,
        clamped_scores=True,
        cross_attention=c.flag("add_cross_attention"),
    )
    scale = scaled_if(c)

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        return b.add_constant(x if scale is None else scale(b, x))

    return framed(
        c,
        Names("model", "embed_tokens", layers="layers", final="layer_norm"),
        {"decoder": decoder_layer(shape)},
        ("decoder",) * layers_of(c, "num_layers"),
        width=width,
        embedded=embedded,
        not_trainable_because=counted.NEVER_RUN if shape.cross_attention else None,
        buffer_elements=(c.size("max_position_embeddings") + XGLM_OFFSET) * width,
    )
