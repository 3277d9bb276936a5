"""BART and its kin: encoder-decoders with learned or sine positions, and their decoders alone.

A config whose class is ...ForCausalLM is the decoder alone; its cross-attention is there all the
same. What a family differs in is a row of KIN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.heads import architecture
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "the tensors that an encoder-decoder keeps for its backward pass are not modelled"


@dataclass(frozen=True)
class Kin:
    """What sets a family apart from BART.

    pre_norm          norms before each part, and one after the last layer
    offset            rows of the position tables beyond max_position_embeddings; None: no table
    embedding_norm    a norm after the embeddings
    final_norm        name of the norm after the last layer
    bias              biases of attention; "keys": all but the keys
    encoder           style of the encoder's attention where it is not BART's
    """

    pre_norm: bool = False
    offset: int | None = 2
    embedding_norm: bool = True
    final_norm: str | None = None
    bias: bool | str = True
    encoder: str = "bart"
    prefix: str = "model"
    head: str = "lm_head"
    tied_alone: bool = True


KIN = {
    "bart": Kin(),
    "plbart": Kin(),
    "mvp": Kin(),
    "mbart": Kin(pre_norm=True, final_norm="layer_norm"),
    "pegasus": Kin(pre_norm=True, final_norm="layer_norm", offset=0, embedding_norm=False),
    "blenderbot": Kin(pre_norm=True, final_norm="layer_norm", offset=0, embedding_norm=False),
    "blenderbot-small": Kin(offset=0),
    "marian": Kin(offset=0, embedding_norm=False),
    "m2m_100": Kin(pre_norm=True, final_norm="layer_norm", offset=None, embedding_norm=False),
    "bigbird_pegasus": Kin(
        pre_norm=True,
        final_norm="layernorm_embedding",
        offset=0,
        embedding_norm=False,
        bias=False,
        encoder="bigbird",
        tied_alone=False,
    ),
    "led": Kin(offset=0, encoder="longformer", prefix="led"),
    "whisper": Kin(
        pre_norm=True,
        final_norm="layer_norm",
        offset=0,
        embedding_norm=False,
        bias="keys",
        head="proj_out",
    ),
    "trocr": Kin(head="output_projection"),
}
SETTINGS = (
    *("scale_embedding", "is_decoder", "add_bias_logits", "add_final_layer_norm"),
    *("normalize_before", "normalize_embedding", "static_position_embeddings"),
    *("attention_type", "block_size", "num_random_blocks", "attention_window"),
    *("extra_pos_embeddings", "num_hidden_layers", "max_length", "num_beams"),
    *("decoder_start_token_id", "encoder_no_repeat_ngram_size", "apply_spec_augment"),
    *("use_weighted_layer_sum", "classifier_proj_size", "mask_time_prob", "mask_time_length"),
    *("mask_time_min_masks", "mask_feature_prob", "mask_feature_length"),
    *("mask_feature_min_masks", "median_filter_width"),
)


@dataclass(frozen=True)
class Stack:
    """One of the two stacks: name, layers, heads, inner width, rows of its position table."""

    name: str
    layers: int
    heads: int
    inner: int
    positions: int | None


Mixer = Callable[[BlockBuilder, Tensor, Stack, Kin], Tensor]


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    if c.model_type == "bigbird_pegasus":
        kin = replace(kin, bias=c.flag("use_bias"))
    c.ignore(*SETTINGS)
    width = c.size("d_model")
    alone = architecture(c).endswith("ForCausalLM")
    decoder = stack(c, kin, "decoder")
    tied = c.flag("tie_word_embeddings")
    if alone:
        spec = decoder_alone(c, kin, width, decoder, tied and kin.tied_alone)
    else:
        spec = encoder_decoder(c, kin, width, decoder, tied)
    return spec


def stack(c: Config, kin: Kin, name: str) -> Stack:
    heads = c.size(f"{name}_attention_heads")
    c.divides("d_model", f"{name}_attention_heads")
    whisper = "max_source_positions" if name == "encoder" else "max_target_positions"
    field = {"led": f"max_{name}_position_embeddings", "whisper": whisper}
    rows = None
    if kin.offset is not None:
        rows = c.size(field.get(c.model_type, "max_position_embeddings")) + kin.offset
    layers = layers_of(c, f"{name}_layers")
    return Stack(name, layers, heads, c.size(f"{name}_ffn_dim"), rows)


def decoder_alone(c: Config, kin: Kin, width: int, decoder: Stack, tied: bool) -> ModelSpec:
    c.ignore("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
    c.ignore("decoder_vocab_size", "share_encoder_decoder_embeddings", "num_mel_bins")
    c.ignore("max_source_positions", "use_prompt", "prompt_length", "prompt_mid_dim")
    prefix = f"{kin.prefix}.decoder"
    b = BlockBuilder("embedding", 0)
    inner = b.part(prefix, "embedding")
    vocab = c.size("decoder_vocab_size", c.size("vocab_size"))
    inner.embedding("embed_tokens", vocab, width)
    layers = placed_stack(c, kin, decoder, width)
    table = f"{prefix}.embed_tokens.weight"
    head = head_block(kin, width, vocab, table if tied else None)
    return finish(c, width, b.block(), layers, head)


def encoder_decoder(c: Config, kin: Kin, width: int, decoder: Stack, tied: bool) -> ModelSpec:
    """The embedding is shared by both stacks and the head, unless tie_word_embeddings is false."""
    c.require(not c.flag("use_prompt"), "use_prompt", "false: prompts are not modelled")
    c.ignore("prompt_length", "prompt_mid_dim")
    c.require(c.model_type != "trocr", "architectures", "TrOCRForCausalLM, the decoder")
    speech = c.model_type == "whisper"
    vocab = c.size("vocab_size")
    apart = not c.flag("share_encoder_decoder_embeddings", True)
    c.require(not apart, "share_encoder_decoder_embeddings", "true")
    same = c.size("decoder_vocab_size", vocab) == vocab
    c.require(same, "decoder_vocab_size", f"{vocab}, as vocab_size")
    b = BlockBuilder("embedding", 0)
    inner = b.part(kin.prefix, "embedding")
    shared = "decoder.embed_tokens" if speech else "shared"
    inner.embedding(shared, vocab, width)
    if not tied and not speech:
        for name in ("encoder.embed_tokens", "decoder.embed_tokens"):
            inner.embedding(name, vocab, width)
    encoder = stack(c, kin, "encoder")
    layers = placed_stack(c, kin, encoder, width) + placed_stack(c, kin, decoder, width)
    head = head_block(kin, width, vocab, f"{kin.prefix}.{shared}.weight" if tied else None)
    return finish(c, width, b.block(), layers, head)


def finish(c: Config, width: int, embedding: Block, layers: list[Placed], head: Block) -> ModelSpec:
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=width,
        embedding=Placed("", embedding),
        layers=tuple(layers),
        head=Placed("", head),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=NOT_MODELLED,
    )


def head_block(kin: Kin, width: int, vocab: int, tied_to: str | None) -> Block:
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    h.cross_entropy(h.linear(b.input, kin.head, vocab, split="vocabulary", tied_to=tied_to))
    return b.block()


def placed_stack(c: Config, kin: Kin, s: Stack, width: int) -> list[Placed]:
    """Positions, layers and the last norm of one stack."""
    sequence = "encoder" if s.name == "encoder" else "text"
    prefix = f"{kin.prefix}.{s.name}."
    first = BlockBuilder(f"{s.name} positions", width, sequence=sequence)
    e = first.part("", "embedding")
    x = e.input
    if c.model_type == "whisper" and s.name == "encoder":
        x = spectrogram(c, e, width)
    has_table = s.positions is not None
    has_norm = kin.embedding_norm
    if c.model_type == "trocr":
        has_table = c.flag("use_learned_position_embeddings")
        has_norm = c.flag("layernorm_embedding")
    if has_table and s.positions is not None:
        x = e.add(x, e.embedding("embed_positions", s.positions, width, split="whole"))
    if has_norm:
        e.layer_norm(x, "layernorm_embedding")
    if s.name == "encoder":
        layer = encoder_layer(c, kin, s, width)
    else:
        layer = decoder_layer(c, kin, s, width)
    placed = [Placed(prefix, first.block())]
    placed += [Placed(f"{prefix}layers.{i}.", layer) for i in range(s.layers)]
    if kin.final_norm:
        last = BlockBuilder(f"{s.name} norm", width, sequence=sequence)
        last.layer_norm(last.input, kin.final_norm)
        placed.append(Placed(prefix, last.block()))
    return placed


def spectrogram(c: Config, b: BlockBuilder, width: int) -> Tensor:
    """Whisper's two convolutions over the mel bands of the sound, the second with stride 2."""
    bands, taps = c.size("num_mel_bins"), 3
    x = b.input
    for name, channels in (("conv1", bands), ("conv2", width)):
        kernel = b.weight(f"{name}.weight", width, channels, taps)
        weights = (kernel, b.weight(f"{name}.bias", width))
        x = b.opaque(name, width, weights, (x,), flops_per_token=2 * width * channels * taps)
    return x


