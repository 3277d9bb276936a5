"""The tape's rules against hand values: what waits, what a step needs, what recompute saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory import primitives as p
from planner.memory.kernels import KERNELS
from planner.memory.kernels.fusion import fused_block
from planner.memory.movement import launches, moved_backward, moved_forward
from planner.memory.peak import rows_of, setting_of, step_peak
from planner.memory.player import Numerics, Setting, play
from planner.memory.recompute import computed_again
from planner.memory.rows import amount
from planner.memory.sizes import COLUMN, ZERO, Size, size
from planner.memory.surroundings import columns_of
from planner.memory.tape import Again, Storage, Tape, Value
from planner.model import families
from planner.model.config import Config
from planner.model.operations import Block
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.precision import precision
from planner.training.recipe import Recipe
from planner.training.stacks import stack as stack_named

STREAM = "tokens_sequence"
FLOAT32 = 4


def bytes_per_token(of: Size) -> float:
    return of[COLUMN[STREAM]]


def chain(*steps: str) -> tuple[Tape, Value, Value]:
    """A tape of pointwise steps on ten float32 values a token; "relu" keeps its result."""
    tape = Tape()
    first = x = tape.value(10, FLOAT32, STREAM)
    for name in steps:
        x = p.unary(tape, x, name, keeps="output" if name == "relu" else "input")
    return tape, first, x


def moments(rows) -> list[tuple[str, float]]:
    return [(m.name, bytes_per_token(m.size)) for m in rows]


@pytest.mark.parametrize("name", ["all_gather", "reduce_scatter", "all_to_all"])
def test_what_other_gpus_answer_is_no_movement(name: str) -> None:
    tape, _, x = chain("gelu")
    before = moved_forward(tape.steps), moved_backward(tape.steps)
    p.copy(tape, x, name)
    assert (moved_forward(tape.steps), moved_backward(tape.steps)) == before
    assert launches(tape.steps) == (2, 2)


def test_a_storage_waits_once_however_many_steps_save_it() -> None:
    tape, first, last = chain("gelu")
    p.linear(tape, first, 10, STREAM, size("gradient_whole", 100))
    assert bytes_per_token(tape.profile(first, last).kept) == 40


def test_what_gradients_do_not_reach_keeps_nothing() -> None:
    tape = Tape()
    x = tape.value(10, FLOAT32, STREAM, requires_grad=False)
    y = p.unary(tape, x, "gelu")
    assert bytes_per_token(tape.profile(x, y).kept) == 0
    assert not y.requires_grad


def test_forward_holds_what_waits_and_what_is_read_later() -> None:
    tape, first, last = chain("gelu", "relu", "gelu")
    profile = tape.profile(first, last)
    # the input waits, and relu's result, which is the last gelu's input; relu's own input does not
    assert moments(profile.forward) == [("gelu", 80), ("relu", 120), ("gelu", 120)]
    # under recompute only the input waits: a step has its input and its result beside it
    assert moments(profile.passing) == [("gelu", 80), ("relu", 120), ("gelu", 120)]


def test_backward_frees_what_it_has_read() -> None:
    tape, first, last = chain("gelu", "gelu")
    # two inputs wait (80), the incoming gradient and the new one (80); then one is gone
    assert moments(tape.profile(first, last).backward) == [("gelu", 160), ("gelu", 120)]


def test_backward_of_views_and_parts() -> None:
    tape = Tape()
    x = tape.value(10, FLOAT32, STREAM)
    a, b = p.parts(tape, x, 5, 5)
    y = p.add(tape, a, b)
    rows = moments(tape.profile(x, y).backward)
    # the sum hands its gradient (20) to both; the parts' is written into one whole (40)
    assert rows[0] == ("add", 20)
    assert rows[-1] == ("split", 60)


def test_a_second_gradient_is_added_in_place_if_nothing_else_holds_the_first() -> None:
    tape = Tape()
    x = tape.value(10, FLOAT32, STREAM)
    y = p.add(tape, p.multiply_constant(tape, x), p.multiply_constant(tape, x))
    names = [name for name, _ in moments(tape.profile(x, y).backward)]
    assert "accumulate" not in names
    tape = Tape()
    x = tape.value(10, FLOAT32, STREAM)
    y = p.add(tape, x, p.multiply_constant(tape, x))  # the residual's gradient is the output's
    rows = moments(tape.profile(x, y).backward)
    assert rows == [("add", 40), ("mul", 80)]


def test_a_product_makes_gradients_in_its_own_shape_first() -> None:
    tape = Tape()
    wide, narrow = tape.value(10, 2, STREAM), tape.value(1, FLOAT32, STREAM)
    out = p.multiply(tape, wide, narrow)
    (first, second) = moments(tape.profile(wide, out).backward)
    saved, incoming, raw = 20 + 4, 40, 40
    assert first == ("mul", saved + incoming + 2 * raw)
    assert second == ("mul", saved + incoming + 2 * raw + 20)  # the first is cast to 16 bits


def test_weight_gradients_add_up_in_their_own_columns() -> None:
    tape = Tape()
    x = tape.value(10, 2, STREAM)
    y = p.linear(tape, x, 30, "tokens_tensor", size("gradient_tensor", 300))
    z = p.linear(tape, y, 10, STREAM, size("gradient_whole", 7))
    rows = tape.profile(x, z).backward
    assert [m.size[COLUMN["gradient_tensor"]] for m in rows] == [0, 300]
    assert [m.size[COLUMN["gradient_whole"]] for m in rows] == [7, 7]


def test_selective_recompute_keeps_inputs_instead() -> None:
    tape = Tape()
    x = tape.value(10, FLOAT32, STREAM)
    tape.operation = 0
    a = p.unary(tape, x, "gelu")
    tape.operation = 1
    b = p.unary(tape, p.unary(tape, a, "gelu"), "gelu")
    tape.operation = 2
    y = p.unary(tape, b, "gelu")
    assert bytes_per_token(tape.profile(x, y).kept) == 160
    kept = tape.profile(x, y, (Again(frozenset({1})),)).kept
    assert bytes_per_token(kept) == 120  # x, a, b: not what lies between a and b
    dropped = tape.profile(x, y, (Again(frozenset({1}), drops_output=True),)).kept
    assert bytes_per_token(dropped) == 80


def test_full_recompute_runs_forward_again_beside_the_gradient() -> None:
    tape, first, last = chain("gelu", "gelu")
    rows = moments(tape.profile(first, last).again)
    # the second forward pass stops before the last gelu, which keeps its input alone
    assert rows == [("gelu", 40 + 80), ("gelu", 160), ("gelu", 120)]


# ---- whole models ------------------------------------------------------------------------------

FIELDS = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
GPT = {"model_type": "gpt2", "n_embd": 512, "n_head": 8, "n_layer": 4, "vocab_size": 32000}
EXPERTS = {
    **FIELDS,
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "head_dim": 64,
}
MODELS = [families.build(Config(fields)) for fields in (FIELDS, GPT, EXPERTS)]
STACKS = ["ddp", "fsdp2", "torchtitan", "megatron"]
models = st.sampled_from(MODELS)
stacks = st.sampled_from(STACKS)
attentions = st.sampled_from(["flash", "eager"])


@given(models, stacks, attentions, st.integers(1, 8), st.sampled_from([256, 1024]))
def test_recompute_never_keeps_more(model, stack, attention, batch, length) -> None:
    recipe = Recipe(length, attention=attention)
    layout = Layout(micro_batch_size=batch, stack=stack)

    def activations(recompute: Recompute) -> float:
        peak = step_peak(model, recipe, replace(layout, recompute=recompute))
        head = next(r for r in peak.rows if r.phase == "forward" and r.where == "head")
        return float(head.of("activations"))

    none = activations(Recompute.none)
    assert activations(Recompute.full) <= none
    assert activations(Recompute.selective) <= none


@given(models, stacks, attentions, st.integers(2, 6))
def test_twice_the_sequences_are_twice_the_token_bytes(model, stack, attention, batch) -> None:
    recipe = Recipe(512, attention=attention)
    layout = Layout(micro_batch_size=batch, stack=stack)
    policy = precision(recipe.precision, stack)
    setting = setting_of(model, recipe, policy, layout)
    rows = rows_of(model, setting, stack_named(stack).kernels)
    once = columns_of(recipe, layout)
    twice = columns_of(recipe, replace(layout, micro_batch_size=2 * batch))
    for layer in rows.layers:
        fixed = COLUMN["positions"], COLUMN["fixed"]
        per_token = tuple(0.0 if i in fixed else x for i, x in enumerate(layer.kept))
        assert amount(per_token, twice) == pytest.approx(2 * amount(per_token, once))


@given(
    models,
    stacks,
    attentions,
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([Recompute.none, Recompute.full]),
    st.integers(1, 4),
)
def test_the_breakdown_adds_up(model, stack, attention, ranks, recompute, batch) -> None:
    sharding = {"ddp": Sharding.none, "megatron": Sharding.zero1}.get(stack, Sharding.zero3)
    layout = Layout(
        data_parallel=ranks,
        micro_batch_size=batch,
        recompute=recompute,
        sharding=sharding,
        stack=stack,
    )
    peak = step_peak(model, Recipe(512, attention=attention), layout)
    assert sum(peak.breakdown.values()) == pytest.approx(peak.allocated_bytes)
    assert all(value >= 0 for value in peak.breakdown.values())
    assert peak.allocated_bytes == max(row.total for row in peak.rows)


# ---- Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" --


def per_token_and_layer(block: Block, attention: str, again: tuple[str, ...] = ()) -> float:
    """Bytes per token that a layer of Megatron-Core's kernels keeps, 16 bits."""
    setting = Setting(Numerics(2, 2, 2), LENGTH, attention, recompute=again)
    kept = play(block, WIDTH, setting, KERNELS["megatron"]).kept
    alone = COLUMN["tokens_alone"]  # several sequences in a micro-batch
    return sum(x for i, x in enumerate(kept[: COLUMN["gradient_whole"]]) if i != alone)


