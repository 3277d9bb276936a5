"""ImageGPT: GPT-2 over quantised pixels, norms without bias."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.gpt2 import cross_attention
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import labels
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec, Placed

HEADS = ("images",)


def build(c: Config) -> ModelSpec:
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
    if c.flag("add_cross_attention"):
        x = cross_attention(layer, x, norm_bias=False)
    y = weighted_norm(layer, x, "ln_2")
    y = f.activation(f.linear(y, "c_fc", inner, bias=True, transposed=True), activation)
    layer.add(x, f.linear(y, "c_proj", width, bias=True, split="row", transposed=True))
    end = BlockBuilder("head", width, sequence="image")
    x = weighted_norm(end, end.input, "transformer.ln_f")
    end.part("", "output_head").linear(x, "score", labels(c), split="whole")
    layers = layers_of(c, "n_layer")
    made = layer.block()
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=tuple(Placed(f"transformer.h.{i}.", made) for i in range(layers)),
        head=end.block(),
        not_trainable_because=NOT_MODELLED,
    )


def weighted_norm(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.layer_norm(x, name, bias=False)