# ---- layers -------------------------------------------------------------------------------------


def encoder_layer(c: Config, kin: Kin, s: Stack, width: int) -> Block:
    b = BlockBuilder("encoder", width, sequence="encoder")
    styles = {"bart": attention, "bigbird": bigbird_attention, "longformer": longformer_attention}
    x = joined(b, kin, b.input, "self_attn_layer_norm", styles[kin.encoder], s, "self_attn")
    feed_forward(b, c, kin, s, x)
    return b.block()


def decoder_layer(c: Config, kin: Kin, s: Stack, width: int) -> Block:
    b = BlockBuilder("decoder", width)
    x = joined(b, kin, b.input, "self_attn_layer_norm", attention, s, "self_attn")
    states = c.size("cross_attention_hidden_size", width)
    cross = cross_attention(states)
    x = joined(b, kin, x, "encoder_attn_layer_norm", cross, s, "encoder_attn")
    feed_forward(b, c, kin, s, x)
    return b.block()


def joined(
    b: BlockBuilder, kin: Kin, x: Tensor, norm: str, mixer: Mixer, s: Stack, name: str
) -> Tensor:
    """Residual addition with the norm before the part or after it."""
    inner = b.part(name, "attention")
    y = b.layer_norm(x, norm) if kin.pre_norm else x
    y = b.add(x, mixer(inner, y, s, kin))
    return y if kin.pre_norm else b.layer_norm(y, norm)


