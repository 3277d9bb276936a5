"""Vision-language models: a vision tower, a projector, and a language model of a known family.

Each is a row of KIN: where the parts lie and which projector joins them. The blocks of the tower
run over the image's patches, the rest over the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.model import families
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.families.vision_towers import Tower
from planner.model.nesting import prefix_changed, renamed, taken_as
from planner.model.operations import Tensor
from planner.model.spec import ModelSpec, Placed

# Text parts that are another family's decoder under a name of their own.
TEXT_AS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}

# c, block, vision tower, config of the vision part, width of the text
Projector = Callable[[Config, BlockBuilder, Tower, Config, int], None]


def feature_layers(c: Config) -> int:
    """How many of the tower's layers are put side by side."""
    given = c.raw("vision_feature_layer")
    return len(given) if isinstance(given, list | tuple) else 1


def joined(b: BlockBuilder, x: Tensor, times: int) -> Tensor:
    """Several patches or layers side by side: no weights."""
    return b.opaque("join", x.width * times, (), (x,)) if times > 1 else x


def two_linears(
    b: BlockBuilder, x: Tensor, inner: int, out: int, activation: str, bias: bool
) -> None:
    y = b.activation(b.linear(x, "linear_1", inner, bias=bias), activation)
    b.linear(y, "linear_2", out, bias=bias, split="row")


def llava(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    bias = c.flag("multimodal_projector_bias", True)
    x = joined(b, b.input, feature_layers(c))
    two_linears(b, x, width, width, c.word("projector_hidden_act"), bias)


def vipllava(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, feature_layers(c))
    x = b.layer_norm(x, "projector_layernorm")
    two_linears(b, x, width, width, c.word("projector_hidden_act"), True)


def mistral3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Norm, a linear over spatial_merge_size squared patches, two linears."""
    side, layers = c.size("spatial_merge_size"), feature_layers(c)
    x = joined(b, b.rms_norm(b.input, "norm"), side * side)
    x = b.linear(x, "patch_merger.merging_layer", t.width)
    bias = c.flag("multimodal_projector_bias")
    activation = c.word("projector_hidden_act", "gelu")
    two_linears(b, joined(b, x, layers), width, width, activation, bias)


def gemma3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("mm_tokens_per_image")
    x = b.rms_norm(b.input, "mm_soft_emb_norm", cast="after_weight")
    weight = b.weight("mm_input_projection_weight", t.width, width)
    flops = 2 * t.width * width
    b.opaque("mm_input_projection", width, (weight,), (x,), flops_per_token=flops)


def paligemma(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("hidden_size", "vocab_size")
    b.linear(b.input, "linear", c.size("projection_dim"), bias=True)


def internvl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Pixels are shuffled into channels by downsample_ratio before norm and linears."""
    times = int(1 / c.number("downsample_ratio", 0.5)) ** 2
    x = b.layer_norm(joined(b, b.input, times), "layer_norm")
    two_linears(b, x, width, width, c.word("projector_hidden_act"), True)


def idefics3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, c.size("scale_factor") ** 2)
    b.linear(x, "modality_projection.proj", width)


def lfm2_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, c.size("downsample_factor") ** 2)
    if c.flag("projector_use_layernorm"):
        x = b.layer_norm(x, "layer_norm")
    inner, bias = c.size("projector_hidden_size"), c.flag("projector_bias")
    two_linears(b, x, inner, width, c.word("projector_hidden_act"), bias)


