"""Vision towers alone and beside a language model. Totals are Transformers 5.24.0's."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.nesting import prefix_changed, renamed
from planner.model.parameters import count_parameters, tensors
from planner.model.spec import ModelSpec


def build(model_type: str, **fields: Any) -> ModelSpec:
    return families.build(Config({"model_type": model_type, **fields}))


@pytest.mark.parametrize(
    ("model_type", "total"),
    [
        ("llava", 7_062_902_784),
        ("gemma3", 2_723_312_896),
        ("qwen2_vl", 73_381_962_752),
        ("qwen2_5_vl", 75_789_228_800),
        ("internvl", 11_765_025_792),
        ("vit", 85_800_194),
        ("dinov2", 85_728_770),
        ("clip", 87_457_538),
    ],
)
def test_the_whole_is_its_parts(model_type: str, total: int) -> None:
    spec = build(model_type)
    assert count_parameters(spec).total == total
    assert "not modelled" in str(spec.not_trainable_because)


@pytest.mark.parametrize(
    ("model_type", "architecture", "total"),
    [
        ("clip", "CLIPModel", 151_277_313),
        ("siglip", "SiglipModel", 203_155_970),
        ("vit", "ViTModel", 86_389_248),
    ],
)
def test_encoders_without_a_classifier(model_type: str, architecture: str, total: int) -> None:
    assert count_parameters(build(model_type, architectures=[architecture])).total == total


def test_the_class_decides_whether_what_sees_is_there() -> None:
    text = build("llama4", architectures=["Llama4ForCausalLM"])
    whole = build("llama4", architectures=["Llama4ForConditionalGeneration"])
    assert count_parameters(text).total == 107_769_861_120
    assert count_parameters(whole).total == 108_225_039_360


def test_patches_and_text_are_sequences_of_their_own() -> None:
    spec = build("llava")
    by_sequence = {place.block.sequence for place in spec.layers}
    assert by_sequence == {"image", "text"}
    tower = [p for p in spec.layers if p.prefix.startswith("model.vision_tower.encoder.layers.")]
    assert len(tower) == 24


def test_a_nested_config_that_is_given_stands_alone() -> None:
    """A composite's values for its parts hold only where the part is left out altogether."""
    left_out = build("paligemma")
    given = build("paligemma", text_config={"model_type": "gemma"})
    assert count_parameters(left_out).total == 2_910_390_528
    assert count_parameters(given).total == 8_939_539_712


def test_a_text_part_that_ties_by_an_old_config_ties() -> None:
    names = {name for name, _ in tensors(build("llava", text_config={"tie_word_embeddings": True}))}
    assert "lm_head.weight" not in names


def test_an_unknown_tower_is_refused() -> None:
    with pytest.raises(InputError, match="vision"):
        build("llava", vision_config={"model_type": "clip_vision_modell"})


def test_an_error_in_a_nested_config_names_its_path() -> None:
    with pytest.raises(InputError, match=r"^text_config\.hidden_size: "):
        build("paligemma", text_config={"model_type": "gemma", "hidden_size": -1})
    with pytest.raises(InputError, match=r"^vision_config\.patch_size: "):
        build("llava", vision_config={"patch_size": "fourteen"})


def test_renaming_follows_ties_and_owners() -> None:
    spec = build("gemma3_text")
    rename = prefix_changed("model.", "model.language_model.")
    head = renamed(spec.head, rename).block
    tied = [weight.tied_to for weight in head.weights if weight.tied_to]
    assert tied == ["model.language_model.embed_tokens.weight"]
    assert renamed(spec.layers[3], rename).block is spec.layers[3].block


def test_a_towers_experts_are_chosen_by_its_own_number() -> None:
    """Dots3's later vision layers have 4, 8, ... 64 experts, of which each patch uses two."""
    layers = {"num_hidden_layers": 3, "pyramid_num_routed": [-1, 4, 8]}
    spec = build(
        "dots3_note", architectures=["Dots3NoteForConditionalGeneration"], vision_config=layers
    )
    tower = [
        place.block for place in spec.layers if place.prefix.startswith("model.vision_tower.bl")
    ]
    experts = [sum(w.elements for w in b.weights if w.kind == "expert") for b in tower]
    used = [sum(w.active_parameters for w in b.weights if w.kind == "expert") for b in tower]
    one = 3 * 2112 * 1536  # three matrices of moe_intermediate_size x hidden_size
    assert experts == [0, 4 * one, 8 * one]
    assert used == [0, 2 * one, 2 * one]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (
            {"model_type": "molmo2", "vit_config": {}, "adapter_config": {"vit_layers": [-3, -9]}},
            {"model_type": "molmo2", "vision_config": {"num_hidden_layers": 23}},
        ),
        (
            {"model_type": "nemotron_h_omni", "llm_config": {"vocab_size": 1000}},
            {"model_type": "nemotron_h_omni", "text_config": {"vocab_size": 1000}},
        ),
        (
            {"model_type": "unlimited_ocr", "language_config": {"num_hidden_layers": 3}},
            {"model_type": "unlimited_ocr", "text_config": {"num_hidden_layers": 3}},
        ),
        (
            {"model_type": "glm5_next", "num_hidden_layers": 5},
            {"model_type": "glm5_next", "text_config": {"num_hidden_layers": 5}},
        ),
        (
            {
                "model_type": "minimax_m3_vl",
                "text_config": {
                    "num_hidden_layers": 2,
                    "sparse_attention_config": {"sparse_attention_freq": [0, 1]},
                    "moe_layer_freq": [0, 1],
                },
            },
            {
                "model_type": "minimax_m3_vl",
                "text_config": {
                    "num_hidden_layers": 2,
                    "layer_types": ["full_attention", "minimax_m3_sparse"],
                    "mlp_layer_types": ["dense", "sparse"],
                },
            },
        ),
    ],
    ids=lambda fields: fields["model_type"],
)
def test_a_config_from_before_the_family_was_known_reads_as_todays(
    older: dict[str, Any], newer: dict[str, Any]
) -> None:
    assert count_parameters(build(**older)) == count_parameters(build(**newer))


def test_layers_that_share_picks_have_no_indexer() -> None:
    """GLM-5 says so by index_topk_freq: every second layer from the third on."""
    fields = {"num_hidden_layers": 6, "index_topk_freq": 2}
    names = [name for name, _ in tensors(build("glm_moe_dsa", **fields)) if "indexer.wk" in name]
    assert [int(name.split(".")[2]) for name in names] == [0, 1, 3, 5]


def test_a_choice_that_rounding_decides_is_refused() -> None:
    """Inkling spreads its layers over scales; 2 frames of 7 x 7 in 2 layers could go two ways."""
    clear = {"patch_size": 40, "temporal_patch_size": 2, "num_hidden_layers": 4}
    spec = build("inkling_mm_model", vision_config=clear)
    shapes = [w.shape for name, w in tensors(spec) if name.endswith("projection.weight")]
    assert shapes[:3] == [(128, 75), (320, 512), (4800, 5120)]
    tied = {"patch_size": 7, "temporal_patch_size": 4, "num_channels": 1, "num_hidden_layers": 3}
    with pytest.raises(InputError, match=r"^vision_config\.num_hidden_layers: .* another number"):
        build("inkling_mm_model", vision_config=tied)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "idefics3", "idefics2"])
def test_a_part_of_a_fixed_type_may_say_that_it_is_the_whole(model_type: str) -> None:
    """The checkpoints of these families have the whole's model_type in vision_config, too."""
    named = build(model_type, vision_config={"model_type": model_type})
    assert count_parameters(named).total == count_parameters(build(model_type)).total
