"""Which function builds the encoder of images or sound of a model type."""

from __future__ import annotations

from collections.abc import Callable

from planner.errors import unknown
from planner.model.config import Config
from planner.model.families import (
    audio_towers,
    beit,
    codec_towers,
    conformer_towers,
    frontier_towers,
    glm_towers,
    meta_towers,
    pix_towers,
    qwen_towers,
    sam_towers,
    speech_towers,
    vision_towers,
)
from planner.model.families.vision_towers import Tower

TOWERS: dict[str, Callable[[Config, str], Tower]] = {
    "clip_vision_model": vision_towers.clip,
    "metaclip_2_vision_model": vision_towers.clip,
    "siglip_vision_model": vision_towers.siglip,
    "siglip2_vision_model": vision_towers.siglip,
    "idefics3_vision": vision_towers.siglip,
    "smolvlm_vision": vision_towers.siglip,
    "vit": vision_towers.vit,
    "deit": vision_towers.vit,
    "ijepa": vision_towers.vit,
    "vit_msn": vision_towers.vit,
    "dinov2": vision_towers.dinov2,
    "dinov2_with_registers": vision_towers.dinov2,
    "beit": beit.beit,
    "data2vec-vision": beit.beit,
    "pixtral": vision_towers.pixtral,
    "internvl_vision": vision_towers.internvl,
    "llama4_vision_model": meta_towers.llama4,
    "mllama_vision_model": meta_towers.mllama,
    "got_ocr2_vision": sam_towers.segment_anything,
    "sam_vision_model": sam_towers.segment_anything,
    "unlimited_ocr_vision": sam_towers.unlimited_ocr,
    "qwen2_audio_encoder": audio_towers.whisper,
    "voxtral_encoder": audio_towers.whisper,
    "audioflamingo3_encoder": audio_towers.whisper,
    "moss_transcribe_diarize_audio": audio_towers.whisper,
    "glmasr_encoder": audio_towers.glmasr,
    "qwen3_asr_encoder": audio_towers.qwen3_asr,
    "glm4v_vision": glm_towers.glm4v,
    "glm4v_moe_vision": glm_towers.glm4v,
    "glm_ocr_vision": glm_towers.glm4v,
    "kimi_k25_vision": glm_towers.kimi_k25,
    "ovis2_vision": glm_towers.ovis2,
    "video_llama_3_vision": vision_towers.siglip,
    "paddleocr_vl_vision": vision_towers.siglip,
    "exaone4_5_vision": qwen_towers.qwen2_5_vl,
    "git_vision_model": vision_towers.clip,
    "phi4_multimodal_vision": vision_towers.siglip,
    "qwen2_5_omni_audio_encoder": audio_towers.qwen2_5_omni,
    "qwen3_omni_moe_audio_encoder": audio_towers.qwen3_omni,
    "qwen2_5_omni_vision_encoder": qwen_towers.qwen2_5_vl,
    "qwen3_omni_moe_vision_encoder": qwen_towers.qwen3_vl,
    "idefics2_vision": vision_towers.siglip,
    "minicpm_ocr_vision": vision_towers.siglip,
    "minicpmv4_6_vision": vision_towers.siglip,
    "minicpmv4_7_vision": vision_towers.siglip,
    "granite_speech_encoder": speech_towers.granite_speech,
    "granite_speech_plus_encoder": speech_towers.granite_speech,
    "omniasr_audio": speech_towers.omniasr,
    "voxtral_realtime_encoder": speech_towers.voxtral_realtime,
    "nemotron3_5_transcribe_audio": speech_towers.nemotron_audio,
    "nemotron3_5_transcribe_word_timestamp": speech_towers.word_timestamps,
    "qwen2_vl_vision": qwen_towers.qwen2_vl,
    "qwen2_5_vl_vision": qwen_towers.qwen2_5_vl,
    "qwen3_vl_vision": qwen_towers.qwen3_vl,
    "qwen3_vl_moe_vision": qwen_towers.qwen3_vl,
    "qwen3_5_vision": qwen_towers.qwen3_vl,
    "qwen3_5_moe_vision": qwen_towers.qwen3_vl,
    "cosmos3_edge_vision": vision_towers.siglip,
    "glm5_next_vision": glm_towers.glm4v,
    "minimax_m3_vl_vision": frontier_towers.minimax_m3,
    "hy_v4_vl_vision": frontier_towers.hunyuan4,
    "inkling2_vision": frontier_towers.inkling2,
    "dots3_note_vision_encoder": frontier_towers.dots3,
    "dots3_note_audio_encoder": audio_towers.dots3,
    "molmo2_vision": frontier_towers.molmo2,
    "parakeet_encoder": conformer_towers.parakeet,
    "radio": frontier_towers.radio,
    "kosmos_2_vision_model": vision_towers.clip,
    "kosmos_2_5_vision_model": pix_towers.kosmos,
    "blip_vision_model": vision_towers.blip,
    "apertus1p5_vision_tokenizer": codec_towers.apertus,
    "wavtokenizer_encoder": codec_towers.wavtokenizer,
    "idefics_vision": vision_towers.clip,
}


def tower(c: Config, prefix: str) -> Tower:
    """The encoder that a (nested) config describes; what it does not know is refused."""
    known = TOWERS.get(c.model_type)
    if known is None:
        raise unknown("encoder", c.model_type, TOWERS)
    built = known(c, prefix)
    return Tower(built.places, built.width, (*built.warnings, *c.finish()))