def cohere2_vision(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A gate: the first linear makes twice what the second takes."""
    inner = c.size("alignment_intermediate_size")
    c.require(inner % 2 == 0, "alignment_intermediate_size", "an even number")
    x = joined(b, b.input, c.size("downsample_factor") ** 2)
    x, gate = b.split(b.linear(x, "linear_1", inner, bias=True), inner // 2, inner // 2)
    x = b.multiply(b.activation(gate, "silu"), x)
    b.linear(x, "linear_2", width, bias=True, split="row")


@dataclass(frozen=True)
class Kin:
    """Where a family keeps its parts.

    text        beginning of the language model's names: alone, and here
    vision      prefixes of the towers (two where pictures and films have one each)
    projector   None: the tower ends with it
    newline     a learned token between rows of patches
    text_ties   tie_word_embeddings of the text part ties too (configs saved before Transformers 5)
    flat        the text part's fields may lie at the top of the config
    """

    projector: Projector | None = llava
    text: tuple[str, str] = ("model.", "model.language_model.")
    vision: tuple[str, ...] = ("model.vision_tower.",)
    where: str = "model.multi_modal_projector"
    newline: bool = False
    text_ties: bool = False
    flat: bool = False


KIN = {
    "llava": Kin(text_ties=True),
    "vipllava": Kin(vipllava),
    "llava_next": Kin(newline=True),
    "llava_next_video": Kin(newline=True, text_ties=True),
    "llava_onevision": Kin(newline=True, text_ties=True),
    "video_llava": Kin(vision=("model.video_tower.", "model.image_tower.")),
    "mistral3": Kin(mistral3),
    "lighton_ocr": Kin(
        mistral3, vision=("model.vision_encoder.",), where="model.vision_projection"
    ),
    "gemma3": Kin(gemma3),
    "shieldgemma2": Kin(gemma3),
    "paligemma": Kin(paligemma),
    "internvl": Kin(internvl),
    "idefics3": Kin(
        idefics3,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
    ),
    "smolvlm": Kin(
        idefics3,
        ("model.", "model.text_model."),
        ("model.vision_model.",),
        "model.connector",
    ),
    "lfm2_vl": Kin(lfm2_vl),
    "cohere2_vision": Kin(cohere2_vision),
    "qwen2_vl": Kin(None, vision=("model.visual.",), text_ties=True, flat=True),
    "qwen2_5_vl": Kin(None, vision=("model.visual.",), text_ties=True, flat=True),
    "qwen3_vl": Kin(None, vision=("model.visual.",)),
    "qwen3_vl_moe": Kin(None, vision=("model.visual.",)),
    "qwen3_5": Kin(None, vision=("model.visual.",)),
    "qwen3_5_moe": Kin(None, vision=("model.visual.",)),
}
SETTINGS = (
    *("image_seq_length", "video_seq_length", "vision_feature_select_strategy"),
    *("vision_feature_layer", "image_grid_pinpoints", "spatial_pool_mode", "spatial_pool_stride"),
    *("vision_aspect_ratio", "encoder_no_repeat_ngram_size", "use_image_newline_parameter"),
    *("max_dynamic_tiling", "vision_select_strategy", "do_image_splitting", "ignore_index"),
    *("video_token", "image_token", "tie_embedding"),
)


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    c.ignore(*SETTINGS)
    text = text_config(c, kin)
    text.given["tie_word_embeddings"] = tied(c, kin, text)
    spec = families.build(text)
    rename = prefix_changed(*kin.text)
    vision = c.sub("vision_config")
    places: list[Placed] = []
    warnings = list(spec.warnings)
    for prefix in kin.vision:
        built = tower(c.sub("vision_config"), prefix)
        places += built.places
        warnings += built.warnings
    if kin.projector is not None:
        b = BlockBuilder("projector", built.width, sequence="image")
        kin.projector(c, b.part(kin.where, "other"), built, vision, spec.hidden_size)
        if kin.newline:
            weight = b.weight("model.image_newline", spec.hidden_size)
            b.opaque("newline", spec.hidden_size, (weight,), group="other")
        places.append(Placed("", b.block()))
    places += [renamed(place, rename) for place in spec.layers]
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=spec.hidden_size,
        embedding=renamed(spec.embedding, rename),
        layers=tuple(places),
        head=renamed(spec.head, rename),
        config=c.given,
        assumed=c.assumed,
        warnings=(*warnings, *c.finish()),
        not_trainable_because=NOT_MODELLED,
    )


def text_config(c: Config, kin: Kin) -> Config:
    text = c.sub("text_config")
    if kin.flat and c.raw("text_config") is None:  # the fields lie at the top
        own = {"vision_config", "text_config", "architectures", "model_type"}
        text.given.update({k: v for k, v in c.given.items() if k not in own})
        c.ignore(*c.given)
    text.given.pop("architectures", None)
    as_family = TEXT_AS.get(text.model_type)
    return taken_as(text, as_family) if as_family else text


def tied(c: Config, kin: Kin, text: Config) -> bool:
    if c.model_type == "shieldgemma2":  # always, whatever the field says
        c.ignore("tie_word_embeddings")
        return True
    return c.flag("tie_word_embeddings") or (kin.text_ties and text.flag("tie_word_embeddings"))