def feed_forward(b: BlockBuilder, c: Config, kin: Kin, s: Stack, x: Tensor) -> Tensor:
    f = b.part("", "feed_forward")
    y = b.layer_norm(x, "final_layer_norm") if kin.pre_norm else x
    y = f.activation(f.linear(y, "fc1", s.inner, bias=True), c.word("activation_function"))
    y = b.add(x, f.linear(y, "fc2", x.width, bias=True, split="row"))
    return y if kin.pre_norm else b.layer_norm(y, "final_layer_norm")


def attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    bias = bool(kin.bias)
    k = b.linear(x, "k_proj", x.width, bias=kin.bias is True)
    v = b.linear(x, "v_proj", x.width, bias=bias)
    q = b.linear(x, "q_proj", x.width, bias=bias)
    causal = s.name == "decoder"
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=causal)
    return b.linear(out, "out_proj", x.width, bias=bias, split="row")


def cross_attention(states: int) -> Mixer:
    """Keys and values from the encoder's output, priced as if it were as long as the text."""

    def part(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
        bias = bool(kin.bias)
        encoded = b.opaque("encoder_hidden_states", states, ())
        k = b.linear(encoded, "k_proj", x.width, bias=kin.bias is True)
        v = b.linear(encoded, "v_proj", x.width, bias=bias)
        q = b.linear(x, "q_proj", x.width, bias=bias)
        out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
        return b.linear(out, "out_proj", x.width, bias=bias, split="row")

    return part


def bigbird_attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    names, bias = ("query", "key", "value"), bool(kin.bias)
    q, k, v = (b.linear(x, f"self.{name}", x.width, bias=bias) for name in names)
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
    return b.linear(out, "output", x.width, bias=bias, split="row")


def longformer_attention(b: BlockBuilder, x: Tensor, s: Stack, kin: Kin) -> Tensor:
    """Local attention, and matrices of their own for the tokens that see everything."""
    width, inner = x.width, b.part("longformer_self_attn")
    names = ("query", "key", "value")
    q, k, v = (inner.linear(x, name, width, bias=True) for name in names)
    weights: list[Weight] = []
    for name in names:
        weights.append(inner.weight(f"{name}_global.weight", width, width, split="column"))
        weights.append(inner.weight(f"{name}_global.bias", width, split="column"))
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False, weights=weights)
    return b.linear(out, "output", width, bias=True, split="row")
