"""OPT: learned positions with an offset, biases everywhere, norms before or after each part."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import assemble, layers_of, output_head, token_embedding
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec

# Positions start at 2 in OPT's table (modeling_opt.py, OPTLearnedPositionalEmbedding).
POSITION_OFFSET = 2
NORM_NAMES = ("self_attn_layer_norm", "final_layer_norm")


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    narrow = c.size("word_embed_proj_dim", width)
    heads = c.size("num_attention_heads")
    h = Heads(heads, heads, c.divides("hidden_size", "num_attention_heads"))
    positions = c.size("max_position_embeddings") + POSITION_OFFSET
    bias, before = c.flag("enable_bias"), c.flag("do_layer_norm_before")
    affine = c.flag("layer_norm_elementwise_affine")
    inner, activation = c.size("ffn_dim"), c.word("activation_function")

    def norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
        return b.layer_norm(x, name, bias=affine, weight=affine)

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        part = b.part("self_attn", "attention")
        q = part.scale(part.linear(x, "q_proj", width, bias=bias))
        k = part.linear(x, "k_proj", width, bias=bias)
        v = part.linear(x, "v_proj", width, bias=bias)
        out = part.attention(q, k, v, heads=h.heads, kv_heads=h.kv_heads)
        return part.linear(out, "out_proj", width, bias=bias, split="row")

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            bias=bias,
        )

    b = BlockBuilder("decoder", width)
    if before:
        wiring.pre_norm(b, norm, attention, feed_forward, names=NORM_NAMES)
    else:
        wiring.norm_after_add(b, norm, attention, feed_forward, names=NORM_NAMES)

    def embedded(b: BlockBuilder, x: Tensor) -> Tensor:
        place = b.embedding("embed_positions", positions, width, split="whole", positions=True)
        if narrow != width:
            x = b.linear(x, "project_in", width, split="whole")
        return b.add(x, place)

    def narrowed(b: BlockBuilder, x: Tensor) -> Tensor:
        return b.linear(x, "model.decoder.project_out", narrow, split="whole")

    final = before and not c.flag("_remove_final_layer_norm")
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, narrow, prefix="model.decoder", after=embedded),
        blocks={"decoder": b.block()},
        pattern=("decoder",) * layers_of(c),
        head=output_head(
            width,
            vocab,
            tied_to="model.decoder.embed_tokens.weight" if c.flag("tie_word_embeddings") else None,
            norm=norm if final else None,
            norm_name="model.decoder.final_layer_norm",
            before=narrowed if narrow != width else None,
        ),
        layer_prefix="model.decoder.layers.{}.",
    )
