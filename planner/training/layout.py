"""How a training run is placed on GPUs: the parallel sizes, sharding, micro-batch, recompute.

A field is a number, or an array with one value per layout; every formula takes both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from planner.numeric import Code, Number, minimum, where
from planner.training.execution import Execution
from planner.training.schedule import schedule


class Sharding(IntEnum):
    """Which training state is divided among the data-parallel ranks (Rajbhandari et al. 2020)."""

    none = 0
    zero1 = 1  # optimizer states
    zero2 = 2  # and gradients
    zero3 = 3  # and parameters
    hsdp = 4  # zero3 within a node, copies between nodes


class Recompute(IntEnum):
    """What the backward pass computes again instead of keeping it."""

    none = 0
    selective = 1
    full = 2


@dataclass(frozen=True)
class Layout:
    """Parallel sizes [ranks], micro_batch_size [sequences per GPU and pass]."""

    data_parallel: Number = 1
    tensor_parallel: Number = 1
    pipeline_parallel: Number = 1
    virtual_pipeline: Number = 1
    pipeline_schedule: str = "1f1b"  # a row of training.schedule
    context_parallel: Number = 1
    expert_parallel: Number = 1
    expert_tensor_parallel: Number = 1
    sequence_parallel: bool = False
    sharding: Code = Sharding.none
    shard_ranks: Number | None = None  # hsdp: ranks among which parameters are divided
    micro_batch_size: Number = 1
    gradient_accumulation_steps: Number = 1
    recompute: Code = Recompute.none
    recompute_layers: Number | None = None  # full: so many layers of each stage; None: all
    recompute_modules: tuple[str, ...] = ()  # selective: what is computed again
    vocabulary_multiple: int = 1  # the vocabulary is padded to a multiple of this x tensor_parallel
    offload: tuple[str, ...] = ()
    offload_layers: int | None = None  # activations: of so many layers of each stage; None: all
    stack: str = "ddp"
    execution: Execution = field(default_factory=Execution)

    @property
    def gpus(self) -> Number:
        return (
            self.data_parallel
            * self.tensor_parallel
            * self.pipeline_parallel
            * self.context_parallel
        )

    @property
    def global_batch_size(self) -> Number:
        """Sequences per optimizer step."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel

    def overlaps(self, word: str, default: bool = False) -> bool:
        """Whether traffic hides: as the execution says, else by the schedule or the stack."""
        by_schedule = word in schedule(self.pipeline_schedule).overlaps
        return self.execution.overlaps(word, default or by_schedule)

    def layers_offloaded(self, layers: Number) -> Number:
        """Of so many layers of a stage, those whose activations go to the host."""
        if "activations" not in self.offload:
            return 0
        return layers if self.offload_layers is None else minimum(self.offload_layers, layers)

    @property
    def stages_held(self) -> Number:
        """Pipeline stages of which a GPU holds the parameters."""
        return where(self.pipeline_parallel > 1, schedule(self.pipeline_schedule).copies, 1)

    @property
    def replicas(self) -> Number:
        """Ranks that hold the same parameters, whole or in parts."""
        return self.data_parallel * self.context_parallel * self.stages_held

    @property
    def sharding_ranks(self) -> Number:
        """Ranks among which a sharded state is divided."""
        return self.replicas if self.shard_ranks is None else self.shard_ranks
