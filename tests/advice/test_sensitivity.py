"""Sensitivities: worked digits, and the same as counting the changed models one by one."""

from __future__ import annotations

from fractions import Fraction

import pytest

from planner.advice.closed_form import closed_form
from planner.advice.sensitivity import ROW_FIELDS, form_of, sensitivity
from planner.advice.sizes import sizes_of
from planner.advice.variations import FIELDS, WIDTH, WIDTH_FIELDS, Variations
from planner.model import catalog
from planner.model.parameters import count_parameters
from planner.model.sources import from_mapping, load_model

L, D, D_FF, N_Q, N_KV, V = FIELDS

# Worked by hand from the closed forms of a block with grouped keys, gated feed-forward and RMSNorm:
#   A = d h (2 n_q + 2 n_kv), M = 3 d d_ff, N = L (A + M + 2 d) + d + t V d,
#   FLOPs/token = 6 (L (A + M) + V d) + 6 L n_q h s
# with h = d / n_q: doubled field -> parameters, FLOPs per token, KV cache, d ln N / d ln field.
WORKED = {
    ("llama-3-8b", 8192): {
        L: (1.8692, 1.9388, 2, 0.8692),
        D: (2.3343, 2.3129, 2, 1.1671),
        D_FF: (1.7020, 1.6571, 1, 0.7020),
        N_Q: (0.9833, 0.9844, 0.5, -0.0334),
        N_KV: (1.0334, 1.0313, 2, 0.0334),
        V: (1.1308, 1.0612, 1, 0.1308),
        WIDTH: (3.7383, 3.6272, 2, 1.8691),
    },
    ("llama-2-70b", 4096): {
        L: (1.9924, 1.9963, 2, 0.9924),
        D_FF: (1.8173, 1.7895, 1, 0.8173),
        V: (1.0076, 1.0037, 1, 0.0076),
        WIDTH: (3.9848, 3.9175, 2, 1.9924),
    },
    ("smollm2-135m", 2048): {
        L: (1.7895, 1.8333, 2, 0.7895),
        V: (1.2105, 1.1667, 1, 0.2105),
        WIDTH: (3.5785, 3.2500, 2, 1.7893),
    },
}


@pytest.fixture(scope="module")
def answers():
    return {(name, sequence): sensitivity(load_model(name), sequence) for name, sequence in WORKED}


def row(answer, field, factor):
    return next(r for r in answer.rows if r.field == field and r.factor == factor)


@pytest.mark.parametrize(
    ("model", "field"), [(model, field) for model, rows in WORKED.items() for field in rows]
)
def test_worked_digits(answers, model, field):
    found = row(answers[model], field, 2.0)
    parameters, flops, cache, exponent = WORKED[model][field]
    assert round(found.parameters_ratio, 4) == parameters
    assert round(found.flops_per_token_ratio, 4) == flops
    assert found.kv_cache_ratio == cache
    assert round(found.local_exponent, 4) == exponent
    assert found.weights_memory_ratio == pytest.approx(found.parameters_ratio)
    assert found.optimizer_memory_ratio == pytest.approx(found.parameters_ratio)
    assert found.step_time_ratio is None


def test_heads_with_a_head_dim_of_their_own():
    """Llama-3 8B with head_dim written out: twice the heads are twice the width of attention."""
    config = {**catalog.find("llama-3-8b").config, "head_dim": 128}
    answer = sensitivity(from_mapping(config), 8192)
    found = row(answer, N_Q, 2.0)
    assert (round(found.parameters_ratio, 4), round(found.flops_per_token_ratio, 4)) == (
        1.1337,
        1.2503,
    )
    assert (found.kv_cache_ratio, round(found.local_exponent, 4)) == (1, 0.1337)
    width = row(answer, D, 2.0)
    assert (width.parameters_ratio, width.kv_cache_ratio) == (2, 1)  # exactly twice
    assert width.local_exponent == 1


@pytest.mark.parametrize(
    ("heads", "parameters", "cache"),
    [(32, 8_835_567_616, 524_288), (8, 8_030_261_248, 131_072), (1, 7_795_380_224, 16_384)],
)
def test_key_value_heads_of_llama_3_8b(heads, parameters, cache):
    spec = load_model("llama-3-8b", {N_KV: heads})
    sizes = sizes_of(spec, 1, 1)
    assert (sizes.parameters, sizes.cache_bytes) == (parameters, cache)


def test_activations_are_at_least_those_of_the_closed_form(answers):
    """8 d + 4 h (n_q + n_kv) + 8 d_ff + 4 n_q bytes per token and layer is the least (bf16)."""
    answer = answers[("llama-3-8b", 8192)]
    per_token_and_layer = answer.now.activation_bytes / 8192 / 32
    assert 168_064 <= per_token_and_layer <= 1.25 * 168_064
    assert row(answer, L, 2.0).activation_memory_ratio == 2
    assert row(answer, V, 2.0).activation_memory_ratio == 1


