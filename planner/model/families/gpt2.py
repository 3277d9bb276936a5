"""GPT-2: learned positions, fused queries, keys and values, matrices stored (inputs, outputs)."""

from __future__ import annotations

from planner.model import blocks, wiring
from planner.model.assemble import assemble, layer, layers_of, output_head, token_embedding
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec


def build(c: Config) -> ModelSpec:
    width, vocab, heads = c.size("n_embd"), c.size("vocab_size"), c.size("n_head")
    positions = c.size("n_positions")
    h = Heads(heads, heads, c.divides("n_embd", "n_head"))
    inner, activation = c.size("n_inner", 4 * width), c.word("activation_function")
    c.ignore("scale_attn_weights", "scale_attn_by_inverse_layer_idx")
    upcast = c.flag("reorder_and_upcast_attn")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.fused_query_attention(
            b.part("attn", "attention"),
            x,
            h,
            names=("c_attn", "c_proj"),
            bias=True,
            output_bias=True,
            rotary=0,
            transposed=True,
            upcast=upcast,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("c_fc", "c_proj"),
            transposed=True,
        )

    b = BlockBuilder("decoder", width)
    wiring.pre_norm(b, layer, attention, feed_forward, names=("ln_1", "ln_2"))
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(
            vocab,
            width,
            prefix="transformer",
            name="wte",
            after=lambda b, x: b.add(
                x, b.embedding("wpe", positions, width, split="whole", positions=True)
            ),
        ),
        blocks={"decoder": b.block()},
        pattern=("decoder",) * layers_of(c, "n_layer"),
        head=output_head(
            width,
            vocab,
            tied_to="transformer.wte.weight" if c.flag("tie_word_embeddings") else None,
            norm=layer,
            norm_name="transformer.ln_f",
        ),
        layer_prefix="transformer.h.{}.",
    )
