"""wav2vec 2.0 and its kin, alone: encoders of speech with a head of letters (CTC) or of classes.

Convolutions over the waveform, a convolution that tells positions, then layers as BERT's. Whether
norms come before or after each part (do_stable_layer_norm) changes no count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution, normalized
from planner.model.families import wav2vec2_layers
from planner.model.families.speech_towers import WAV2VEC2_NAMES, position_groups, waveform
from planner.model.families.vision_layers import learned, vision_layer
from planner.model.heads import kind_of_head, labels
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

HEADS = ("language", "sequences", "bare")
NOT_MODELLED = "the training memory of encoders of sound is not modelled"
UNUSED = (
    *("feat_extract_activation", "do_stable_layer_norm", "apply_spec_augment", "mask_time_*"),
    *("mask_feature_*", "num_codevectors_per_group", "num_codevector_groups", "codevector_dim"),
    *("proj_codevector_dim", "num_negatives", "contrastive_logits_temperature", "ctc_*", "tdnn_*"),
    *("xvector_output_dim", "num_feat_extract_layers", "num_ctc_classes", "replace_prob"),
    *("num_clusters", "max_bucket_distance", "use_weighted_layer_sum", "classifier_proj_size"),
    *("tie_word_embeddings", "vocab_size", "output_hidden_size", "adapter_*", "num_adapter_layers"),
    *("max_source_positions", "rotary_embedding_base", "left_max_position_embeddings"),
    *("right_max_position_embeddings", "use_intermediate_ffn_before_adapter"),
)
# Gates of WavLM's relative positions: two of four numbers (arXiv 2110.13900, section 3.1).
GATES = 8


@dataclass(frozen=True)
class Kin:
    """What sets a family apart.

    prefix     of the encoder's weights
    relative   positions in each layer
    stacked    several convolutions tell positions one after the other
    adapter    what add_adapter puts after the last layer
    conformer  the norm of its convolutions, where layers are conformers
    framed     it reads frames of a spectrogram, not the waveform
    masks      the vector of masked frames is there even if nothing is masked
    """

    prefix: str
    relative: bool = False
    stacked: bool = False
    adapter: Callable[[Config, BlockBuilder, Tensor], Tensor] | None = None
    conformer: str | None = None
    framed: bool = False
    masks: bool = False


KIN = {
    "wav2vec2": Kin("wav2vec2", adapter=wav2vec2_layers.convolutions),
    "hubert": Kin("hubert"),
    "wavlm": Kin("wavlm", relative=True, adapter=wav2vec2_layers.convolutions),
    "unispeech": Kin("unispeech"),
    "unispeech-sat": Kin("unispeech_sat", masks=True),
    "wav2vec2-conformer": Kin(
        "wav2vec2_conformer", adapter=wav2vec2_layers.convolutions, conformer="batch_norm"
    ),
    "wav2vec2-bert": Kin(
        "wav2vec2_bert",
        adapter=wav2vec2_layers.layers,
        conformer="depthwise_layer_norm",
        framed=True,
    ),
    "data2vec-audio": Kin("data2vec_audio", stacked=True, adapter=wav2vec2_layers.convolutions),
}


def build(c: Config) -> ModelSpec:
    kin, kind, width = KIN[c.model_type], kind_of_head(c), c.size("hidden_size")
    probabilities = (c.number("mask_time_prob", 0), c.number("mask_feature_prob", 0))
    masked = kin.masks or max(probabilities) > 0
    c.ignore(*UNUSED)
    c.divides("hidden_size", "num_attention_heads")
    prefix = "" if kind == "bare" else f"{kin.prefix}."
    b = BlockBuilder("waveform", 1, sequence="audio")
    e = b.part(prefix.rstrip("."), "embedding")
    x = features(c, kin, e, width)
    if masked:
        learned(e, x, "masked_spec_embed", width)
    if not kin.framed:
        positions(c, kin, e.part("encoder.pos_conv_embed"), x, width)
        e.layer_norm(x, "encoder.layer_norm")
    places = []
    for i in range(layers_of(c)):
        name = f"{prefix}encoder.layers.{i}."
        places += [Placed(name, block) for block in layer(c, kin, width, first=i == 0)]
    end = BlockBuilder("head", width, sequence="audio")
    head(c, end, prefix, kind, adapted(c, kin, end.part(prefix.rstrip(".")), end.input))
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=places,
        head=end.block(),
        not_trainable_because=NOT_MODELLED,
    )


def features(c: Config, kin: Kin, e: BlockBuilder, width: int) -> Tensor:
    """The waveform's frames, normed and brought to the width."""
    p, every = e.part("feature_projection"), True
    if kin.framed:
        frames = p.layer_norm(e.make(c.size("feature_projection_input_dim")), "layer_norm")
        return p.linear(frames, "projection", width, bias=True, split="whole")
    if not kin.stacked:  # else every convolution has its norm
        every = c.one_of("feat_extract_norm", ("group", "layer")) == "layer"
    x = waveform(c, e.part("feature_extractor"), lambda i: every or i == 0)
    x = p.layer_norm(x, "layer_norm") if c.flag("feat_proj_layer_norm", True) else x
    return p.linear(x, "projection", width, bias=True, split="whole")