def test_sequence_and_micro_batch_change_no_parameter(answers):
    answer = answers[("llama-3-8b", 8192)]
    for field in ("sequence_length", "micro_batch_size"):
        found = row(answer, field, 2.0)
        assert (found.parameters_ratio, found.local_exponent, found.kv_cache_ratio) == (1, 0, 2)
        assert found.activation_memory_ratio == pytest.approx(2)
    assert row(answer, "micro_batch_size", 2.0).flops_per_token_ratio == 1
    # 6 L n_q h s of scores doubles: 6.44e9 of 51.5e9 FLOPs per token.
    flops = 6 * (32 * (41_943_040 + 176_160_768) + 128_256 * 4096)
    scores = 6 * 32 * 4096 * 8192
    found = row(answer, "sequence_length", 2.0)
    assert found.flops_per_token_ratio == pytest.approx((flops + 2 * scores) / (flops + scores))


def test_what_cannot_be_built_has_a_reason_and_no_number(answers):
    answer = answers[("smollm2-135m", 2048)]
    assert [r.field for r in answer.rows[::3]] == list(ROW_FIELDS)
    bad = [row(answer, N_KV, 2.0), row(answer, N_Q, 0.5), row(answer, "micro_batch_size", 0.5)]
    bad += [row(answer, WIDTH, 0.5)]
    assert bad[0].reason == "num_key_value_heads = 6: expected a divisor of 9 query heads"
    assert bad[1].reason == "num_attention_heads 9 x 0.5 is no whole number"
    for found in bad:
        assert found.parameters_ratio is None
        assert found.local_exponent is None
        assert found.kv_cache_ratio is None
    # The next legal number of key/value heads after 3, of 9 query heads, is 9.
    assert [r.factor for r in answer.rows if r.field == N_KV] == [0.5, 2.0, 3.0]


def test_a_family_without_a_field_says_so():
    answer = sensitivity(load_model("gpt2"), 1024)
    rows = [r for r in answer.rows if r.field == N_KV]
    assert [r.factor for r in rows] == [0.5, 2.0, None]
    assert {r.reason for r in rows} == {"gpt2 has no num_key_value_heads"}
    # n_inner is left out and four times n_embd; it can be changed alone all the same.
    assert answer.values[D_FF] == 3072
    assert row(answer, D_FF, 2.0).parameters_ratio > 1.4


@pytest.mark.parametrize("name", catalog.ids())
def test_every_catalog_model_agrees_with_counting(name):
    """Exact finite differences: the closed form at each legal step is the count of that model."""
    entry = catalog.find(name)
    variations = Variations(load_model(name))
    assert L in variations.values
    for field in (*FIELDS, WIDTH):
        form = form_of(variations, field)
        twice = variations.scaled(field, Fraction(2)).spec
        if field in variations.values and twice is not None:
            written = {k: v for k, v in entry.config.items() if not _is(variations, k, field)}
            changed = from_mapping({**written, field: 2 * variations.values[field]})
            if _is(variations, field, field):
                assert count_parameters(twice).total == count_parameters(changed).total
        if form is None:
            continue
        assert form.value(form.x) == entry.parameters
        step = next(variations.neighbours(field, 1), None)
        if step is not None:
            factor, model = step
            assert form.value(form.x * factor) == count_parameters(model).total


def _is(variations, written, field):
    """Whether a key of the config is the field, and the family knows the field by that name."""
    config = variations.config
    return config.canonical(written) == config.canonical(field) and config.knows(field)


def test_width_keeps_the_heads_dimension():
    variations = Variations(load_model("qwen3-8b"))
    wide = variations.scaled(WIDTH, Fraction(2)).spec
    for field in WIDTH_FIELDS:
        assert wide.config[field] == 2 * variations.values[field]
    assert wide.config["head_dim"] == 128


def test_a_count_that_is_no_such_form_has_none():
    points = [(Fraction(n), {"all": 2**n}) for n in range(1, 7)]
    assert closed_form(Fraction(1), points) is None
    assert closed_form(Fraction(1), points[:1]) is None


@pytest.mark.parametrize("model_type", ["gemma3", "mistral3", "paligemma", "llava", "qwen2_5_vl"])
def test_the_language_part_of_a_model_that_sees_is_what_changes(model_type):
    spec = from_mapping({"model_type": model_type})
    variations = Variations(spec)
    text = [place for place in spec.layers if place.block.sequence == "text"]
    layers = variations.values[L]
    assert 0 < layers <= len(text)
    same = variations.with_values({L: layers}).spec
    more = variations.with_values({L: layers + 1}).spec
    assert count_parameters(same).total == count_parameters(spec).total
    assert len(more.layers) == len(spec.layers) + 1
    assert form_of(variations, L) is not None
