"""T5Gemma: Gemma's layers as an encoder-decoder; its second version also sees."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import (
    composite,
    heads_of,
    layer_types,
    layers_of,
    rms_float32,
    window_of,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.projectors import gemma3
from planner.model.families.towers import tower
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.wiring import Part

NOT_MODELLED = "the tensors that an encoder-decoder keeps for its backward pass are not modelled"
UNUSED = (
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("tie_word_embeddings", "sliding_window", "sliding_window_pattern"),
)


def build(c: Config) -> ModelSpec:
    second = c.model_type == "t5gemma2"
    c.ignore("vocab_size", "image_token_index", "eoi_token_index")
    encoder, decoder = c.sub("encoder"), c.sub("decoder")
    read = encoder.sub("text_config") if second else encoder
    for stack in (read, decoder):
        stack.ignore(*UNUSED)
    outside, width, vocab = (
        read.size("hidden_size"),
        decoder.size("hidden_size"),
        decoder.size("vocab_size"),
    )
    for name in ("hidden_size", "vocab_size") if second else ():
        like = read.size(name)
        decoder.require(decoder.size(name) == like, name, f"{like}, as the encoder's")
    tied = c.flag("tie_word_embeddings")
    where = "model.encoder.text_model" if second else "model.encoder"
    b = BlockBuilder("embedding", 0)
    table(b, where, read.size("vocab_size"), outside, second)
    own = not (tied and second)  # the second version has one table for all
    if own:
        table(b, "model.decoder", vocab, width, second)
    places, warnings = vision(encoder, outside) if second else ([], ())
    places += stacked(read, f"{where}.", None, second)
    # the second version's decoder reads its own and the encoder's tokens by the same matrices
    places += stacked(decoder, "model.decoder.", None if second else outside, second)
    h = BlockBuilder("head", width)
    head, name = h.part("", "output_head"), "lm_head.out_proj"
    to = f"{'model.decoder' if own else where}.embed_tokens.weight" if tied else None
    head.cross_entropy(head.linear(h.input, name, vocab, split="vocabulary", tied_to=to))
    parts = {id(part): part for part in (read, encoder, decoder)}
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=places,
        head=h.block(),
        warnings=(*warnings, *(w for part in parts.values() for w in part.finish())),
        not_trainable_because=NOT_MODELLED,
    )


def table(b: BlockBuilder, where: str, vocab: int, width: int, second: bool) -> None:
    """Tokens; in the second version also the vector that stands for the end of an image."""
    e = b.part(where, "embedding")
    x = e.scale(e.embedding("embed_tokens", vocab, width))
    if second:
        weight = e.weight("embed_tokens.eoi_embedding", width, kind="embedding")
        e.opaque("end of image", width, (weight,), (x,))


def vision(encoder: Config, width: int) -> tuple[list[Placed], tuple[str, ...]]:
    """SigLIP and Gemma 3's projector."""
    encoder.ignore("boi_token_index", "eoi_token_index", "image_token_index")
    encoder.ignore("tie_word_embeddings")
    seen = encoder.sub("vision_config")
    built = tower(seen, "model.encoder.vision_tower.")
    b = BlockBuilder("projector", built.width, sequence="image")
    where = "model.encoder.multi_modal_projector"
    gemma3(encoder, b.part(where, "other"), built, seen, width)
    return [*built.places, Placed("", b.block())], built.warnings


def stacked(c: Config, prefix: str, outside: int | None, normed: bool) -> list[Placed]:
    """The layers of one stack and its last norm; outside: width of what cross-attention reads."""
    kinds = layer_types(c, layers_of(c), known=("sliding_attention", "full_attention"))
    made = {kind: layer(c, prefix, kind, outside, normed) for kind in set(kinds)}
    width = c.size("hidden_size")
    end = BlockBuilder("norm", width, sequence=sequence_of(prefix))
    rms_float32(end, end.input, "norm")
    layers = [Placed(f"{prefix}layers.{i}.", made[kind]) for i, kind in enumerate(kinds)]
    return [*layers, Placed(prefix, end.block())]


def sequence_of(prefix: str) -> str:
    return "text" if "decoder" in prefix else "encoder"


def layer(c: Config, prefix: str, kind: str, outside: int | None, normed: bool) -> Block:
    """Norms before and after each part."""
    width, h, bias = c.size("hidden_size"), heads_of(c), c.flag("attention_bias")
    c.divides("hidden_size", "num_attention_heads")
    sequence = sequence_of(prefix)
    b = BlockBuilder(kind, width, sequence=sequence)

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("self_attn", "attention"),
            x,
            h,
            bias=bias,
            output_bias=bias,
            head_norm=blocks.rms_float32_of_heads if normed else None,
            window=window_of(c, kind),
            causal=sequence == "text",
        )

    def cross(b: BlockBuilder, x: Tensor) -> Tensor:
        a = b.part("cross_attn", "attention")
        encoded = a.opaque("encoder_hidden_states", outside or width, ())
        q = a.linear(x, "q_proj", h.q_width, bias=bias)
        k, v = (a.linear(encoded, f"{name}_proj", h.kv_width, bias=bias) for name in "kv")
        out = a.attention(q, k, v, heads=h.heads, kv_heads=h.kv_heads, causal=False)
        return a.linear(out, "o_proj", width, bias=bias, split="row")

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.gated_feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=c.size("intermediate_size"),
            activation=c.word("hidden_activation"),
        )

    parts: list[tuple[str, Part]] = [("self_attn", attention), ("feedforward", feed)]
    if outside is not None:
        parts.insert(1, ("cross_attn", cross))
    x = b.input
    for name, part in parts:
        y = part(b, rms_float32(b, x, f"pre_{name}_layernorm"))
        x = b.add(x, rms_float32(b, y, f"post_{name}_layernorm"))
    return b.block()
