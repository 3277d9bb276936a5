"""The families that see or hear, a row each: where their parts lie, what joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.model.config import Config
from planner.model.families import (
    gemma_towers,
    janus_towers,
    older_configs,
    projectors,
    query_projectors,
    sound_projectors,
    vibevoice,
)
from planner.model.families.projectors import Projector
from planner.model.spec import Placed

# Text parts that are another family's decoder under a name of their own.
TEXT_AS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4",
    "glm_ocr_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
    "granite_docling_text": "granite",
    "granite4_vision_text": "granite",
    "hunyuan_vl_text": "hunyuan_v1_dense",
    "paddleocr_vl_text": "ernie4_5",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_omni_moe_text": "qwen3_moe",
}


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
    task        the text's class is that of this task: "seq2seq" for an encoder-decoder
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
    task: str | None = None
    older: Callable[[Config], None] = lambda c: None
    also: Callable[[Config, int], list[Placed]] = lambda c, width: []


AUDIO = ("model.audio_tower.",)
VISUAL = ("model.visual.",)
HEARING = (("audio_config", "model.audio_tower."),)
SPEAKING = Kin(
    sound_projectors.granite_speech,
    vision=("model.encoder.",),
    where="model.projector",
    part="encoder_config",
)
INSTRUCTED = Kin(
    query_projectors.blip2,
    ("", "language_model."),
    ("vision_model.",),
    "",
    text_ties=True,
    top_ties=False,
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
    "qwen2_audio": Kin(
        sound_projectors.one_linear, vision=AUDIO, part="audio_config", never_ties=True
    ),
    "voxtral": Kin(
        sound_projectors.voxtral, vision=AUDIO, part="audio_config", never_ties=True, fills=True
    ),
    "audioflamingo3": Kin(
        sound_projectors.audioflamingo3, vision=AUDIO, part="audio_config", never_ties=True
    ),
    "musicflamingo": Kin(
        sound_projectors.audioflamingo3, vision=AUDIO, part="audio_config", never_ties=True
    ),
    "glmasr": Kin(sound_projectors.glmasr, vision=AUDIO, part="audio_config", fills=True),
    "qwen3_asr": Kin(sound_projectors.qwen3_asr, vision=AUDIO, part="audio_config"),
    "moss_transcribe_diarize": Kin(
        sound_projectors.moss_diarize, vision=AUDIO, part="audio_config"
    ),
    "voxtral_realtime": Kin(
        sound_projectors.voxtral_realtime, vision=AUDIO, part="audio_config", fills=True
    ),
    "omniasr": Kin(
        sound_projectors.bare_linear,
        vision=AUDIO,
        where="model",
        part="audio_config",
        never_ties=True,
    ),
    "vibevoice_asr": Kin(
        vibevoice.projector,
        vision=("model.acoustic_tokenizer_encoder.",),
        part="acoustic_tokenizer_encoder_config",
        never_ties=True,
        beside=(("semantic_tokenizer_encoder_config", "model.semantic_tokenizer_encoder."),),
    ),
    "granite_speech": SPEAKING,
    "granite_speech_plus": SPEAKING,
    "nemo_speechlm": Kin(
        sound_projectors.bare_linear,
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
        query_projectors.idefics2,
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
    "qianfan_ocr": Kin(projectors.internvl),
    "pp_chart2table": Kin(projectors.got_ocr2),
    "step3p7": Kin(projectors.step, vision=("model.vision_model.",), where="model"),
    "lfm3_vl": Kin(projectors.lfm3_vl),
    "aria": Kin(query_projectors.aria),
    "granite_docling": Kin(
        None,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        also=projectors.density_router,
    ),
    "inkling2_loop": Kin(None, never_ties=True),
    "inkling_mm_model": Kin(
        None, never_ties=True, beside=HEARING, older=older_configs.inkling_mm_model
    ),
    "muse_glimmer": Kin(projectors.muse, where="model"),
    "muse_spark": Kin(projectors.muse, where="model", beside=HEARING, never_ties=True),
    "ernie4_5_vl_moe": Kin(projectors.ernie4_5_vl, where="model.resampler_model"),
    "blip-2": INSTRUCTED,
    "instructblip": INSTRUCTED,
    "instructblipvideo": INSTRUCTED,
    "florence2": Kin(projectors.florence2, task="seq2seq"),
    "janus": Kin(
        projectors.janus,
        vision=("model.vision_model.",),
        where="model.aligner",
        also=janus_towers.beside,
    ),
    "aya_vision": Kin(projectors.aya_vision),
    "cohere_compass": Kin(None, vision=VISUAL),
    "granite4_vision": Kin(query_projectors.granite4_vision, where="model", newline=True),
    "hunyuan_vl": Kin(
        projectors.hunyuan, where="model.vision_tower.patch_merger", flat=True, text_ties=True
    ),
    "deepseek_ocr2": Kin(projectors.unlimited_ocr, where="model"),
    "molmo2": Kin(query_projectors.molmo2, never_ties=True, older=older_configs.molmo2),
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
    "emu3": Kin(
        None, ("model.", "model.text_model."), vision=("model.vqmodel.",), part="vq_config"
    ),
    "perception_lm": Kin(projectors.perception_lm, older=older_configs.perception_lm),
    "fast_vlm": Kin(text_ties=True),
    "gemma3n": Kin(None, beside=HEARING, also=gemma_towers.embedders),
    "gemma4": Kin(None, beside=HEARING, also=gemma_towers.embedders),
    "gemma4_unified": Kin(
        None, vision=("model.embed_vision.",), beside=HEARING, also=gemma_towers.embedders
    ),
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
    "use_decoder_only_language_model",
    *("vocabulary_map", "audio_soft_tokens_per_image", "vision_soft_tokens_per_image"),
    *("position_id_per_seconds", "seconds_per_chunk", "classifier_pooling", "classifier_bias"),
)
