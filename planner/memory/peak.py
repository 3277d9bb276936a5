"""Peak memory of a training step on one GPU: the largest moment, and what it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from planner.memory.gathered import gathered_rows
from planner.memory.kernels import KERNELS, as_run
from planner.memory.player import Adapters, Numerics, Setting, record
from planner.memory.profile import BlockRows, ModelRows, model_rows
from planner.memory.replicated import replicated_rows
from planner.memory.rows import CATEGORIES, Parts, Row
from planner.memory.situation import Situation, offloaded_activations
from planner.memory.stages import Stage, stages_of
from planner.memory.surroundings import Surroundings
from planner.memory.tape import Tape, Value
from planner.model.spec import ModelSpec
from planner.numeric import Number, maximum
from planner.training.layout import Layout, Recompute
from planner.training.precision import Precision, policy_of
from planner.training.recipe import Recipe
from planner.training.stacks import stack


@dataclass(frozen=True)
class PeakMemory:
    """What torch.cuda.max_memory_allocated would report, without cuBLAS's workspace [bytes].

    host_bytes: what offloading keeps in the host's memory per GPU. activations_bytes: the most that
    activations and logits take in any phase, of one layout.
    """

    allocated_bytes: Number
    breakdown: Parts
    phase: str
    where: str
    stage: str
    host_bytes: Number = 0
    activations_bytes: Number = 0
    rows: tuple[Row, ...] = field(repr=False, default=())


def step_peak(
    spec: ModelSpec, recipe: Recipe, layout: Layout, *, embedding_scratch: bool = True
) -> PeakMemory:
    """The peak of one step of one layout, from the model's shape alone.

    embedding_scratch: whether the embedding's backward is the GPU kernel (a CPU trace has none).
    """
    rows: list[Row] = []
    host: Number = 0
    for stage, situation in _situations(spec, recipe, layout, embedding_scratch):
        rows += _rows(stage, situation)
        host = maximum(host, situation.host + offloaded_activations(stage.model, situation))
    return replace(largest(rows), host_bytes=host)


def highest_total(spec: ModelSpec, recipe: Recipe, layout: Layout) -> Number:
    """Bytes of the peak of one step alone; the layout's fields may be arrays."""
    peak: Number = 0
    for stage, situation in _situations(spec, recipe, layout):
        for row in _rows(stage, situation):
            peak = maximum(peak, row.total)
    return peak


@dataclass(frozen=True)
class StageMoments:
    """One stage: its part of the model, what surrounds it, and its moments in their order."""

    model: ModelRows
    situation: Situation
    rows: list[Row]


def stage_moments(spec: ModelSpec, recipe: Recipe, layout: Layout, name: str) -> StageMoments:
    """The moments of one stage, every layer told; the peak's is among them."""
    stages = _situations(spec, recipe, layout)
    stage, situation = next(pair for pair in stages if pair[0].name == name)
    situation = replace(situation, every_layer=True)
    return StageMoments(stage.model, situation, _rows(stage, situation))


def _situations(
    spec: ModelSpec, recipe: Recipe, layout: Layout, embedding_scratch: bool = True
) -> Iterator[tuple[Stage, Situation]]:
    """The stages at which the peak can be, and what surrounds each."""
    kind = stack(layout.stack)
    policy = policy_of(recipe, layout.stack)
    model = rows_of(spec, setting_of(spec, recipe, policy, layout), kind.kernels)
    for stage in stages_of(model, layout):
        around = Surroundings(spec, recipe, layout, kind, policy, stage)
        yield stage, around.situation(embedding_scratch)


def _rows(stage: Stage, situation: Situation) -> list[Row]:
    """All candidate moments of one stage."""
    play = gathered_rows if situation.gathered else replicated_rows
    return [replace(row, stage=stage.name) for row in play(stage.model, situation)]


def largest(rows: Sequence[Row]) -> PeakMemory:
    """The row with the largest total."""
    row = max(rows, key=lambda one: one.total)
    parts: Parts = {name: float(row.of(name)) for name in CATEGORIES}
    live = max(r.of("activations") + r.of("logits") for r in rows)
    return PeakMemory(
        float(row.total),
        parts,
        row.phase,
        row.where,
        row.stage,
        activations_bytes=float(live),
        rows=tuple(rows),
    )


