"""Encoders, encoder-decoders and the heads that a config names.

Totals are Transformers 5.24.0's, built on the meta device.
"""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters, tensors
from planner.model.spec import ModelSpec


def build(model_type: str, architecture: str | None = None, **fields: Any) -> ModelSpec:
    named = {"architectures": [architecture]} if architecture else {}
    return families.build(Config({"model_type": model_type, **named, **fields}))


HEADS = [
    ("bert", "BertForMaskedLM", 109_514_298),
    ("bert", "BertLMHeadModel", 109_514_298),
    ("bert", "BertModel", 109_482_240),
    ("bert", "BertForSequenceClassification", 109_483_778),
    ("bert", "BertForTokenClassification", 108_893_186),
    ("roberta", "RobertaForSequenceClassification", 124_646_402),
    ("deberta-v2", "DebertaV2ForMaskedLM", 879_999_588),
    ("bart", "BartForConditionalGeneration", 406_291_456),
    ("bart", "BartForCausalLM", 254_084_096),
    ("whisper", "WhisperForCausalLM", 29_552_256),
]


@pytest.mark.parametrize(("model_type", "architecture", "total"), HEADS)
def test_the_named_class_decides_on_the_head(
    model_type: str, architecture: str, total: int
) -> None:
    assert count_parameters(build(model_type, architecture)).total == total


def test_a_head_that_is_not_modelled_is_refused_and_not_guessed() -> None:
    with pytest.raises(InputError, match="BertForPreTraining"):
        build("bert", "BertForPreTraining")
    with pytest.raises(InputError, match="LlamaForSequenceClassification"):
        build("llama", "LlamaForSequenceClassification")


def test_a_bare_encoder_has_no_prefix() -> None:
    names = {name for name, _ in tensors(build("bert", "BertModel"))}
    assert "embeddings.word_embeddings.weight" in names
    assert "pooler.dense.weight" in names


def test_bert_norms_after_each_branch_and_looks_both_ways() -> None:
    block = build("bert").layers[0].block
    kinds = [operation.kind for operation in block.operations]
    assert kinds[-1] == "layer_norm"
    assert kinds.count("layer_norm") == 2
    attention = next(op for op in block.operations if op.kind == "attention")
    assert attention.fact("causal") is False


def test_classes_are_counted_from_id2label() -> None:
    names = {str(i): f"label {i}" for i in range(7)}
    three = build("bert", "BertForTokenClassification", id2label=names)
    two = build("bert", "BertForTokenClassification")
    assert count_parameters(three).total - count_parameters(two).total == 5 * (768 + 1)


def test_cross_attention_that_nobody_modelled_is_refused() -> None:
    with pytest.raises(InputError, match="add_cross_attention"):
        build("megatron-bert", is_decoder=True, add_cross_attention=True)
    with pytest.raises(InputError, match="add_cross_attention"):
        build("bert", add_cross_attention=True)


def test_albert_runs_its_layer_again_and_counts_it_once() -> None:
    spec = build("albert")
    assert [place.weights_of is None for place in spec.layers] == [True] + [False] * 11
    assert count_parameters(spec).total == 206_368_944


def test_t5_is_tied_whatever_the_field_says() -> None:
    tied, untied = (build("t5", tie_word_embeddings=tied) for tied in (True, False))
    assert count_parameters(tied).total == count_parameters(untied).total == 60_506_624


def test_only_the_first_t5_block_has_a_table_of_positions() -> None:
    def tables(model_type: str) -> int:
        names = [name for name, _ in tensors(build(model_type))]
        return sum("relative_attention_bias" in name for name in names)

    assert tables("t5") == 2  # one in each stack
    assert tables("umt5") == 16


def test_switch_sends_each_token_through_one_expert() -> None:
    count = count_parameters(build("switch_transformers"))
    expert = 2 * 768 * 2048
    assert count.total - count.active == (3 + 3) * 7 * expert


def test_the_encoder_of_bart_runs_over_its_own_sequence() -> None:
    spec = build("bart", "BartForConditionalGeneration")
    assert {p.block.sequence for p in spec.layers if p.prefix.startswith("model.encoder")} == {
        "encoder"
    }
