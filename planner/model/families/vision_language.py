"""Models that see or hear: a tower, a projector, and a language model of a known family.

Each is a row of KIN: where the parts lie and which projector joins them. The blocks of the tower
run over the image's patches, the rest over the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.model import families
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families import older_configs, projectors
from planner.model.families.projectors import Projector
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.families.vision_towers import Tower
from planner.model.heads import architecture
from planner.model.nesting import prefix_changed, renamed, taken_as
from planner.model.spec import ModelSpec, Placed

# Text parts that are another family's decoder under a name of their own.
TEXT_AS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4",
    "glm_ocr_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
    "paddleocr_vl_text": "ernie4_5",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_omni_moe_text": "qwen3_moe",
}

HEADS = ("language", "images")


@dataclass(frozen=True)
class Kin:
    """Where a family keeps its parts.

    text        beginning of the language model's names: alone, and here
    vision      prefixes of the towers (two where pictures and films have one each)
    projector   None: the tower ends with it
    newline     a learned token between rows of patches
    text_ties   tie_word_embeddings of the text part ties too (configs saved before Transformers 5)
    top_ties    the family's own tie_word_embeddings ties
    flat        the text part's fields may lie at the top of the config
    part        the field with the encoder's config
    fills       a text part given in parts takes the rest from the family, not from its own type
    beside      (field, prefix) of a second encoder that ends in the text's width
    never_ties  the head has a matrix of its own whatever the config says
    head        other beginnings of names in the text's head: (alone, here)
    older       puts the fields of an older config where today's class has them
    also        what else there is, of the family's config and the text's width
    """

    projector: Projector | None = projectors.llava
    text: tuple[str, str] = ("model.", "model.language_model.")
    vision: tuple[str, ...] = ("model.vision_tower.",)
    where: str = "model.multi_modal_projector"
    newline: bool = False
    text_ties: bool = False
    top_ties: bool = True
    flat: bool = False
    part: str = "vision_config"
    beside: tuple[tuple[str, str], ...] = ()
    never_ties: bool = False
    fills: bool = False
    head: tuple[tuple[str, str], ...] = ()
    older: Callable[[Config], None] = lambda c: None
    also: Callable[[Config, int], list[Placed]] = lambda c, width: []


AUDIO = ("model.audio_tower.",)
VISUAL = ("model.visual.",)
HEARING = (("audio_config", "model.audio_tower."),)
SPEAKING = Kin(
    projectors.granite_speech,
    vision=("model.encoder.",),
    where="model.projector",
    part="encoder_config",
)
KIN = {
    "llava": Kin(text_ties=True),
    "vipllava": Kin(projectors.vipllava),
    "llava_next": Kin(newline=True),
    "llava_next_video": Kin(newline=True, text_ties=True),
    "llava_onevision": Kin(newline=True, text_ties=True),
    "video_llava": Kin(vision=("model.video_tower.", "model.image_tower.")),
    "mistral3": Kin(projectors.mistral3),
    "lighton_ocr": Kin(
        projectors.mistral3, vision=("model.vision_encoder.",), where="model.vision_projection"
    ),
    "gemma3": Kin(projectors.gemma3),
    "shieldgemma2": Kin(projectors.gemma3, text_ties=True),
    "paligemma": Kin(projectors.paligemma),
    "internvl": Kin(projectors.internvl),
    "idefics3": Kin(
        projectors.idefics3,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
    ),
    "smolvlm": Kin(
        projectors.idefics3,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
    ),
    "lfm2_vl": Kin(projectors.lfm2_vl),
    "cohere2_vision": Kin(projectors.cohere2_vision),
    "llama4": Kin(
        projectors.llama4,
        ("", "language_model."),
        ("vision_model.",),
        "multi_modal_projector",
        text_ties=True,
        top_ties=False,
    ),
    "got_ocr2": Kin(projectors.got_ocr2),
    "fuyu": Kin(projectors.fuyu, vision=(), where="model"),
    "qwen2_audio": Kin(projectors.one_linear, vision=AUDIO, part="audio_config", never_ties=True),
    "voxtral": Kin(
        projectors.voxtral, vision=AUDIO, part="audio_config", never_ties=True, fills=True
    ),
    "audioflamingo3": Kin(
        projectors.audioflamingo3, vision=AUDIO, part="audio_config", never_ties=True
    ),
    "musicflamingo": Kin(
        projectors.audioflamingo3, vision=AUDIO, part="audio_config", never_ties=True
    ),
    "glmasr": Kin(projectors.glmasr, vision=AUDIO, part="audio_config", fills=True),
    "qwen3_asr": Kin(projectors.qwen3_asr, vision=AUDIO, part="audio_config"),
    "moss_transcribe_diarize": Kin(projectors.moss_diarize, vision=AUDIO, part="audio_config"),
    "voxtral_realtime": Kin(
        projectors.voxtral_realtime, vision=AUDIO, part="audio_config", fills=True
    ),
    "omniasr": Kin(
        projectors.bare_linear, vision=AUDIO, where="model", part="audio_config", never_ties=True
    ),
    "granite_speech": SPEAKING,
    "granite_speech_plus": SPEAKING,
    "nemo_speechlm": Kin(
        projectors.bare_linear,
        vision=AUDIO,
        where="model",
        part="audio_config",
        never_ties=True,
        beside=(("word_timestamp_config", "model.word_timestamp_encoder."),),
    ),
    "exaone4_5": Kin(None, vision=VISUAL),
    "cosmos3_omni": Kin(None, vision=VISUAL),
    "glm4v": Kin(None, vision=VISUAL, text_ties=True),
    "glmga": Kin(None, vision=VISUAL),
    "glm46v": Kin(None, vision=VISUAL),
    "glm4v_moe": Kin(None, vision=VISUAL, text_ties=True),
    "glm_ocr": Kin(None, vision=VISUAL, text_ties=True),
    "hyperclovax_vision_v2": Kin(
        projectors.hyperclovax, vision=("model.vision_model.",), where="model"
    ),
    "deepseek_vl": Kin(
        projectors.deepseek_vl, vision=("model.vision_model.",), where="model.aligner"
    ),
    "video_llama_3": Kin(
        projectors.video_llama_3,
        vision=("model.vision_model.",),
        where="model.projector",
        text_ties=True,
    ),
    "kimi_k25": Kin(projectors.kimi_k25, where="model.mm_projector"),
    "paddleocr_vl": Kin(
        projectors.paddleocr_vl,
        vision=("model.visual.vision_model.",),
        where="model.projector",
        text_ties=True,
    ),
    "ovis2": Kin(projectors.ovis2, where="model"),
    "qwen2_5_omni_thinker": Kin(None, vision=VISUAL, beside=HEARING),
    "qwen3_omni_moe_thinker": Kin(None, vision=VISUAL, beside=HEARING),
    "idefics2": Kin(
        projectors.idefics2,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
    ),
    "minicpm_ocr": Kin(projectors.minicpm, where="model.merger"),
    "minicpmv4_6": Kin(projectors.minicpm, where="model.merger"),
    "minicpmv4_7": Kin(projectors.minicpm, where="model.merger"),
    "modernvbert": Kin(
        projectors.vbert,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
        head=(("head.", "projection_head."), ("decoder.", "lm_head.")),
    ),
    "ultravbert": Kin(
        projectors.vbert,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
        head=(("head.decoder.", "lm_head."), ("head.", "projection_head.")),
    ),
    "apertus1p5": Kin(
        None,
        vision=("model.vision_tokenizer.",),
        beside=(("audio_config", "model.audio_tokenizer."),),
    ),
    "cosmos3_edge": Kin(
        projectors.cosmos3_edge, vision=VISUAL, where="model.projector", never_ties=True
    ),
    "minimax_m3_vl": Kin(projectors.minimax_m3, text_ties=True),
    "mistral_large4": Kin(projectors.mistral3),
    "hy_v4_vl": Kin(None),
    "glm5_next": Kin(None, vision=VISUAL, flat=True),
    "inkling2": Kin(None, never_ties=True),
    "dots3_note": Kin(None, beside=HEARING, flat=True),
    "molmo2": Kin(projectors.molmo2, never_ties=True, older=older_configs.molmo2),
    "deepseek_vl_hybrid": Kin(
        projectors.deepseek_vl_hybrid,
        vision=("model.vision_model.",),
        where="model",
        beside=(("high_res_vision_config", "model.high_res_vision_model.vision_encoder."),),
    ),
    "unlimited_ocr": Kin(
        projectors.unlimited_ocr, where="model", newline=True, older=older_configs.unlimited_ocr
    ),
    "nemotron_h_omni": Kin(
        projectors.nemotron_h_omni,
        ("", "language_model."),
        ("vision_model.",),
        "multi_modal_projector",
        text_ties=True,
        top_ties=False,
        beside=(("audio_config", "audio_tower."),),
        older=older_configs.nemotron_h_omni,
        also=projectors.nemotron_h_omni_beside,
    ),
    "gemma4": Kin(None),
    "gemma4_unified": Kin(None),
    "qwen2_vl": Kin(None, vision=VISUAL, text_ties=True, flat=True),
    "qwen2_5_vl": Kin(None, vision=VISUAL, text_ties=True, flat=True),
    "qwen3_vl": Kin(None, vision=VISUAL),
    "qwen3_vl_moe": Kin(None, vision=VISUAL),
    "qwen3_5": Kin(None, vision=VISUAL),
    "qwen3_5_moe": Kin(None, vision=VISUAL),
}
SETTINGS = (
    *("image_seq_length", "video_seq_length", "vision_feature_select_strategy"),
    *("vision_feature_layer", "image_grid_pinpoints", "spatial_pool_mode", "spatial_pool_stride"),
    *("vision_aspect_ratio", "encoder_no_repeat_ngram_size", "use_image_newline_parameter"),
    *("max_dynamic_tiling", "vision_select_strategy", "do_image_splitting", "ignore_index"),
    *("video_token", "image_token", "tie_embedding", "vocab_size"),
    *("position_id_per_seconds", "seconds_per_chunk", "classifier_pooling", "classifier_bias"),
)


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    c.ignore(*SETTINGS)
    kin.older(c)
    text = text_config(c, kin)
    if architecture(c).endswith("ForCausalLM") and c.model_type != "fuyu":
        return text_alone(c, text)
    text.given["tie_word_embeddings"] = tied(c, kin, text)
    spec = families.build(text)
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
    if not left_out(c, kin.part):
        for prefix in kin.vision:
            built = tower(c.sub(kin.part), prefix)
            places += built.places
            warnings += built.warnings
    for part, prefix in kin.beside:
        if left_out(c, part):
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


def left_out(c: Config, part: str) -> bool:
    """Whether a part is not there that need not be there."""
    return bool(c.sub_configs.get(part, {}).get("optional")) and c.raw(part) is None


def text_alone(c: Config, text: Config) -> ModelSpec:
    """A class ...ForCausalLM: the language model without what sees."""
    spec = families.build(text)
    c.ignore("vision_config", "audio_config", "tie_word_embeddings")
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
