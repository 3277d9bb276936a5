"""Traced training steps: what a case says, as model, recipe and layout, and what is predicted.

A case is one step of a real model on fake tensors, each storage counted (planner.validation.tracing
runs it): of one device, or as rank 0 of many sees it. tests/data/README.md has the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from planner.memory.peak import (
    PeakMemory,
    largest,
    rows_of,
    setting_of,
    step_peak,
)
from planner.memory.rows import Row, amount
from planner.memory.surroundings import INPUT_BYTES_PER_TOKEN, columns_of
from planner.model import families
from planner.model.config import Config
from planner.model.spec import ModelSpec
from planner.training.layout import Layout, Recompute, Sharding
from planner.training.precision import precision
from planner.training.recipe import Finetune, Recipe
from planner.training.stacks import stack

LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers")
PRECISION_OF_DTYPE = {"float32": "fp32", "bfloat16": "bf16-pure"}


@dataclass(frozen=True)
class TracedCase:
    """One step to trace, or traced: then `result` is as the trace wrote it [bytes].

    config        as in config.json, with as many layers as are traced
    on_gpu        what a GPU does differently from a CPU is counted (a CPU trace is of one device)
    bucket_views  gradients are views of DDP's buckets
    """

    id: str
    config: Mapping[str, Any]
    recipe: Recipe
    layout: Layout
    on_gpu: bool = True
    fused_optimizer: bool = False
    bucket_views: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> ModelSpec:
        return families.build(Config(self.config))

    @property
    def eager_only(self) -> bool:
        """Whether the family has only written-out attention, whatever is asked for."""
        return any(
            op.fact("eager_only") for block in self.model.distinct_layers for op in block.operations
        )

    @property
    def recomputes(self) -> bool:
        return self.layout.recompute == Recompute.full

    @property
    def peak_bytes(self) -> int:
        return int(self.result["peak"]["Total"])


def case_of(row: Mapping[str, Any]) -> TracedCase:
    """A row of a case file; rows of one device have no `world`."""
    of_many = "world" in row
    recipe, layout = _sharded(row) if of_many else _one_device(row)
    return TracedCase(
        row["id"],
        cut(row["config"], row["layers"]),
        recipe,
        layout,
        on_gpu=of_many,
        fused_optimizer=row.get("implementation") == "fused",
        bucket_views=bool(row.get("gradient_as_bucket_view")),
        result=row.get("result", {}),
    )


def cut(config: Mapping[str, Any], layers: int, whole: int | None = None) -> dict[str, Any]:
    """The config with so many layers of `whole`: lists of one entry a layer are cut with it."""
    if isinstance(config.get("text_config"), Mapping):
        return {**config, "text_config": cut(config["text_config"], layers, whole)}
    names = [name for name in LAYER_FIELDS if name in config] or list(LAYER_FIELDS[:1])
    whole = config.get(names[0], whole)
    lists = {
        name: value[:layers]
        for name, value in config.items()
        if isinstance(value, (list, tuple)) and len(value) == whole
    }
    return {**config, **lists, **dict.fromkeys(names, layers)}


def _recompute(row: Mapping[str, Any]) -> Recompute:
    return Recompute.full if row["checkpointing"] else Recompute.none


def _one_device(row: Mapping[str, Any]) -> tuple[Recipe, Layout]:
    recipe = Recipe(
        row["seq"],
        precision=PRECISION_OF_DTYPE[row["dtype"]],
        optimizer=row["optimizer"],
        attention=row["attention"],
    )
    return recipe, Layout(micro_batch_size=row["batch"], recompute=_recompute(row), stack="ddp")


def _sharded(row: Mapping[str, Any]) -> tuple[Recipe, Layout]:
    tuning = row["finetune"]
    finetune = None
    if tuning:
        finetune = Finetune(tuning["method"], tuning["rank"], tuple(tuning["targets"]))
    recipe = Recipe(
        row["seq"],
        precision=row["precision"],
        optimizer=row["optimizer"],
        attention=row["attention"],
        finetune=finetune,
    )
    tensor = row["tensor_parallel"]
    layout = Layout(
        data_parallel=row["world"] // tensor,
        tensor_parallel=tensor,
        sequence_parallel=tensor > 1,
        micro_batch_size=row["batch"],
        gradient_accumulation_steps=row["gradient_accumulation"],
        recompute=_recompute(row),
        sharding=Sharding[row["sharding"]],
        stack="torchtitan" if row["code"] == "torchtitan" else row["stack"],
    )
    return recipe, layout


def predicted(case: TracedCase) -> PeakMemory:
    """The planner's answer to a case.

    Fake CPU tensors have no scratch of a GPU's kernels. The planner assumes PyTorch's default
    optimizers (foreach); a fused one has no temporaries.
    """
    found = step_peak(case.model, case.recipe, case.layout, embedding_scratch=case.on_gpu)
    if not case.fused_optimizer:
        return found
    return largest([_without_temporaries(row) for row in found.rows])


def _without_temporaries(row: Row) -> Row:
    if row.phase != "optimizer":
        return row
    return replace(row, parts={**row.parts, "temporaries": 0})


def predicted_saved_bytes(case: TracedCase) -> float:
    """What autograd holds at the end of the forward pass, the step's inputs with it [bytes]."""
    policy = precision(case.recipe.precision, case.layout.stack)
    setting = setting_of(case.model, case.recipe, policy, case.layout)
    rows = rows_of(case.model, setting, stack(case.layout.stack).kernels)
    columns = columns_of(case.recipe, case.layout)
    length, tokens = case.recipe.sequence_length, columns[0]
    kept = sum(len(layer.positions) * amount(layer.kept, columns) for layer in rows.layers)
    ends = amount(rows.embedding.kept, columns) + amount(rows.head.kept, columns)
    shared = rows.tables_per_position * length + rows.masks.saved * length * tokens
    return float(kept + ends + shared + INPUT_BYTES_PER_TOKEN * tokens)
