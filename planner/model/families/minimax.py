"""MiniMax: lightning (linear) attention and softmax attention in turn, with routed experts."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import heads_of, layer_types, layers_of, llama_shaped, rms
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED, recurrence

KINDS = ("full_attention", "linear_attention")


def build(c: Config) -> ModelSpec:
    c.ignore("block_size", "mlp_alpha_factor", "mlp_beta_factor")
    for kind in ("full_attn", "linear_attn"):
        c.ignore(f"{kind}_alpha_factor", f"{kind}_beta_factor")
    layers = layers_of(c)
    pattern = layer_types(c, layers, lambda i: KINDS[i % 2], known=KINDS)
    kinds = {kind: decoder_layer(c, kind) for kind in dict.fromkeys(pattern)}
    return llama_shaped(c, kinds, pattern, not_trainable_because=SCAN_NOT_MODELLED)


def decoder_layer(c: Config, kind: str) -> Block:
    """The residual is the normed input, and each branch has constant factors."""
    h, activation = heads_of(c), c.word("hidden_act")
    e = blocks.Experts(
        c.size("num_local_experts"),
        c.size("num_experts_per_tok"),
        c.size("intermediate_size"),
        activation,
    )
    window = c.optional("sliding_window")
    b = BlockBuilder(kind, c.size("hidden_size"))
    x = rms(b, b.input, "input_layernorm")
    if kind == "linear_attention":
        out = lightning(b.part("self_attn", "state_space"), x, h, activation)
    else:
        inner = b.part("self_attn", "attention")
        out = blocks.grouped_query_attention(inner, x, h, window=window)
    x = b.add(b.scale(x), b.scale(out))
    x = rms(b, x, "post_attention_layernorm")
    out = blocks.routed_experts(b.part("mlp", "experts"), x, e)
    b.add(b.scale(x), b.scale(out))
    return b.block()


def lightning(b: BlockBuilder, x: Tensor, h: blocks.Heads, activation: str) -> Tensor:
    """A decaying sum of key x value products per head, normed and gated."""
    qkv = b.activation(b.linear(x, "qkv_proj", 3 * h.q_width), activation)
    out = recurrence(b, "scan", h.q_width, (qkv,), (), state=h.q_width * h.head_dim)
    out = b.rms_norm(out, "norm")
    gate = b.activation(b.linear(x, "output_gate", h.q_width), "sigmoid")
    return b.linear(b.multiply(gate, out), "out_proj", x.width, split="row")
