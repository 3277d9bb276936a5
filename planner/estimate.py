"""The one composer: model, recipe, layout and cluster in, one estimate out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from planner.documents import load
from planner.errors import InputError
from planner.hardware.cluster import Cluster
from planner.hardware.profile import GpuProfile
from planner.memory.checkpoint import checkpoint_bytes
from planner.memory.kernels import KERNELS
from planner.memory.overheads import Overheads, overheads
from planner.memory.peak import rows_of, setting_of, step_peak
from planner.memory.player import unmodelled
from planner.memory.rows import CATEGORIES
from planner.memory.surroundings import columns_of
from planner.memory.timeline import Timeline, timeline_of
from planner.model.parameters import ParameterCount, count_parameters
from planner.model.spec import ModelSpec
from planner.performance.run import RunEstimate, run_of
from planner.performance.step import StepEstimate, step_time
from planner.resources import package_file
from planner.training.layout import Layout
from planner.training.optimizers import optimizer
from planner.training.precision import Precision, policy_of, reads_weights_both_ways
from planner.training.recipe import Recipe
from planner.training.stacks import stack
from planner.units import format_memory

Verdict: TypeAlias = Literal["fits", "tight", "does_not_fit"]
Evidence: TypeAlias = Literal["exact", "measured", "fitted", "assumed"]

# Stacks whose tensors are held against traced steps, and Megatron-Core's against SimuMax's measured
# allocated peaks, both within 2 % (docs/accuracy.md).
COMPARED_STACKS = ("ddp", "fsdp2", "torchtitan", "megatron")
# Written by planner.validation.accuracy from the shipped measured runs.
MEASURED_ERRORS = "validation/errors.json"
# What the time of a step takes for granted.
ASSUMED_OF_TIME = ("data loading keeps up with the step",)
ASSUMED_OF_HOST_STEPS = (
    "the optimizer's step on the CPUs moves 108 GB/s of a node's memory, as on a DGX-2",
)
# What can raise the peak and is in no line of the breakdown.
NOT_MODELLED = (
    "evaluation and generation during training",
    "gradient clipping's temporaries",
    "data loading on the GPU and tensors that the training script keeps",
)
# What is captured keeps its memory from what is not (PyTorch, notes on CUDA semantics, graphs).
GRAPH_POOLS = ("what the private pools of CUDA graphs keep from other allocations",)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU at the peak; the breakdown adds up to peak_bytes.

    activations_bytes: the most that activations and logits take in any phase. host_bytes: what
    offloading keeps in the host's memory, of host_available_bytes, a GPU's share of its node's
    (None: not known).
    """

    capacity_bytes: int
    available_bytes: int
    peak_bytes: float
    peak_allocated_bytes: float
    peak_reserved_bytes: float
    library_workspace_bytes: float
    uncertainty_bytes: float
    activations_bytes: float
    peak_phase: str
    peak_where: str
    peak_stage: str
    breakdown_bytes: dict[str, float]
    evidence: dict[str, Evidence]
    not_modelled: tuple[str, ...]
    host_bytes: float = 0.0
    host_available_bytes: float | None = None

    @property
    def headroom_bytes(self) -> float:
        return self.available_bytes - self.peak_bytes


@dataclass(frozen=True)
class Estimate:
    name: str
    model: ModelSpec
    parameters: ParameterCount
    recipe: Recipe
    layout: Layout
    cluster: Cluster
    verdict: Verdict
    memory: MemoryEstimate
    step: StepEstimate
    run: RunEstimate
    cost_usd: float | None
    time_uncertainty: float | None = None
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def timeline(self) -> Timeline:
        """The moments of one micro-batch on the stage with the peak; worked out when asked for."""
        return timeline_of(
            self.model,
            self.recipe,
            self.layout,
            self.memory.peak_stage,
            self.memory.library_workspace_bytes,
        )


