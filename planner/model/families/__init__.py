"""One small module per lineage of architectures: config.json -> ModelSpec.

FAMILIES names the module of each model type; a module has one function `build(config)`, and HEADS,
the kinds of heads that it builds, if these are more than a language model's (see model/heads.py).
"""

from __future__ import annotations

from importlib import import_module

from planner.model.config import Config, unknown_family
from planner.model.heads import kind_of_head, not_modelled
from planner.model.spec import ModelSpec

_MODULES = {
    "llama": (
        *("llama", "mistral", "qwen2", "qwen3", "granite", "phi3", "olmo2", "starcoder2"),
        *("arcee", "bitnet", "cwm", "ernie4_5", "exaone", "exaone4", "glm", "glm4", "granite_swa"),
        *("helium", "hunyuan_v1_dense", "hyperclovax", "internlm3", "iquestcoder", "jais2"),
        *("ministral", "ministral3", "nanochat", "nemotron", "olmo", "olmo3", "persimmon", "phi"),
        *("seed_oss", "smollm3", "stablelm", "apertus", "emu3_text_model"),
        *("apertus1p5_text", "moshi", "voxtral_realtime_text", "cosmos3_edge_text"),
        "molmo2_text",
    ),
    "cohere": ("cohere", "cohere2", "cohere2_moe", "cohere_compass_text"),
    "gemma": ("gemma", "gemma2", "gemma3_text", "vaultgemma"),
    "gemma4": (
        *("gemma3n_text", "gemma4_text", "gemma4_unified_text"),
        *("gemma4_assistant", "gemma4_unified_assistant"),
    ),
    "mixtral": (
        *("mixtral", "minimax_m2", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "flex_olmo"),
        *("phimoe", "granitemoe", "granitemoeshared", "granitemoe_swa", "hunyuan_v1_moe"),
        *("aria_text", "qwen3_omni_moe_talker_text"),
    ),
    "glm_moe": (
        *("glm4_moe", "sarvam_moe", "dots1", "solar_open", "exaone_moe", "afmoe", "hy_v3"),
        *("ernie4_5_moe", "kolibri1", "laguna", "mellum", "mimo_v2_flash", "flint", "beam"),
    ),
    "deepseek": (
        *("deepseek_v2", "deepseek_v3", "deepseek_v32", "sarvam_mla", "glm4_moe_lite", "axk1"),
        *("glm_moe_dsa", "youtu", "minicpm3", "mistral4", "unlimited_ocr_text"),
        "deepseek_ocr2_text",
    ),
    "latent_kin": ("axk2", "dots3_note_text", "hy_v4", "hy_v4_vl_text", "longcat_flash"),
    "step": ("step3p5",),
    "muse": ("muse_glimmer_text", "muse_spark_text"),
    "ernie_vl": ("ernie4_5_vl_moe_text",),
    "glm5": ("glm5_next_text", "mistral_large4_text"),
    "llama4": ("llama4_text",),
    "inkling": ("inkling_text", "inkling2_text", "inkling2_loop_text"),
    "deepseek_v4": ("deepseek_v4", "minimax_m3_vl_text"),
    "rare": (*("cpmant", "dbrx", "hrm_text", "zaya"),),
    "xlm": ("xlm", "flaubert", "xlnet"),
    "byte_latent": ("blt",),
    "diffllama": ("diffllama", "doge", "dory", "jetmoe"),
    "gpt2": ("gpt2", "gpt-sw3", "gpt_bigcode", "gpt_neo", "openai-gpt", "ctrl"),
    "gpt_neox": ("gpt_neox", "gpt_neox_japanese", "gptj", "codegen"),
    "opt": ("opt", "biogpt", "xglm"),
    "bloom": ("bloom", "falcon", "mpt"),
    "mamba": ("mamba", "falcon_mamba", "mamba2"),
    "jamba": ("jamba", "bamba", "falcon_h1", "granitemoehybrid"),
    "zamba": ("zamba", "zamba2"),
    "nemotron_h": ("nemotron_h",),
    "qwen3_next": ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"),
    "kimi_linear": ("kimi_linear", "bailing_hybrid"),
    "lara_mini": ("lara_mini",),
    "reformer": ("reformer",),
    "recurrent": ("recurrent_gemma", "rwkv", "xlstm"),
    "lfm": ("lfm2", "lfm2_moe", "lfm3"),
    "minimax": ("minimax",),
    "bert": (
        *("bert", "roberta", "ernie", "camembert", "xlm-roberta", "data2vec-text"),
        *("ibert", "electra", "rembert", "bert-generation", "roc_bert", "layoutlm"),
        *("tapas", "roformer", "big_bird", "longformer", "mra", "yoso"),
        *("nystromformer", "xmod", "roberta-prelayernorm", "xlm-roberta-xl", "megatron-bert"),
    ),
    "perceiver": ("perceiver",),
    "wav2vec2": (
        *("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"),
        *("wav2vec2-conformer", "wav2vec2-bert"),
    ),
    "letters": ("parakeet_ctc", "omniasr_ctc"),
    "light_encoders": ("mobilebert", "squeezebert", "convbert", "fnet", "funnel"),
    "luke": ("luke",),
    "neomme": ("neomme",),
    "esm": ("esm",),
    "deberta": ("deberta", "deberta-v2"),
    "distilbert": ("distilbert", "mpnet", "albert"),
    "modernbert": (
        *("modernbert", "modernbert-decoder", "eurobert", "esmc", "gte", "nomic_bert"),
        *("jina_embeddings_v3", "ultrabert"),
    ),
    "bart": (
        *("bart", "plbart", "mvp", "mbart", "pegasus", "blenderbot"),
        *("blenderbot-small", "marian", "m2m_100", "bigbird_pegasus", "led", "whisper"),
        *(
            "speech_to_text",
            "trocr",
            "pegasus_x",
            "nllb-moe",
            "fsmt",
            "seamless_m4t",
            "seamless_m4t_v2",
        ),
    ),
    "t5gemma": ("t5gemma", "t5gemma2"),
    "t5": ("t5", "mt5", "umt5", "longt5", "switch_transformers"),
    "vit": (
        *("vit", "deit", "ijepa", "vit_msn", "dinov2", "dinov2_with_registers"),
        "dinov3_vit",
        *("beit", "data2vec-vision", "clip", "siglip", "siglip2", "metaclip_2"),
    ),
    "mllama": ("mllama", "mllama_text_model"),
    "phi4_multimodal": ("phi4_multimodal",),
    "git": ("git",),
    "blip": ("blip",),
    "idefics": ("idefics",),
    "kosmos": ("kosmos-2", "kosmos-2.5"),
    "pi0": ("pi0",),
    "chameleon": ("chameleon",),
    "qwen_omni": ("qwen2_5_omni", "qwen3_omni_moe"),
    "pix2struct": ("pix2struct",),
    "image_to_text": (
        *("pp_formulanet", "vision-encoder-decoder", "encoder-decoder", "speech-encoder-decoder"),
    ),
    "udop": ("udop",),
    "prophetnet": ("prophetnet",),
    "residual_networks": ("resnet", "bit", "regnet", "convnext", "convnextv2", "poolformer"),
    "swin": ("swin", "swinv2", "donut-swin"),
    "hiera": ("hiera", "focalnet"),
    "pyramids": ("pvt", "pvt_v2", "segformer", "cvt"),
    "mobile_networks": ("mobilenet_v1", "mobilenet_v2", "efficientnet", "pp_lcnet"),
    "mobilevit": ("mobilevit", "mobilevitv2"),
    "backbones": ("hgnet_v2", "textnet", "swiftformer"),
    "imagegpt": ("imagegpt",),
    "vision_language": (
        *("llava", "vipllava", "llava_next", "llava_next_video", "llava_onevision"),
        *("video_llava", "mistral3", "lighton_ocr", "gemma3", "shieldgemma2"),
        *("paligemma", "internvl", "idefics3", "smolvlm", "lfm2_vl"),
        *("cohere2_vision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
        *("qwen3_5", "qwen3_5_moe", "llama4", "got_ocr2", "fuyu"),
        *("gemma4", "gemma4_unified", "qwen2_audio", "voxtral", "audioflamingo3"),
        *("musicflamingo", "glmasr", "qwen3_asr", "moss_transcribe_diarize", "exaone4_5"),
        *("cosmos3_omni", "glm4v", "glmga", "glm46v", "glm4v_moe"),
        *("glm_ocr", "hyperclovax_vision_v2", "deepseek_vl", "video_llama_3", "kimi_k25"),
        *("paddleocr_vl", "ovis2", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "idefics2"),
        *("voxtral_realtime", "omniasr", "granite_speech", "granite_speech_plus"),
        *(
            "nemo_speechlm",
            "vibevoice_asr",
        ),
        *("minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "modernvbert", "ultravbert"),
        *("cosmos3_edge", "minimax_m3_vl", "mistral_large4", "hy_v4_vl", "glm5_next", "inkling2"),
        *("dots3_note", "molmo2", "deepseek_vl_hybrid", "unlimited_ocr", "nemotron_h_omni"),
        *("apertus1p5", "qianfan_ocr", "pp_chart2table", "step3p7", "lfm3_vl", "aria"),
        *("granite_docling", "inkling2_loop", "inkling_mm_model", "muse_glimmer", "muse_spark"),
        *("ernie4_5_vl_moe", "janus", "blip-2", "instructblip", "instructblipvideo", "florence2"),
        *("aya_vision", "cohere_compass", "granite4_vision", "hunyuan_vl", "deepseek_ocr2"),
        *("gemma3n", "emu3", "perception_lm", "fast_vlm"),
    ),
}
FAMILIES = {model_type: module for module, types in _MODULES.items() for model_type in types}


def build(config: Config) -> ModelSpec:
    """The model that a config describes."""
    module = FAMILIES.get(config.model_type)
    if module is None:
        raise unknown_family(config.model_type, tuple(FAMILIES))
    family = import_module(f"{__name__}.{module}")
    if kind_of_head(config) not in getattr(family, "HEADS", ("language", "other")):
        raise not_modelled(config)
    spec: ModelSpec = family.build(config)
    return spec