LENGTH, WIDTH, HEADS = 2048, 512, 8


def test_recompute_moves_its_own_operations_again() -> None:
    """core_attn of written-out attention: scores in and out of the softmax, 2 bytes each."""
    block = fused_block(MODELS[1].layers[0].block)
    setting = Setting(Numerics(2, 2, 2), LENGTH, "eager")
    whole = play(block, WIDTH, setting, KERNELS["megatron"])
    again = play(block, WIDTH, replace(setting, recompute=("core_attn",)), KERNELS["megatron"])
    assert again.moved == whole.moved
    assert whole.moved_again == ZERO
    softmax, copied = 2 * 2 * HEADS * LENGTH, 2 * 2 * WIDTH
    assert sum(again.moved_again) == softmax + copied


@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_korthikanti_table_2(attention) -> None:
    """s b h (34 + 5 a s / h) for GPT, less what is not here; with selective recompute 34.

    Not here: dropout, so 2 h of masks, and of the scores their mask (a s) and the dropped copy
    (2 a s). Beside the paper's list: mean and 1/std of two norms, and where a fused kernel keeps no
    scores one float32 log-sum-exp per row and head.
    """
    block = fused_block(MODELS[1].layers[0].block)
    without_scores = 34 * WIDTH - 2 * WIDTH + 2 * 2 * FLOAT32
    scores = {"flash": HEADS * FLOAT32, "eager": 5 * HEADS * LENGTH - 3 * HEADS * LENGTH}
    assert per_token_and_layer(block, attention) == without_scores + scores[attention]
    assert per_token_and_layer(block, attention, ("core_attn",)) == without_scores


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_korthikanti_tensor_and_sequence_parallel(sequence_parallel) -> None:
    """s b h (10 + 24 / t) with tensor parallelism alone, 34 / t with sequence parallelism too.

    The 10 h are the two norms' inputs and results and the dropout masks, which are not here.
    """
    block = fused_block(MODELS[1].layers[0].block)
    setting = Setting(
        Numerics(2, 2, 2), 0, tensor_parallel=True, sequence_parallel=sequence_parallel
    )
    kept = play(block, WIDTH, setting, KERNELS["megatron"]).kept
    assert kept[COLUMN["tokens_sequence"]] == 10 * WIDTH - 2 * WIDTH + 2 * 2 * FLOAT32
    assert kept[COLUMN["tokens_tensor"]] == 24 * WIDTH + HEADS * FLOAT32
    assert kept[COLUMN["tokens_whole"]] == 0


def test_llama_by_hand() -> None:
    """Two norms' inputs and results, q and k rotated, v in the joined result, out, SwiGLU.

    8 h + 2 (q + k) + 2 (q + 2 k) + 2 q + 4 ff + 2 ff, and 1/rms of two norms, log-sum-exp.
    """
    block = fused_block(MODELS[0].layers[0].block)
    q, k, inner = 512, 128, 1408
    by_hand = 8 * WIDTH + 2 * (q + k) + 2 * (q + 2 * k) + 2 * q + 6 * inner
    statistics = 2 * FLOAT32 + HEADS * FLOAT32
    assert per_token_and_layer(block, "flash") == by_hand + statistics


def test_again_of_no_word_is_nothing() -> None:
    assert computed_again(MODELS[0].layers[0].block, ()) == ()


def test_two_storages_of_one_size_are_two() -> None:
    assert Storage(size(STREAM, 1)) != Storage(size(STREAM, 1))
