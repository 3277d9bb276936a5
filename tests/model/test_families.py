"""Families as a whole: the table is true, unknown switches are refused, nulls switch off."""

from __future__ import annotations

from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError, PlannerError
from planner.memory.kernels import KERNELS
from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters
from planner.model.traits import Traits

# Families whose layers are all alike, so that one more layer adds exactly one layer.
EVEN = ("llama", "qwen3", "gemma", "olmo2", "mixtral", "gpt_neox", "cohere", "opt", "phi", "olmoe")


def spec(model_type, **fields):
    return families.build(Config({"model_type": model_type, **fields}))


def total(model_type, **fields):
    return count_parameters(spec(model_type, **fields)).total


def rows_of(name):
    """A module's rows of traits by type, or none if it is written out otherwise."""
    module = import_module(f"planner.model.families.{name}")
    rows = getattr(module, "ROWS", None) or getattr(module, "KIN", {})
    return rows if any(isinstance(row, Traits) for row in rows.values()) else {}


@pytest.mark.parametrize("name", [n for n in sorted(set(families.FAMILIES.values())) if rows_of(n)])
def test_a_module_of_rows_has_one_for_each_of_its_types(name):
    types = {t for t, module in families.FAMILIES.items() if module == name}
    assert set(rows_of(name)) == types


@pytest.mark.parametrize("model_type", EVEN)
@given(layers=st.integers(1, 40))
def test_one_more_layer_adds_one_layers_parameters(model_type, layers):
    one, two = (total(model_type, num_hidden_layers=n) for n in (layers, layers + 1))
    counts = count_parameters(spec(model_type, num_hidden_layers=layers))
    assert two - one == counts.layers[1].parameters


@given(width=st.integers(1, 64).map(lambda n: 128 * n), vocab=st.integers(1, 200_000))
def test_tied_and_untied_differ_by_the_embedding(width, vocab):
    fields = {"hidden_size": width, "vocab_size": vocab, "num_attention_heads": 4}
    tied, untied = (total("llama", tie_word_embeddings=t, **fields) for t in (True, False))
    assert untied - tied == vocab * width


def test_as_many_keys_as_queries_is_multi_head_attention():
    assert total("llama", num_key_value_heads=32) == total("llama")
    grouped = total("llama", num_key_value_heads=8)
    # Two matrices of 4096 x (32 - 8) x 128 less in each of 32 layers.
    assert total("llama") - grouped == 32 * 2 * 4096 * 24 * 128


def test_a_switch_that_the_piece_does_not_know_is_refused():
    with pytest.raises(InputError, match="expansion_ratio = 8"):
        spec("mpt", expansion_ratio=8)
    with pytest.raises(InputError, match=r"asm = True.*gives no wrong number"):
        spec("xlm", asm=True)


def test_a_field_of_no_family_is_named_in_a_warning():
    assert "swiglu_flavour" in " ".join(spec("llama", swiglu_flavour=3).warnings)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_attention_heads": 30}, "num_attention_heads = 30"),
        ({"num_key_value_heads": 7}, "num_key_value_heads = 7"),
        ({"hidden_size": True}, "hidden_size = True"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"hidden_size": -4096}, "hidden_size = -4096"),
        ({"hidden_size": 4096.0}, "hidden_size = 4096.0"),
        ({"vocab_size": 10**12}, "vocab_size = 1000000000000"),
        ({"num_hidden_layers": 10**8}, "num_hidden_layers = 100000000"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
    ],
)
def test_bad_numbers_are_refused_by_name(fields, said):
    with pytest.raises(InputError) as caught:
        spec("llama", **fields)
    assert said in str(caught.value)


def test_a_list_of_layer_types_must_fit():
    with pytest.raises(InputError, match="layer_types has 1 entries"):
        spec("gemma3_text", num_hidden_layers=2, layer_types=["full_attention"])
    with pytest.raises(InputError, match="sliding_attention"):
        spec("gemma3_text", num_hidden_layers=1, layer_types=["slidin_attention"])


def windows(built):
    """The window of each layer's attention; None where it sees everything."""
    return [
        next(op.fact("window") for op in place.block.operations if op.kind == "attention")
        for place in built.layers
    ]


def test_windows_lie_where_the_family_puts_them():
    five_to_one = [4096] * 5 + [None]
    assert windows(spec("gemma3_text", num_hidden_layers=12)) == five_to_one * 2
    assert windows(spec("gpt_oss", num_hidden_layers=4)) == [128, None] * 2
    assert windows(spec("mistral", num_hidden_layers=2)) == [4096, 4096]
    by_switch = {"num_hidden_layers": 4, "sliding_window": 64, "max_window_layers": 2}
    assert windows(spec("qwen2", **by_switch)) == [None] * 4
    assert windows(spec("qwen2", use_sliding_window=True, **by_switch)) == [None, None, 64, 64]


def test_null_switches_off_what_the_family_has_by_default():
    assert windows(spec("mistral", num_hidden_layers=2, sliding_window=None)) == [None, None]
    kinds = {op.kind for op in spec("gemma2", final_logit_softcapping=None).head.block.operations}
    assert "softcap" not in kinds
    direct = spec("deepseek_v3", q_lora_rank=None, num_hidden_layers=1)
    names = {weight.name for weight in direct.layers[0].block.weights}
    assert "self_attn.q_proj.weight" in names


def test_blocks_that_run_again_are_counted_once():
    built = spec("hrm_text", num_hidden_layers=2, H_cycles=2, L_cycles=3)
    assert len(built.layers) == 2 * (3 + 1) * 2
    assert sum(place.weights_of is None for place in built.layers) == 2 * 2


def test_active_parameters_are_those_that_one_token_uses():
    counts = count_parameters(spec("mixtral"))
    # Six of eight experts rest: three matrices of 4096 x 14336 in each of 32 layers.
    assert counts.total - counts.active == 32 * 6 * 3 * 4096 * 14336


CROSSED = {"add_cross_attention": True}


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [*((t, {}) for t in sorted(families.FAMILIES)), ("gpt2", CROSSED), ("xglm", CROSSED)],
)
def test_what_has_no_kernel_says_why_it_is_not_trainable(model_type, fields):
    try:
        model = spec(model_type, **fields)
    except PlannerError:
        return  # its defaults do not say all it needs
    operations = {o.kind for place in model.places for o in place.block.operations}
    assert operations <= set(KERNELS["transformers"]) or model.not_trainable_because
