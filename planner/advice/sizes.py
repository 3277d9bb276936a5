"""The sizes that sensitivities compare: parameters, states, activations, FLOPs, cache."""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import InputError
from planner.memory.kernels import KERNELS
from planner.memory.peak import rows_of, setting_of
from planner.memory.player import unmodelled
from planner.memory.surroundings import columns_of
from planner.model.config import Config
from planner.model.flops import model_flops
from planner.model.operations import Operation
from planner.model.parameters import ParameterCount, count_parameters, tensors
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.optimizers import optimizer, rule_for, state_bytes_per_element
from planner.training.precision import precision
from planner.training.recipe import Recipe
from planner.training.stacks import stack

# The states and kernels that the comparison is made with: float32 weights and AdamW's two moments,
# computed in bf16. Ratios are the same under every policy that gives each parameter as many bytes.
STACK = "fsdp2"
PRECISION = "bf16-mixed"
OPTIMIZER = "adamw"
CACHE_ITEMSIZE = 2  # bf16


@dataclass(frozen=True)
class Sizes:
    """Of one model at one sequence length and micro-batch; bytes where the name says so.

    activation_bytes  what the layers keep for the backward pass, without recompute, without the
                      embedding and the logits; None where the family's memory is not modelled
    flops_per_token   of training, attention over the causal half
    cache_bytes       keys and values of the micro-batch, bf16; 0 without attention
    """

    count: ParameterCount
    weight_bytes: float
    optimizer_bytes: float
    activation_bytes: float | None
    flops_per_token: float
    cache_bytes: float

    @property
    def parameters(self) -> int:
        return self.count.total


def sizes_of(spec: ModelSpec, sequence_length: int, micro_batch_size: int) -> Sizes:
    policy = precision(PRECISION, STACK)
    count = count_parameters(spec)
    row = optimizer(OPTIMIZER)
    states = 0.0
    for _, weight in tensors(spec):
        rule = rule_for(row, weight)
        per_element = sum(state_bytes_per_element(s, weight, policy.updated) for s in rule.states)
        states += (policy.master + per_element) * weight.elements
    cached = sum(
        _cached_elements(spec, op, sequence_length)
        for place in spec.layers
        for op in place.block.operations
        if op.kind == "attention" and place.block.sequence == "text"
    )
    return Sizes(
        count=count,
        weight_bytes=policy.parameter * count.total,
        optimizer_bytes=states,
        activation_bytes=_activations(spec, sequence_length, micro_batch_size),
        flops_per_token=model_flops(spec, sequence_length).training,
        cache_bytes=CACHE_ITEMSIZE * micro_batch_size * cached,
    )


def _activations(spec: ModelSpec, sequence_length: int, micro_batch_size: int) -> float | None:
    kernels = stack(STACK).kernels
    if spec.not_trainable_because or any(
        unmodelled(place.block, KERNELS.get(kernels, {})) for place in spec.places
    ):
        return None
    recipe = Recipe(sequence_length, PRECISION, OPTIMIZER)
    layout = Layout(micro_batch_size=micro_batch_size, stack=STACK)
    try:
        setting = setting_of(spec, recipe, precision(PRECISION, STACK), layout)
        rows = rows_of(spec, setting, kernels)
    except InputError:
        return None
    columns = columns_of(recipe, layout)
    return sum(
        len(layer.positions)
        * sum(float(a) * float(b) for a, b in zip(layer.kept, columns, strict=True))
        for layer in rows.layers
    )


def _cached_elements(spec: ModelSpec, op: Operation, sequence_length: int) -> float:
    """Keys and values of one sequence in one layer: 2 n_kv h s, a window's worth, or MLA's latent.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1.2, for the latent and its rotary key.
    """
    window = op.fact("window")
    kept = min(sequence_length, window) if isinstance(window, int) else sequence_length
    latent = _latent_width(spec)
    if latent is not None:
        return float(latent * kept)
    heads = op.number("kv_heads")
    return float(heads * (op.number("head_dim") + op.number("value_head_dim")) * kept)


def _latent_width(spec: ModelSpec) -> int | None:
    config = Config(spec.config, model_type=spec.model_type)
    rank, rotary = config.raw("kv_lora_rank"), config.raw("qk_rope_head_dim")
    if not config.knows("kv_lora_rank") or not isinstance(rank, int):
        return None
    return rank + (rotary if isinstance(rotary, int) else 0)
