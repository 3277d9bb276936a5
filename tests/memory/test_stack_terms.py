"""What single stacks keep that others do not: hand values for Llama 3.1 8B and MPT."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from planner.memory.overheads import overheads
from planner.memory.peak import rows_of, setting_of, step_peak
from planner.model.sources import load_model
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.precision import policy_of, precision
from planner.training.recipe import Finetune, Recipe
from planner.training.stacks import STACKS, stack

LLAMA = load_model("llama-3.1-8b")
D, FF, KV, HEADS, LAYERS = 4096, 14336, 1024, 32, 32
BF16 = 2
TOKENS = 8192


def kept_per_token(recipe: Recipe, layout: Layout, model=LLAMA, position: int = 1) -> float:
    """Bytes per token that one layer keeps for its backward pass."""
    setting = setting_of(model, recipe, policy_of(recipe, layout.stack), layout)
    rows = rows_of(model, setting, stack(layout.stack).kernels)
    layer = next(x for x in rows.layers if position in x.positions)
    return sum(layer.kept[:4])


def peak_of(recipe: Recipe, layout: Layout, model=LLAMA):
    return step_peak(model, recipe, layout)


def test_checkpointing_by_operator_keeps_every_second_product():
    """torchtitan: the input, q, v, attention's output with its log-sum-exp, gate and down."""
    layout = Layout(recompute=Recompute.selective, stack="torchtitan")
    log_sum_exp = 4 * HEADS
    eager = kept_per_token(Recipe(TOKENS), layout)
    assert eager == BF16 * (D + D + KV + D + FF + D) + log_sum_exp
    compiled = kept_per_token(Recipe(TOKENS, compile=True), layout)
    assert compiled == eager - BF16 * D  # down's output is only added to the residual stream


def test_code_of_their_own_has_fused_attention_and_no_float32_logits():
    mpt = load_model("mpt-30b")
    recipe, layout = Recipe(2048), Layout(stack="fsdp")
    longer = Recipe(8192)
    assert kept_per_token(recipe, layout, mpt) == kept_per_token(longer, layout, mpt)
    logits = peak_of(Recipe(TOKENS), Layout(stack="fsdp")).breakdown["logits"]
    wide = peak_of(Recipe(TOKENS), Layout(stack="ddp")).breakdown["logits"]
    assert logits < 0.6 * wide


@pytest.mark.parametrize(
    ("sharding", "weights", "gradients", "states"),
    [
        (Sharding.none, 1, 1, 1),
        (Sharding.zero1, 1, 1, 8),
        (Sharding.zero2, 1, 8, 8),
        (Sharding.zero3, 8, None, 8),  # gradients are the unit's and the shards
    ],
)
def test_what_each_sharding_divides_under_megatron(sharding, weights, gradients, states):
    whole = peak_of(Recipe(2048), Layout(stack="megatron")).breakdown
    divided = peak_of(Recipe(2048), Layout(data_parallel=8, sharding=sharding, stack="megatron"))
    found = divided.breakdown
    assert found["weights"] == pytest.approx(whole["weights"] / weights, rel=1e-3)
    assert found["optimizer_states"] == pytest.approx(whole["optimizer_states"] / states, rel=1e-3)
    if gradients is not None:
        assert found["gradients"] == pytest.approx(whole["gradients"] / gradients, rel=1e-3)


def test_fp8_under_megatron_keeps_narrow_weights_inputs_and_gradients():
    layout = Layout(stack="megatron")
    wide = peak_of(Recipe(2048), layout).breakdown
    narrow = peak_of(Recipe(2048, precision="fp8-mixed"), layout).breakdown
    # two copies of one byte for each matrix: as much as bf16, and nothing beside them
    assert narrow["weights"] == pytest.approx(wide["weights"], rel=1e-3)
    assert narrow["gradients"] == pytest.approx(wide["gradients"] / 2, rel=1e-3)
    saved = kept_per_token(Recipe(2048), layout)
    saved_fp8 = kept_per_token(Recipe(2048, precision="fp8-mixed"), layout)
    # Inputs of qkv, gate-up and down, in one byte and not two; attention's output, which attention
    # keeps wide, has a narrow copy for its projection.
    assert saved - saved_fp8 == (D + D + FF) - D


def test_gradients_that_a_recipe_wants_in_16_bits():
    layout = Layout(stack="megatron")
    as_usual = peak_of(Recipe(2048), layout).breakdown["gradients"]
    halved = peak_of(Recipe(2048, gradients="bf16"), layout).breakdown["gradients"]
    assert halved == as_usual / 2


