"""BART and its kin: encoder-decoders with learned or sine positions, and their decoders alone.

A config whose class is ...ForCausalLM is the decoder alone; its cross-attention is there all the
same. What a family differs in is a row of KIN.
"""

from __future__ import annotations

from dataclasses import replace

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bart_layers import (
    Kin,
    Stack,
    decoder_layer,
    encoder_layer,
    spectrogram,
    subsampled,
)
from planner.model.heads import architecture
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "the tensors that an encoder-decoder keeps for its backward pass are not modelled"
SEAMLESS = Kin(
    pre_norm=True,
    final_norm="layer_norm",
    offset=None,
    embedding_norm=False,
    prefix="",
    stacks=("text_encoder", "text_decoder"),
    cross=("cross_attention", "cross_attention_layer_norm"),
    feed=("ffn", "ffn_layer_norm"),
    width="hidden_size",
)
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
        hears=spectrogram,
    ),
    "speech_to_text": Kin(
        pre_norm=True,
        final_norm="layer_norm",
        offset=None,
        embedding_norm=False,
        hears=subsampled,
    ),
    "trocr": Kin(head="output_projection"),
    "pegasus_x": Kin(
        pre_norm=True,
        final_norm="layer_norm",
        offset=None,
        embedding_norm=False,
        bias=False,
        global_tokens=True,
    ),
    "nllb-moe": Kin(
        pre_norm=True,
        final_norm="layer_norm",
        offset=None,
        embedding_norm=False,
        cross=("cross_attention", "cross_attention_layer_norm"),
        feed=("ffn", "ff_layer_norm"),
        routed=True,
    ),
    "fsmt": Kin(embedding_norm=False, head="model.decoder.output_projection", apart=True),
    "seamless_m4t": SEAMLESS,
    "seamless_m4t_v2": SEAMLESS,
}
SETTINGS = (
    *("scale_embedding", "is_decoder", "add_bias_logits", "add_final_layer_norm"),
    *("normalize_before", "normalize_embedding", "static_position_embeddings"),
    *("attention_type", "block_size", "num_random_blocks", "attention_window"),
    *("extra_pos_embeddings", "num_hidden_layers", "max_length", "num_beams"),
    *("decoder_start_token_id", "encoder_no_repeat_ngram_size", "apply_spec_augment"),
    *("use_weighted_layer_sum", "classifier_proj_size", "mask_time_prob", "mask_time_length"),
    *("mask_time_min_masks", "mask_feature_prob", "mask_feature_length"),
    *("mask_feature_min_masks", "median_filter_width", "stagger_local_blocks", "langs"),
    *("expert_capacity", "second_expert_policy", "normalize_router_prob_before_dropping"),
    *("batch_prioritized_routing", "moe_eval_capacity_token_fraction", "num_experts"),
    *("max_source_positions", "max_target_positions"),
)
# What Seamless M4T has beside its stacks of text: speech, units and the vocoder.
SPEECH = (
    *("speech_encoder_*", "t2u_*", "variance_predictor_*", "unit_*", "vocoder_*", "resblock_*"),
    *("adaptor_*", "add_adapter", "num_adapter_layers", "char_vocab_size"),
    *("feature_projection_input_dim", "lang_embed_dim", "spkr_embed_dim", "upsample_*"),
    *("num_conv_pos_*", "position_embeddings_type", "sampling_rate", "max_source_positions"),
    *("left_max_position_embeddings", "right_max_position_embeddings", "leaky_relu_slope"),
    *("rotary_embedding_base", "max_new_tokens", "conv_depthwise_kernel_size"),
)
# The padding token of FSMT where the config does not say; its positions begin behind it.
PADDING = 1


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    if c.model_type == "bigbird_pegasus":
        kin = replace(kin, bias=c.flag("use_bias"))
    c.ignore(*SETTINGS)
    if c.model_type.startswith("seamless"):
        alone = architecture(c).endswith("TextToText")
        c.require(alone, "architectures", "...ForTextToText, the two stacks of text")
        c.ignore(*SPEECH)
    width = c.size(kin.width)
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
    c.divides(kin.width, f"{name}_attention_heads")
    whisper = "max_source_positions" if name == "encoder" else "max_target_positions"
    field = {"led": f"max_{name}_position_embeddings", "whisper": whisper}
    rows = None
    if kin.offset is not None:
        rows = c.size(field.get(c.model_type, "max_position_embeddings")) + kin.offset
        if kin.apart:
            rows = rows - kin.offset + c.count("pad_token_id", PADDING) + 1
    layers = layers_of(c, f"{name}_layers")
    return Stack(name, layers, heads, c.size(f"{name}_ffn_dim"), rows)