def estimate(
    model: ModelSpec,
    recipe: Recipe,
    layout: Layout,
    cluster: Cluster,
    *,
    name: str = "",
    reserve_bytes: int = 0,
    free_bytes: int | None = None,
    assumptions: tuple[str, ...] = (),
) -> Estimate:
    """Everything about one layout. free_bytes: what a live GPU has free; else its usable memory."""
    check_modelled(model, layout)
    policy = policy_of(recipe, layout.stack)
    memory = memory_of(
        model, recipe, layout, cluster, reserve_bytes=reserve_bytes, free_bytes=free_bytes
    )
    setting = setting_of(model, recipe, policy, layout)
    kind = stack(layout.stack)
    on_host = kind.steps_on_host(layout.offload) and not optimizer(recipe.optimizer).paged
    rows = rows_of(model, setting, kind.kernels)
    step = step_time(model, rows, recipe, layout, policy, cluster, columns_of(recipe, layout))
    peak = cluster.gpu.peak(policy.product) or cluster.gpu.peak("bf16") or 1.0
    run = run_of(
        step_seconds=step.step_seconds,
        evaluation_step_seconds=step.evaluation_step_seconds,
        tokens_per_step=layout.global_batch_size * recipe.sequence_length,
        gpus=layout.gpus,
        model_flops_per_token=step.model_flops_per_token,
        full_square_flops_per_token=step.full_square_flops_per_token,
        hardware_flops_per_token=step.hardware_flops_per_token,
        peak_flops_per_second=peak,
        tokens=recipe.tokens,
        steps=recipe.steps,
        pauses=recipe.pauses,
        checkpoint_bytes=checkpoint_bytes(rows, recipe, policy),
    )
    price = cluster.usd_per_gpu_hour
    cost = None if run.gpu_hours is None or price is None else float(run.gpu_hours) * price
    return Estimate(
        name=name or model.name,
        model=model,
        parameters=count_parameters(model),
        recipe=recipe,
        layout=layout,
        cluster=cluster,
        verdict=verdict_of(memory),
        memory=memory,
        step=step,
        run=run,
        cost_usd=cost,
        time_uncertainty=time_error(layout.stack),
        assumptions=(
            *assumptions,
            *cluster.assumptions,
            *ASSUMED_OF_TIME,
            *(ASSUMED_OF_HOST_STEPS if on_host else ()),
        ),
        warnings=(
            *model.warnings,
            *missing_units(policy, cluster.gpu),
            *host_warnings(memory, cluster),
            *guard_rails(memory, run),
        ),
    )


def check_modelled(model: ModelSpec, layout: Layout) -> None:
    """Refuse, by name, what has no memory model: a wrong number is worse than none."""
    if model.not_trainable_because:
        raise InputError(
            f"{model.name}: the training memory of {model.model_type} is not modelled: "
            f"{model.not_trainable_because}"
        )
    kernels = KERNELS.get(stack(layout.stack).kernels, {})
    missing = sorted({k for place in model.places for k in unmodelled(place.block, kernels)})
    if missing:
        raise InputError(
            f"{model.name}: the training memory of {model.model_type} is not modelled under stack "
            f"{layout.stack}: it has {', '.join(missing)}"
        )


def memory_of(
    model: ModelSpec,
    recipe: Recipe,
    layout: Layout,
    cluster: Cluster,
    *,
    reserve_bytes: int = 0,
    free_bytes: int | None = None,
) -> MemoryEstimate:
    """The peak on one GPU, with everything that the device holds."""
    both_ways = reads_weights_both_ways(cluster.gpu.compute_capability)
    recipe = replace(recipe, weight_transposes=not both_ways)
    peak = step_peak(model, recipe, layout)
    tensors = float(peak.allocated_bytes)
    usable = cluster.gpu.torch_memory_bytes
    available = max((usable if free_bytes is None else free_bytes) - reserve_bytes, 0)
    extra: Overheads = overheads(
        layout,
        tensors,
        cluster.gpu.compute_capability,
        peak.breakdown.get("logits", 0),
        available,
    )
    workspace = float(extra.library_workspace)
    allocated = tensors + workspace
    reserved = allocated + float(extra.slack)
    device = reserved + float(extra.context) + float(extra.communicators)
    breakdown = {name: float(peak.breakdown.get(name, 0)) for name in CATEGORIES}
    breakdown["temporaries"] += workspace
    breakdown["framework"] += device - allocated
    row = optimizer(recipe.optimizer)
    evidence: dict[str, Evidence] = dict.fromkeys(CATEGORIES, "exact")
    evidence["optimizer_states"] = "exact" if row.evidence == "exact" else "assumed"
    evidence["framework"] = "measured"
    compared = stack(layout.stack).name in COMPARED_STACKS
    for name in ("activations", "logits", "communication_buffers", "temporaries"):
        evidence[name] = "measured" if compared else "assumed"
    return MemoryEstimate(
        capacity_bytes=cluster.gpu.memory_bytes,
        available_bytes=int(available),
        peak_bytes=device,
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        library_workspace_bytes=workspace,
        uncertainty_bytes=float(extra.uncertainty),
        activations_bytes=float(peak.activations_bytes),
        peak_phase=peak.phase,
        peak_where=peak.where,
        peak_stage=peak.stage,
        breakdown_bytes=breakdown,
        evidence=evidence,
        not_modelled=NOT_MODELLED + (GRAPH_POOLS if layout.execution.cuda_graph != "none" else ()),
        host_bytes=float(peak.host_bytes),
        host_available_bytes=cluster.host_memory_bytes_per_gpu,
    )