def test_deepspeed_flattens_and_casts_gradients_for_its_step():
    parameters = 8_030_261_248
    peak = peak_of(Recipe(128), Layout(stack="deepspeed", sharding=Sharding.zero1))
    assert peak.phase == "optimizer"
    assert peak.breakdown["temporaries"] == pytest.approx((2 + 4) * parameters, rel=1e-3)


def test_a_stage_keeps_its_outputs_under_megatron_deepspeed():
    recipe = Recipe(2048, precision="bf16-mixed")

    def activations(name: str) -> float:
        layout = Layout(
            pipeline_parallel=4,
            gradient_accumulation_steps=16,
            recompute=Recompute.full,
            sharding=Sharding.zero1,
            stack=name,
        )
        rows = [row for row in peak_of(recipe, layout).rows if row.stage == "first"]
        return max(rows, key=lambda row: row.total).of("activations")

    outputs = 4 * 2048 * D * BF16  # four micro-batches in flight
    assert activations("megatron-deepspeed") - activations("megatron") == outputs


def test_megatrons_adapters_have_the_weights_dtype_and_leave_the_rest_fused():
    """peft casts an adapter's input to float32 and keeps it; NeMo's ParallelLinearAdapter is bf16,
    and its input the linear's own: one for queries, keys and values, which stay one linear."""
    rank, targets = 8, ("q_proj", "k_proj", "v_proj")
    lora = Finetune("lora", rank, targets)
    mixed, pure = (
        kept_per_token(Recipe(2048, precision=word, finetune=lora), Layout(stack="megatron"))
        for word in ("bf16-mixed", "bf16-pure")
    )
    assert mixed == pure
    wide = kept_per_token(Recipe(2048, precision="bf16-mixed", finetune=lora), Layout(stack="ddp"))
    assert wide > mixed + 3 * 4 * D

    def launches(finetune: Finetune | None) -> int:
        recipe, layout = Recipe(2048, finetune=finetune), Layout(stack="megatron")
        setting = setting_of(LLAMA, recipe, policy_of(recipe, layout.stack), layout)
        return rows_of(LLAMA, setting, "megatron").layers[0].profile.launches[0]

    # an adapter is two products, a scale and an addition; of q and v alone, q, k and v are apart
    joined, apart = launches(lora), launches(Finetune("lora", rank, ("q_proj", "v_proj")))
    assert launches(None) + 4 == joined < apart


def test_litgpt_keeps_float32_inputs_of_4_bit_products():
    layout = Layout(stack="litgpt")
    lora = Recipe(2048, precision="bf16-pure", finetune=Finetune("lora", 8, ("q_proj", "v_proj")))
    qlora = Recipe(2048, precision="bf16-pure", finetune=Finetune("qlora", 8, ("q_proj", "v_proj")))
    more = kept_per_token(qlora, layout) - kept_per_token(lora, layout)
    # qkv's input once, those of the projection, of gate and of up, and down's
    assert more == 4 * (D + D + D + D + FF)


def test_torchtitan_strands_the_logits_that_it_frees():
    layout = Layout(stack="torchtitan")
    with_logits = overheads(layout, 60e9, "9.0", logits=12e9)
    without = overheads(layout, 60e9, "9.0")
    assert with_logits.slack - without.slack == pytest.approx(12e9 / 6)


def test_every_stack_has_a_policy_and_a_spread():
    for name, row in STACKS.items():
        assert precision("bf16-mixed", name).compute == BF16
        assert 0 < row.slack_spread <= 0.1
        assert math.isfinite(row.allocator_slack)


@pytest.mark.parametrize(("passes", "share"), [(1, 4), (8, 1)])
def test_a_flat_parameters_gradient_is_as_large_as_its_frozen_weights(passes, share):
    """LitGPT under FSDP version 1: whole between the passes of a step, else a shard."""
    recipe = Recipe(512, precision="bf16-pure", finetune=Finetune("lora", 8, ("q_proj", "v_proj")))
    layout = Layout(
        data_parallel=4,
        sharding=Sharding.zero3,
        gradient_accumulation_steps=passes,
        stack="litgpt-fsdp",
    )
    row = next(row for row in peak_of(recipe, layout).rows if row.phase == "forward")
    of_layers = 8_030_261_248 - 2 * 128_256 * D - D
    assert row.parts["gradients"] == pytest.approx(BF16 * of_layers / share, rel=5e-3)


def test_weights_of_4_bits_are_gathered_packed():
    layout = Layout(data_parallel=8, sharding=Sharding.zero3, stack="fsdp2")

    def gathered(method: str) -> float:
        tune = Finetune(method, 8, ("q_proj",))
        rows = peak_of(Recipe(512, precision="bf16-pure", finetune=tune), layout).rows
        row = next(row for row in rows if row.phase == "forward" and row.where == "layer 0")
        return row.of("communication_buffers")

    assert gathered("qlora") < 0.3 * gathered("lora")


