"""Models that see or hear: a tower, a projector, and a language model of a known family.

Each is a row of vision_language_rows.KIN: where the parts lie and which projector joins them. The
blocks of the tower run over the image's patches, the rest over the text.
"""

from __future__ import annotations

from dataclasses import replace

from planner.model import families
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_language_rows import KIN, SETTINGS, TEXT_AS, Kin
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.families.vision_towers import Tower
from planner.model.heads import architecture, main_class
from planner.model.nesting import head_tied_to, prefix_changed, renamed, taken_as
from planner.model.spec import ModelSpec, Placed

HEADS = ("language", "images")


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    c.ignore(*SETTINGS)
    kin.older(c)
    text = text_config(c, kin)
    if architecture(c).endswith("ForCausalLM") and c.model_type != "fuyu":
        return text_alone(c, kin, text)
    if kin.task is not None:
        text.given["architectures"] = [main_class(text, kin.task)]
    else:
        text.given["tie_word_embeddings"] = tied(c, kin, text)
    spec = families.build(text)
    if kin.task is not None:  # the text part ties its own tables, the whole ties the head
        shared = spec.embedding.block.weights[0].name if tied(c, kin, text) else None
        spec = replace(spec, head=head_tied_to(spec.head, shared))
    rename = prefix_changed(*kin.text)
    beside, warnings = vision_places(c, kin, spec.hidden_size)
    places = [*beside, *(renamed(place, rename) for place in spec.layers)]
    embedding, head = renamed(spec.embedding, rename), renamed(spec.head, rename)
    for old, new in kin.head:
        head = renamed(head, prefix_changed(old, new))
    if architecture(c) == "ShieldGemma2ForImageClassification":  # the whole model as a module
        whole = prefix_changed("", "model.")
        embedding, head = renamed(embedding, whole), renamed(head, whole)
        places = [renamed(place, whole) for place in places]
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=spec.hidden_size,
        embedding=embedding,
        layers=tuple(places),
        head=head,
        config=c.given,
        assumed=c.assumed,
        warnings=tuple(dict.fromkeys((*spec.warnings, *warnings, *c.finish()))),
        not_trainable_because=NOT_MODELLED,
    )


def vision_places(c: Config, kin: Kin, width: int) -> tuple[list[Placed], tuple[str, ...]]:
    """The towers and the projector; a family may leave both out by a null vision_config."""
    if kin.part != "audio_config" and not kin.beside:
        c.require(c.raw("audio_config") is None, "audio_config", "null: sound is not modelled")
    places: list[Placed] = []
    warnings: tuple[str, ...] = ()
    vision = c.sub(kin.part) if kin.vision else c
    built = Tower((), width)
    if not c.left_out(kin.part):
        for prefix in kin.vision:
            built = tower(c.sub(kin.part), prefix)
            places += built.places
            warnings += built.warnings
    for part, prefix in kin.beside:
        if c.left_out(part):
            continue
        second = tower(c.sub(part), prefix)
        places += second.places
        warnings += second.warnings
    if kin.projector is not None:
        b = BlockBuilder("projector", built.width, sequence="image")
        kin.projector(c, b.part(kin.where, "other"), built, vision, width)
        if kin.newline:
            weight = b.weight("model.image_newline", width)
            b.opaque("newline", width, (weight,), group="other")
        places.append(Placed("", b.block()))
    return [*places, *kin.also(c, width)], warnings


def text_alone(c: Config, kin: Kin, text: Config) -> ModelSpec:
    """A class ...ForCausalLM: the language model without what sees."""
    spec = families.build(text)
    c.ignore(kin.part, "vision_config", "audio_config", "tie_word_embeddings")
    return replace(
        spec,
        name=c.model_type,
        model_type=c.model_type,
        config=c.given,
        warnings=(*spec.warnings, *c.finish()),
    )


def text_config(c: Config, kin: Kin) -> Config:
    text = c.sub("text_config", fill=kin.fills)
    if kin.flat and c.raw("text_config") is None:  # the fields lie at the top
        own = {"vision_config", "audio_config", "text_config", "architectures", "model_type"}
        text.given.update({k: v for k, v in c.given.items() if k not in own})
        c.ignore(*c.given)
    text.given.pop("architectures", None)
    as_family = TEXT_AS.get(text.model_type)
    if as_family is None:
        return text
    taken = taken_as(text, as_family)
    if text.model_type == "qwen3_omni_moe_text" and text.optional("head_dim") is None:
        taken.given["head_dim"] = text.size("hidden_size") // text.size("num_attention_heads")
    if as_family == "glm4":  # whose head_dim and biases are fields of their own
        taken.given["attention_bias"] = text.model_type == "glm4v_text"
        given = text.optional("head_dim")
        taken.given["head_dim"] = given or text.divides("hidden_size", "num_attention_heads")
    return taken


def tied(c: Config, kin: Kin, text: Config) -> bool:
    if kin.never_ties:
        c.ignore("tie_word_embeddings")
        return False
    top = c.flag("tie_word_embeddings") and kin.top_ties
    return top or (kin.text_ties and text.flag("tie_word_embeddings"))
