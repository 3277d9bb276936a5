"""An encoder of speech from a nested config, and a head of letters over its frames (CTC)."""

from __future__ import annotations

from dataclasses import dataclass

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.wav2vec2 import NOT_MODELLED
from planner.model.spec import ModelSpec, Placed


@dataclass(frozen=True)
class Kin:
    """Where the encoder lies, and whether the head is a convolution of one tap."""

    part: str
    prefix: str
    tapped: bool = False


KIN = {
    "parakeet_ctc": Kin("encoder_config", "encoder.", tapped=True),
    "omniasr_ctc": Kin("audio_config", "model.audio_tower."),
}


def build(c: Config) -> ModelSpec:
    kin, vocab = KIN[c.model_type], c.size("vocab_size")
    c.ignore("ctc_*", "tie_word_embeddings")
    built = tower(c.sub(kin.part), kin.prefix)
    b = BlockBuilder("head", built.width, sequence="audio")
    h = b.part("", "output_head")
    shape = (vocab, built.width, 1) if kin.tapped else (vocab, built.width)
    weights = (h.weight("ctc_head.weight", *shape), h.weight("ctc_head.bias", vocab))
    h.opaque("ctc_head", vocab, weights, (b.input,), flops_per_token=2 * vocab * built.width)
    first, *rest = built.places
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=built.width,
        embedding=first,
        layers=tuple(rest),
        head=Placed("", b.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=(*built.warnings, *c.finish()),
        not_trainable_because=NOT_MODELLED,
    )