def verdict_of(memory: MemoryEstimate) -> Verdict:
    """tight: the interval peak ± uncertainty contains what is available."""
    if memory.host_available_bytes is not None and memory.host_bytes > memory.host_available_bytes:
        return "does_not_fit"
    if memory.peak_bytes + memory.uncertainty_bytes <= memory.available_bytes:
        return "fits"
    if memory.peak_bytes - memory.uncertainty_bytes > memory.available_bytes:
        return "does_not_fit"
    return "tight"


def time_error(stack_name: str) -> float | None:
    """The 90th percentile of the time's error on measured runs, from the generated table.

    Of the stack's own runs; of all runs where nobody has measured the stack.
    """
    measured = _measured_errors()["time"]
    error = measured["by_stack"].get(stack_name, measured["overall"])
    return None if error is None else float(error)


@lru_cache(maxsize=1)
def _measured_errors() -> Mapping[str, Any]:
    data: Mapping[str, Any] = load(package_file(MEASURED_ERRORS)).data
    return data


# What has no matrix units of its own runs as the next of these (fp32 and tf32 run everywhere).
FALLBACKS = {"fp4": ("bf16",), "fp8": ("bf16",), "bf16": (), "fp16": ()}


def missing_units(policy: Precision, gpu: GpuProfile) -> tuple[str, ...]:
    """A format of the matrix products that this GPU has no units for, and what is counted then."""
    product = policy.product
    if product not in FALLBACKS or gpu.runs_natively(product):
        return ()
    instead = next((one for one in FALLBACKS[product] if gpu.runs_natively(one)), "fp32")
    told = f"{gpu.id} has no {product} matrix units: the products of {policy.name} are counted as"
    return (f"{told} {instead}",)


def host_warnings(memory: MemoryEstimate, cluster: Cluster) -> tuple[str, ...]:
    """What offloading needs of a node's memory: too much, or of how much is not known."""
    if not memory.host_bytes:
        return ()
    needs = format_memory(memory.host_bytes * cluster.gpus_per_node)
    told = f"offloading needs {needs} of each node's host memory"
    if memory.host_available_bytes is None:
        return (f"{told}, which is not checked: name a node type whose memory is known",)
    if memory.host_bytes <= memory.host_available_bytes:
        return ()
    has = format_memory(memory.host_available_bytes * cluster.gpus_per_node)
    return (f"{told}, {cluster.node} has {has}",)


# Above these an answer is outside physical sense, and is flagged.
HIGHEST_UTILIZATION = 0.8
HIGHEST_PEAK_BYTES = 2 * 2**40


def guard_rails(memory: MemoryEstimate, run: RunEstimate) -> tuple[str, ...]:
    found = []
    if float(run.model_flops_utilization) > HIGHEST_UTILIZATION:
        found.append(
            f"MFU of {float(run.model_flops_utilization):.2f} is above what any training reaches "
            f"({HIGHEST_UTILIZATION}): check the GPU's peak"
        )
    if memory.peak_bytes > HIGHEST_PEAK_BYTES:
        found.append(
            f"{memory.peak_bytes / 2**40:.1f} TiB on one GPU is beyond any device: check "
            "micro-batch, sequence length and sharding"
        )
    return tuple(found)