# What the compiler makes of checkpointing by operator.
COMPILED = {"every_second_product": "every_second_product_compiled"}


def setting_of(spec: ModelSpec, recipe: Recipe, policy: Precision, layout: Layout) -> Setting:
    """What the kernels need to know of a recipe and a layout."""
    own_attention = stack(layout.stack).own_attention
    eager_only = not own_attention and any(
        op.fact("eager_only") for block in spec.distinct_layers for op in block.operations
    )
    elementwise = 4 if policy.autocast or policy.compute == 4 else policy.compute
    adapters = None
    if recipe.finetune is not None:
        # The frozen weights are bf16 throughout; peft casts an adapter's input to its float32.
        # Megatron's adapters have the weights' dtype (NVIDIA/NeMo, megatron/adapters/
        # parallel_adapters.py, ParallelLinearAdapter: self.bfloat16()).
        elementwise = policy.compute
        quantised = recipe.finetune.method == "qlora"
        mixed = recipe.precision != "bf16-pure" and stack(layout.stack).kernels != "megatron"
        adapters = Adapters(
            recipe.finetune.rank,
            recipe.finetune.targets,
            policy.compute if policy.autocast or not mixed else 4,
            own_input=mixed and not quantised,
            dequantise=quantised,
        )
    modules: tuple[str, ...] = ()
    if layout.recompute == Recompute.selective:
        modules = layout.recompute_modules or stack(layout.stack).selective
        if recipe.compile:
            modules = tuple(COMPILED.get(word, word) for word in modules)
    return Setting(
        Numerics(policy.compute, elementwise, elementwise, policy.autocast),
        # only written-out scores depend on the length; else every length shares the rows
        recipe.sequence_length if recipe.attention == "eager" or eager_only else 0,
        recipe.attention,
        recipe.cross_entropy,
        adapters,
        tensor_parallel=bool(np.all(layout.tensor_parallel > 1)),
        sequence_parallel=layout.sequence_parallel,
        gathered=_gathers(layout),
        own_attention=own_attention,
        quantised_input=policy.quantised_input,
        recompute=modules,
        compiled=recipe.compile,
    )


def _gathers(layout: Layout) -> bool:
    """Whether parameters are gathered; of many layouts, under all of their shardings."""
    kind = stack(layout.stack)
    return kind.gathers_units and bool(np.all(np.asarray(layout.sharding) >= kind.gathers_from))


@dataclass(frozen=True, eq=False)
class _Same:
    """A model by identity: the key of the cache, which it keeps alive."""

    spec: ModelSpec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.spec is self.spec


@lru_cache(maxsize=64)
def _cached_rows(model: _Same, setting: Setting, code: str) -> ModelRows:
    adapted = setting.adapters.targets if setting.adapters is not None else ()
    spec = as_run(model.spec, code, adapted)
    kernels = KERNELS[code]
    if setting.compiled:
        from planner.memory.kernels.compiled import compiled

        kernels = compiled(kernels)
    return model_rows(spec, setting, kernels)


def rows_of(spec: ModelSpec, setting: Setting, code: str) -> ModelRows:
    """The model's rows under a setting; played once per (model, setting, code)."""
    return _cached_rows(_Same(spec), setting, _code_of(setting, code))


def _code_of(setting: Setting, code: str) -> str:
    """A chunked loss is Liger's, whose other kernels come with it."""
    chunked = code == "transformers" and setting.cross_entropy == "chunked"
    return "liger" if chunked else code


def recorded(
    spec: ModelSpec, recipe: Recipe, layout: Layout, block: BlockRows
) -> tuple[Tape, Value]:
    """The tape of a block of the model's rows, step by step, and the block's input."""
    setting = setting_of(spec, recipe, policy_of(recipe, layout.stack), layout)
    kernels = KERNELS[_code_of(setting, stack(layout.stack).kernels)]
    width = 0 if block.block is spec.embedding.block else spec.hidden_size
    tape, start, _ = record(block.block, width, setting, kernels)
    return tape, start