def test_the_compiler_keeps_what_products_and_attention_touch():
    """torchtune: keys and values of all query heads; inputs, queries, output, gate, up, product."""
    layout = Layout(stack="torchtune")
    norms, log_sum_exp = 2 * 4, 4 * HEADS
    compiled = kept_per_token(Recipe(TOKENS, compile=True), layout)
    assert compiled == BF16 * (8 * D + 3 * FF) + norms + log_sum_exp
    eager = kept_per_token(Recipe(TOKENS), layout)
    assert eager - compiled == BF16 * FF  # the gate's activation


@pytest.mark.parametrize("code", ["ddp", "fsdp2", "torchtitan", "torchtune", "deepspeed"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-2-9b", "gpt2", "pythia-6.9b"])
def test_the_compiler_never_keeps_more(code, model):
    spec = load_model(model)
    layout = Layout(stack=code)
    eager = kept_per_token(Recipe(1024), layout, spec)
    assert kept_per_token(Recipe(1024, compile=True), layout, spec) <= eager


def test_the_loss_inside_a_model_of_2024_holds_four_float32_tensors_of_logits():
    vocabulary = 128256
    lora = Finetune("lora", 8, ("q_proj",))
    recipe = Recipe(TOKENS, precision="bf16-pure", finetune=lora)
    held = peak_of(recipe, Layout(stack="fsdp-2024", recompute=Recompute.full))
    found = held.breakdown["logits"] / (TOKENS * vocabulary)
    assert held.where == "loss"
    # the output's, the log-probabilities, their gradient and that of the logits
    assert found == pytest.approx(4 * 4, rel=0.01)


def test_fsdp_1_keeps_embedding_and_head_gathered_together():
    embedding = 128256 * D
    recipe = Recipe(128, precision="bf16-pure")
    for sharding in (Sharding.zero3, Sharding.zero2):
        layout = Layout(stack="fsdp", data_parallel=8, sharding=sharding, recompute=Recompute.full)
        rows = [r for r in peak_of(recipe, layout).rows if r.where.startswith("layer")]
        assert {r.phase for r in rows} == {"forward", "backward"}
        gathered = [r.parts["gathered_parameters"] for r in rows]
        assert min(gathered) >= BF16 * 2 * embedding


def test_offloaded_parameters_step_on_the_host_under_fsdp():
    recipe = Recipe(128)
    layout = Layout(stack="fsdp", data_parallel=8, sharding=Sharding.zero3, offload=("parameters",))
    assert peak_of(recipe, layout).breakdown["optimizer_states"] == 0
    zero = Layout(stack="deepspeed", data_parallel=8, sharding=Sharding.zero3)
    kept = replace(zero, offload=("parameters",))
    states = [peak_of(recipe, x).breakdown["optimizer_states"] for x in (kept, zero)]
    assert states[0] == states[1] > 0


def test_adamw_before_torch_2_1_writes_two_temporaries():
    """28 bytes a parameter of the shard: weights, gradients, states and 4 + 2 x 4 in the step."""
    recipe = Recipe(128, precision="bf16-mixed")
    layout = Layout(stack="internevo", data_parallel=8, sharding=Sharding.zero3)
    peak = peak_of(recipe, layout)
    assert peak.phase == "optimizer"
    assert peak.allocated_bytes == pytest.approx(28 * 8_030_261_248 / 8, rel=2e-3)


def test_litgpt_has_a_head_of_its_own():
    tied = load_model("llama-3.2-1b")
    lora = Finetune("lora", 8, ("q_proj", "v_proj"))
    recipe = Recipe(128, precision="bf16-pure", finetune=lora)
    found = [peak_of(recipe, Layout(stack=name), tied) for name in ("litgpt", "ddp")]
    own, shared = (peak.breakdown["weights"] for peak in found)
    assert own - shared == pytest.approx(BF16 * 128256 * 2048)


def test_the_allocators_cache_stops_at_the_devices_end():
    layout = Layout(stack="megatron-deepspeed")
    free = overheads(layout, 60e9, "8.0")
    pressed = overheads(layout, 60e9, "8.0", available=70e9)
    over = overheads(layout, 75e9, "8.0", available=70e9)
    tensors = 60e9 + free.library_workspace
    assert tensors + pressed.slack + pressed.context == pytest.approx(70e9)
    assert pressed.slack < free.slack
    assert 0 < over.slack < 0.03 * 76e9