def decoder_alone(c: Config, kin: Kin, width: int, decoder: Stack, tied: bool) -> ModelSpec:
    c.ignore("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
    c.ignore("decoder_vocab_size", "share_encoder_decoder_embeddings", "num_mel_bins")
    c.ignore("max_source_positions", "use_prompt", "prompt_length", "prompt_mid_dim")
    prefix = kin.stack("decoder")
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
    speech = kin.hears is not None
    vocab = c.size("vocab_size")
    apart = not c.flag("share_encoder_decoder_embeddings", True)
    c.require(not apart, "share_encoder_decoder_embeddings", "true")
    same = c.size("decoder_vocab_size", vocab) == vocab
    c.require(same, "decoder_vocab_size", f"{vocab}, as vocab_size")
    b = BlockBuilder("embedding", 0)
    inner = b.part(kin.prefix, "embedding")
    shared = "decoder.embed_tokens" if speech or kin.apart else "shared"
    if kin.apart and tied:  # one table, which the encoder names first
        shared = "encoder.embed_tokens"
    inner.embedding(shared, vocab, width)
    if not tied and not speech:
        rows = c.size("src_vocab_size") if kin.apart else vocab
        for name in kin.stacks[: 1 if kin.apart else 2]:  # the first alone is not yet there
            inner.embedding(f"{name}.embed_tokens", rows, width)
    c.ignore("src_vocab_size")
    encoder = stack(c, kin, "encoder")
    layers = placed_stack(c, kin, encoder, width) + placed_stack(c, kin, decoder, width)
    head = head_block(kin, width, vocab, f"{kin.inside(shared)}.weight" if tied else None)
    return finish(c, width, b.block(), layers, head)


def finish(c: Config, width: int, embedding: Block, layers: list[Placed], head: Block) -> ModelSpec:
    return composite(
        c,
        hidden_size=width,
        embedding=embedding,
        layers=layers,
        head=head,
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
    prefix = f"{kin.stack(s.name)}."
    first = BlockBuilder(f"{s.name} positions", width, sequence=sequence)
    e = first.part("", "embedding")
    x = e.input
    if kin.hears is not None and s.name == "encoder":
        x = kin.hears(c, e, width)
    has_table = s.positions is not None
    has_norm = kin.embedding_norm
    if c.model_type == "trocr":
        has_table = c.flag("use_learned_position_embeddings")
        has_norm = c.flag("layernorm_embedding")
    if has_table and s.positions is not None:
        x = e.add(x, e.embedding("embed_positions", s.positions, width, split="whole"))
    if has_norm:
        e.layer_norm(x, "layernorm_embedding")
    if kin.global_tokens and s.name == "encoder":
        e.embedding("embed_global", c.size("num_global_tokens"), width, split="whole")
    layer = encoder_layer if s.name == "encoder" else decoder_layer
    step = c.count(f"{s.name}_sparse_step") if kin.routed else 0
    routed = [step > 0 and (i + 1) % step == 0 for i in range(s.layers)]
    kinds = {own: layer(c, kin, s, width, own) for own in set(routed)}
    placed = [Placed(prefix, first.block())]
    placed += [Placed(f"{prefix}layers.{i}.", kinds[own]) for i, own in enumerate(routed)]
    if kin.final_norm:
        last = BlockBuilder(f"{s.name} norm", width, sequence=sequence)
        last.layer_norm(last.input, kin.final_norm)
        placed.append(Placed(prefix, last.block()))
    return placed
