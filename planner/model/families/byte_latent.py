"""Byte Latent Transformer: a small model groups bytes to patches, a large one sees patches."""

from __future__ import annotations

from planner.model import counted
from planner.model.assemble import MOST_LAYERS
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

# Lengths of the byte groups that are hashed, where none are given (configuration_blt.py).
HASHED_LENGTHS = 6
WHY = "bytes are grouped to patches whose number depends on the text"


def build(c: Config) -> ModelSpec:
    encoder, world = c.sub("encoder_config"), c.sub("global_config")
    decoder, patcher = c.sub("decoder_config"), c.sub("patcher_config")
    c.ignore("patch_size", "patching_mode", "patching_threshold", "patching_batch_size")
    c.ignore("max_patch_length", "local_attention_window_len")
    lengths = c.sizes("encoder_hash_byte_group_size")
    groups = (len(lengths) if lengths else HASHED_LENGTHS) * c.size(
        "encoder_hash_byte_group_nb_functions"
    )
    rows = groups * c.size("encoder_hash_byte_group_vocab")
    inner, outer = encoder.size("hidden_size"), decoder.size("hidden_size")

    b = BlockBuilder("embedding", 0)
    e = b.part("model", "embedding")
    e.embedding("local_encoder.embed_tokens", encoder.size("vocab_size"), inner)
    e.embedding("encoder_hash_tok_embedding", rows, inner)
    layers = [
        *stack(encoder, "model.local_encoder."),
        Placed("model.local_encoder.", crossing(encoder, encoder.size("hidden_size"))),
        *stack(world, "model.global_transformer."),
        Placed("model.local_decoder.", crossing(decoder, decoder.size("hidden_size_global"))),
        *stack(decoder, "model.local_decoder."),
    ]
    made = encoder.size("hidden_size") * c.size("cross_attn_k")
    if made != world.size("hidden_size"):
        layers.append(
            Placed("model.global_transformer.", projection(made, world.size("hidden_size")))
        )
    if c.flag("patch_in_forward"):
        layers += [
            *stack(patcher, "model.patcher."),
            Placed("model.patcher.", patcher_ends(patcher)),
        ]
    h = BlockBuilder("head", outer)
    x = h.rms_norm(h.input, "model.local_decoder.norm")
    tied = "model.local_encoder.embed_tokens.weight" if c.flag("tie_word_embeddings") else None
    alike = (encoder.size("vocab_size"), inner) == (c.size("vocab_size"), outer)
    c.require(tied is None or alike, "tie_word_embeddings", "false: the two differ in shape")
    head = h.part("", "output_head")
    x = head.linear(x, "lm_head", c.size("vocab_size"), split="vocabulary", tied_to=tied)
    head.cross_entropy(x)
    warnings = [w for part in (c, encoder, world, decoder, patcher) for w in part.finish()]
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=world.size("hidden_size"),
        embedding=Placed("", b.block()),
        layers=tuple(layers),
        head=Placed("", h.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=tuple(warnings),
        not_trainable_because=WHY,
    )


def stack(c: Config, prefix: str) -> list[Placed]:
    """A plain Llama-like stack; one block, placed as often as there are layers."""
    c.ignore("sliding_window", "cross_attn_k", "hidden_act", "head_dim", "vocab_size", "dropout")
    c.ignore("cross_attn_all_layers", "hidden_size_global", "encoder_cross_output_size")
    c.ignore("tie_word_embeddings")
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", heads)
    head = c.divides("hidden_size", "num_attention_heads")
    inner = c.size("intermediate_size", 8 * width // 3)
    b = BlockBuilder(c.model_type, width)
    x = b.rms_norm(b.input, "input_layernorm")
    a = b.part("self_attn", "attention")
    weights = [
        *counted.linear(a, "q_proj", width, heads * head),
        *counted.linear(a, "k_proj", width, kv_heads * head),
        *counted.linear(a, "v_proj", width, kv_heads * head),
        *counted.linear(a, "o_proj", heads * head, width),
    ]
    x = b.add(b.input, counted.module(a, "", width, weights, x))
    normal = b.rms_norm(x, "post_attention_layernorm")
    m = b.part("mlp", "feed_forward")
    weights = [
        *counted.linear(m, "gate_proj", width, inner),
        *counted.linear(m, "up_proj", width, inner),
        *counted.linear(m, "down_proj", inner, width),
    ]
    b.add(x, counted.module(m, "", width, weights, normal))
    block, count = b.block(), c.size("num_hidden_layers")
    c.require(count <= MOST_LAYERS, "num_hidden_layers", f"at most {MOST_LAYERS} layers")
    return [Placed(f"{prefix}layers.{i}.", block) for i in range(count)]


def crossing(c: Config, patch_width: int) -> Block:
    """Between bytes and patches: a projection, and cross-attention in one layer or in all."""
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    kv = c.size("num_key_value_heads", heads) * (width // heads)
    count = c.size("num_hidden_layers") if c.flag("cross_attn_all_layers") else 1
    b = BlockBuilder(f"{c.model_type} crossing", width)
    a = b.part("", "attention")
    weights = counted.linear(
        a, "patch_embedding_projection", patch_width, width * c.size("cross_attn_k")
    )
    for i in range(count):
        part = a.part(f"cross_attn_layers.{i}")
        weights += counted.linear(part, "q_proj", width, width)
        weights += counted.linear(part, "k_proj", width, kv)
        weights += counted.linear(part, "v_proj", width, kv)
        weights += counted.linear(part, "o_proj", width, width)
        weights += counted.norm(part, "q_norm", width)
        weights += counted.norm(part, "k_norm", width)
    counted.module(a, "crossing", width, weights, b.input)
    return b.block()


def projection(inputs: int, outputs: int) -> Block:
    b = BlockBuilder("projection", inputs)
    weights = counted.linear(b, "token_embedding_projection", inputs, outputs)
    counted.module(b, "token_embedding_projection", outputs, weights, b.input)
    return b.block()


def patcher_ends(c: Config) -> Block:
    """The patcher's embedding, norm and head; frozen in Transformers."""
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    b = BlockBuilder("patcher", width)
    weights = [
        b.weight("embed_tokens.weight", vocab, width, kind="embedding"),
        *counted.norm(b, "norm", width),
        *counted.linear(b, "lm_head", width, vocab),
    ]
    counted.module(b, "patcher", width, weights, b.input)
    return b.block()