def positions(c: Config, kin: Kin, p: BlockBuilder, x: Tensor, width: int) -> None:
    groups, count = position_groups(c, width), c.size("num_conv_pos_embeddings")
    if kin.stacked:
        taps = (c.size("conv_pos_kernel_size"),)
        for i in range(count):
            name = f"layers.{i}.conv"
            x = convolution(p, x, name, width, width, taps, groups=groups, bias=True)
        return
    if c.flag("conv_pos_batch_norm"):
        x = convolution(p, x, "conv", width, width, (count,), groups=groups, bias=True)
        normalized(p, x, "batch_norm")
        return
    # a weight norm keeps a length for each tap beside the kernel
    where, shape = "conv.parametrizations.weight", (width, width // groups, count)
    weights = (
        p.weight(f"{where}.original0", 1, 1, count, kind="vector"),
        p.weight(f"{where}.original1", *shape),
        p.weight("conv.bias", width),
    )
    p.opaque("conv", width, weights, (x,), flops_per_token=2 * weights[1].elements)


def layer(c: Config, kin: Kin, width: int, *, first: bool) -> list[Block]:
    """One layer, and its adapter where there is one."""
    if kin.conformer is not None:
        return [wav2vec2_layers.conformer(c, width, kin.conformer)]
    heads, extra = c.size("num_attention_heads"), []
    if kin.relative:
        head = width // heads
        extra = [
            Weight("attention.gru_rel_pos_const", (1, heads, 1, 1), "vector"),
            Weight("attention.gru_rel_pos_linear.weight", (GATES, head)),
            Weight("attention.gru_rel_pos_linear.bias", (GATES,), "vector"),
        ]
        shape = (c.size("num_buckets"), heads)
        if first:  # the table of all layers
            extra.append(Weight("attention.rel_attn_embed.weight", shape, "embedding"))
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    made = [
        vision_layer(
            *(WAV2VEC2_NAMES, width, heads, inner, activation),
            sequence="audio",
            extra=tuple(extra),
        )
    ]
    narrow = c.optional("adapter_attn_dim")
    if narrow is not None and c.flag("do_stable_layer_norm"):
        b = BlockBuilder("adapter", width, sequence="audio")
        p = b.part("adapter_layer", "other")
        x = p.linear(p.layer_norm(b.input, "norm"), "linear_1", narrow, bias=True)
        p.linear(p.activation(x, "relu"), "linear_2", width, bias=True, split="row")
        made.append(b.block())
    return made


def adapted(c: Config, kin: Kin, p: BlockBuilder, x: Tensor) -> Tensor:
    """What add_adapter puts after the last layer."""
    added = kin.adapter is not None and c.flag("add_adapter")
    return kin.adapter(c, p, x) if kin.adapter is not None and added else x


def head(c: Config, end: BlockBuilder, prefix: str, kind: str, x: Tensor) -> None:
    h = end.part("", "output_head")
    if kind == "language":
        h.linear(x, "lm_head", c.size("vocab_size"), bias=True, split="whole")
    elif kind == "sequences":
        c.require(not c.flag("add_adapter"), "add_adapter", "false with a head of classes")
        if c.flag("use_weighted_layer_sum"):
            learned(h, x, "layer_weights", layers_of(c) + 1)
        size = c.size("classifier_proj_size")
        y = h.linear(x, "projector", size, bias=True, split="whole")
        h.linear(y, "classifier", labels(c), bias=True, split="whole")
