"""The fields of a scenario file. The dataclasses are the schema: names, types, what is optional.

Only what one field can say alone is checked here; what contradicts the model, the stack or another
field is refused when the scenario is resolved (`answers.scenarios`), at the same line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from planner.schema import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class FinetuneFields:
    """finetune: {method: lora, rank: 16, targets: [q_proj, v_proj]}"""

    method: Literal["full", "lora", "qlora"] = "full"
    rank: PositiveInt | None = None
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    quantize: Literal["nf4", "nf4-plain", "int8"] | None = None


@dataclass(frozen=True)
class RecipeFields:
    """How it is trained. tokens or steps: of the whole run. global_batch_size: in sequences.

    evaluation_every_steps  after so many steps evaluation_steps batches are evaluated
    checkpoint_every_steps  after so many steps the training state is written, to storage that takes
                            storage_bandwidth (10 GB/s) from all GPUs together
    """

    tokens: PositiveFloat | None = None
    steps: PositiveFloat | None = None
    sequence_length: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    precision: str | None = None
    optimizer: str | None = None
    attention: str | None = None
    cross_entropy: str | None = None
    compile: bool = False
    finetune: FinetuneFields | Literal["full", "lora", "qlora"] | None = None
    evaluation_every_steps: PositiveInt | None = None
    evaluation_steps: PositiveInt | None = None
    checkpoint_every_steps: PositiveInt | None = None
    storage_bandwidth: str | PositiveFloat | None = None


@dataclass(frozen=True)
class HardwareFields:
    """What it runs on. gpus: how many, or several numbers to compare; left out, the fewest.

    gpu      profile id, alias, path of a profile (relative to the scenario), live, or several
    node     id of a node type; its links, network and price are used, and gpu may be left out
    reserve  memory of each GPU that is kept free, such as 2GiB
    """

    gpu: str | tuple[str, ...] | None = None
    node: str | None = None
    gpus: PositiveInt | tuple[PositiveInt, ...] | None = None
    gpus_per_node: PositiveInt | None = None
    reserve: str | PositiveInt | None = None


@dataclass(frozen=True)
class LayoutFields:
    """Where it is placed, by the names that the JSON answers have; what is left out is found."""

    data_parallel: PositiveInt | None = None
    tensor_parallel: PositiveInt | None = None
    sequence_parallel: bool | None = None
    pipeline_parallel: PositiveInt | None = None
    virtual_pipeline: PositiveInt | None = None
    pipeline_schedule: str | None = None
    context_parallel: PositiveInt | None = None
    expert_parallel: PositiveInt | None = None
    expert_tensor_parallel: PositiveInt | None = None
    sharding: str | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    recompute: str | tuple[str, ...] | None = None
    offload: tuple[str, ...] = ()
    cuda_graph: str | None = None
    moe_dispatcher: str | None = None
    overlap: str | tuple[str, ...] | None = None


@dataclass(frozen=True)
class BudgetFields:
    """What it may cost. pue: power usage effectiveness of the data centre, at least 1."""

    usd_per_gpu_hour: NonNegativeFloat | None = None
    deadline_days: PositiveFloat | None = None
    max_cost_usd: PositiveFloat | None = None
    region: str | None = None
    kg_co2_per_kwh: NonNegativeFloat | None = None
    usd_per_kwh: NonNegativeFloat | None = None
    pue: Annotated[float, msgspec.Meta(ge=1, le=10)] | None = None


@dataclass(frozen=True)
class Scenario:
    """A whole file. model: catalog id, config.json (relative to the file), or its fields."""

    model: str | Mapping[str, Any]
    hardware: HardwareFields
    name: str | None = None
    recipe: RecipeFields = field(default_factory=RecipeFields)
    layout: Literal["auto"] | LayoutFields = "auto"
    stack: str | None = None
    budget: BudgetFields = field(default_factory=BudgetFields)
