"""An encoder of images, sound or text and a decoder that reads it: TrOCR, Donut, PP-FormulaNet.

The decoder is another family's causal class with cross-attention, the encoder another family's
class without a head; a linear joins them where their widths differ.
"""

from __future__ import annotations

from planner.model import families
from planner.model.assemble import composite
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families import bart
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import main_class
from planner.model.nesting import prefix_changed, renamed
from planner.model.spec import ModelSpec, Placed

HEADS = ("language", "bare")
# The end of the name of every class that has no head.
BARE = "Model"


def build(c: Config) -> ModelSpec:
    return formulanet(c) if c.model_type == "pp_formulanet" else encoder_decoder(c)


def encoder_decoder(c: Config) -> ModelSpec:
    """Its own tie_word_embeddings does not count: the decoder's does."""
    c.ignore("tie_word_embeddings")
    seeing, telling = c.sub("encoder"), c.sub("decoder")
    seeing.given["architectures"] = [BARE]
    telling.given["architectures"] = [main_class(telling, "causal-lm")]
    states = telling.optional("cross_attention_hidden_size")
    encoder, decoder = families.build(seeing), families.build(telling)
    # an encoder of sound may put out another width than its layers'
    width, out = seeing.optional("output_hidden_size") or encoder.hidden_size, decoder.hidden_size
    fits = states is None or states == width
    telling.require(fits, "cross_attention_hidden_size", f"{width}, the encoder's width")
    places = [renamed(p, prefix_changed("", "encoder.")) for p in encoder.places]
    if width != out and states is None:
        b = BlockBuilder("projector", width, sequence="image")
        b.part("", "other").linear(b.input, "enc_to_dec_proj", out, bias=True, split="whole")
        places.append(Placed("", b.block()))
    rename = prefix_changed("", "decoder.")
    places += [renamed(place, rename) for place in decoder.layers]
    return composite(
        c,
        hidden_size=out,
        embedding=renamed(decoder.embedding, rename).block,
        layers=places,
        head=renamed(decoder.head, rename).block,
        warnings=(*encoder.warnings, *decoder.warnings),
        not_trainable_because=NOT_MODELLED,
    )


def formulanet(c: Config) -> ModelSpec:
    """Segment Anything's encoder and mBART's decoder; no weight is tied."""
    text, kin = c.sub("text_config"), bart.KIN["mbart"]
    text.ignore("encoder_layers", "encoder_attention_heads", "scale_embedding")
    text.ignore("tie_word_embeddings")
    c.ignore("tie_word_embeddings")
    width, vocab = text.size("d_model"), text.size("vocab_size")
    built = tower(c.sub("vision_config"), "model.encoder.")
    b = BlockBuilder("embedding", 0)
    b.part("model.decoder", "embedding").embedding("embed_tokens", vocab, width)
    decoder = bart.placed_stack(text, kin, bart.stack(text, kin, "decoder"), width)
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=(*built.places, *decoder),
        head=bart.head_block(kin, width, vocab, None),
        warnings=(*built.warnings, *text.finish()),
        not_trainable_because=NOT_MODELLED,
    )
