"""What a user asks, as fields with the flags' names, resolved to a recipe and a layout.

A field that is not given takes its plain default (1, or the stack's own), and the answer lists it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from planner.answers.checks import (
    about,
    at_least_one,
    check_has_experts,
    check_schedule,
    check_shape,
    check_stack,
    wrong,
)
from planner.answers.pauses import pauses_of
from planner.answers.words import execution_of, offload_of, recompute_of
from planner.errors import InputError, unknown
from planner.model.spec import ModelSpec
from planner.training.layout import Layout, Sharding
from planner.training.optimizers import optimizer
from planner.training.precision import precision
from planner.training.recipe import Finetune, Recipe
from planner.training.schedule import schedule
from planner.training.stacks import STACKS, Stack, default_stack, stack

DEFAULT_SEQUENCE_LENGTH = 4096
DEFAULT_LORA_RANK = 16
ATTENTION_KERNELS = ("flash", "eager")
CROSS_ENTROPIES = ("standard", "fused", "chunked")
METHODS = ("full", "lora", "qlora")
QUANTIZED = ("nf4", "nf4-plain", "int8")
# Beyond these a number is a slip of the keyboard.
LARGEST_SEQUENCE = 2**27
LARGEST_BATCH = 2**24
LARGEST_RUN = 1e20  # tokens, or steps
MOST_GPUS = 2**22
# Linears that peft adapts in the attention of most families, by what a family calls them.
_DEFAULT_TARGETS = (
    ("q_proj", "v_proj"),
    ("qkv_proj",),
    ("query_key_value",),
    ("c_attn",),
    ("Wqkv",),
)


@dataclass(frozen=True)
class Request:
    """The flags of `planner fit`, and the layout and recipe fields of a scenario."""

    gpus: int | None = None
    gpus_per_node: int | None = None
    sequence_length: int | None = None
    micro_batch_size: int | None = None
    global_batch_size: int | None = None
    gradient_accumulation: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    virtual_pipeline: int = 1
    pipeline_schedule: str | None = None
    context_parallel: int = 1
    expert_parallel: int = 1
    expert_tensor_parallel: int | None = None
    sequence_parallel: bool | None = None
    sharding: str | None = None
    recompute: str | None = None
    attention: str | None = None
    cross_entropy: str | None = None
    compile: bool = False
    stack: str | None = None
    finetune: str | None = None
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None
    quantize: str | None = None
    offload: tuple[str, ...] = ()
    cuda_graph: str | None = None
    moe_dispatcher: str | None = None
    overlap: str | None = None
    tokens: float | None = None
    steps: float | None = None
    evaluation_every_steps: int | None = None
    evaluation_steps: int | None = None
    checkpoint_every_steps: int | None = None
    storage_bandwidth: float | None = None


@dataclass(frozen=True)
class Plan:
    """A request made definite for one number of GPUs."""

    recipe: Recipe
    layout: Layout
    assumptions: tuple[str, ...]


def resolve(request: Request, model: ModelSpec, gpus: int) -> Plan:
    """Recipe and layout of a request on `gpus` GPUs; contradictions are refused."""
    notes: list[str] = []
    kind = _stack(request, notes)
    layout = _layout(request, kind, gpus, notes)
    recipe = _recipe(request, model, kind, notes)
    check_shape(model, layout, recipe)
    if (request.expert_tensor_parallel or 1) > 1:
        check_has_experts(model, "expert_tensor_parallel", request.expert_tensor_parallel)
    if request.moe_dispatcher is not None:
        check_has_experts(model, "moe_dispatcher", request.moe_dispatcher)
    return Plan(recipe, layout, tuple(notes))


def _assume(notes: list[str], field: str, value: object, why: str = "") -> None:
    notes.append(f"{field} {value}{f': {why}' if why else ''}")


def _stack(request: Request, notes: list[str]) -> Stack:
    if request.stack is not None:
        with about("stack"):
            return stack(request.stack)
    model_parallel = (
        max(
            request.tensor_parallel,
            request.pipeline_parallel,
            request.context_parallel,
            request.expert_parallel,
        )
        > 1
    )
    name = default_stack(_sharding(request), model_parallel)
    _assume(notes, "stack", name, "the usual one for this sharding and these parallel sizes")
    return STACKS[name]


def _sharding(request: Request) -> Sharding:
    name = request.sharding or "none"
    if name not in Sharding.__members__:
        raise unknown("sharding", name, Sharding.__members__, field="sharding")
    return Sharding[name]


def _layout(request: Request, kind: Stack, gpus: int, notes: list[str]) -> Layout:
    for name in (
        "tensor_parallel",
        "pipeline_parallel",
        "virtual_pipeline",
        "context_parallel",
        "expert_parallel",
    ):
        at_least_one(name, getattr(request, name), MOST_GPUS)
    at_least_one("gpus", gpus, MOST_GPUS)
    sharding = _sharding(request)
    if request.sharding is None:
        _assume(notes, "sharding", "none")
    if sharding not in kind.shardings:
        known = ", ".join(s.name for s in kind.shardings)
        raise wrong("sharding", sharding.name, f"stack {kind.name} can do only {known}")
    share = request.tensor_parallel * request.pipeline_parallel * request.context_parallel
    if gpus % share:
        raise wrong("gpus", gpus, f"not divisible by tensor x pipeline x context parallel {share}")
    check_stack(
        {
            "tensor_parallel": request.tensor_parallel,
            "pipeline_parallel": request.pipeline_parallel,
        },
        kind,
    )
    data = gpus // share
    micro = request.micro_batch_size
    if micro is None:
        micro = 1
        _assume(notes, "micro_batch_size", 1)
    at_least_one("micro_batch_size", micro, LARGEST_BATCH)
    accumulation = _accumulation(request, micro, data, notes)
    again = recompute_of(request.recompute)
    offload = offload_of(request.offload, kind, sharding)
    sequence = request.sequence_parallel
    if sequence is None:
        sequence = request.tensor_parallel > 1 and kind.sequence_parallel
    return Layout(
        data_parallel=data,
        tensor_parallel=request.tensor_parallel,
        pipeline_parallel=request.pipeline_parallel,
        virtual_pipeline=request.virtual_pipeline,
        pipeline_schedule=_schedule(request, accumulation),
        context_parallel=request.context_parallel,
        expert_parallel=request.expert_parallel,
        sequence_parallel=sequence,
        sharding=sharding,
        shard_ranks=min(data, request.gpus_per_node or 8) if sharding == Sharding.hsdp else None,
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        recompute=again.code,
        recompute_layers=again.layers,
        recompute_modules=again.modules,
        vocabulary_multiple=kind.vocabulary_multiple,
        expert_tensor_parallel=_expert_tensor_parallel(request, kind, gpus, notes),
        offload=offload.what,
        offload_layers=offload.layers,
        stack=kind.name,
        execution=execution_of(request.cuda_graph, request.moe_dispatcher, request.overlap, kind),
    )


def _schedule(request: Request, passes: int) -> str:
    """The pipeline schedule: as given, else 1F1B, interleaved where a stage has several chunks."""
    name = request.pipeline_schedule
    if name is None:
        return "interleaved" if request.virtual_pipeline > 1 else "1f1b"
    check_schedule(schedule(name), request.pipeline_parallel, request.virtual_pipeline, passes)
    return name


def _expert_tensor_parallel(request: Request, kind: Stack, gpus: int, notes: list[str]) -> int:
    """Ranks that divide each expert: as given, else the stack's own habit where it can be."""
    given, ranks = request.expert_tensor_parallel, gpus // request.pipeline_parallel
    if given is None:
        usual = request.tensor_parallel if kind.experts_follow_tensor_parallel else 1
        if ranks % (usual * request.expert_parallel) == 0:
            return usual
        _assume(notes, "expert_tensor_parallel", 1, f"{usual} would need more GPUs in a stage")
        return 1
    at_least_one("expert_tensor_parallel", given, MOST_GPUS)
    if ranks % (given * request.expert_parallel):
        raise wrong(
            "expert_tensor_parallel",
            given,
            f"x expert_parallel {request.expert_parallel} does not divide the {ranks} GPUs of a "
            "pipeline stage",
        )
    return given


def _accumulation(request: Request, micro: int, data: int, notes: list[str]) -> int:
    given, batch = request.gradient_accumulation, request.global_batch_size
    if given is not None:
        at_least_one("gradient_accumulation", given, LARGEST_BATCH)
    if batch is None:
        if given is None:
            _assume(notes, "gradient_accumulation", 1, f"global batch {micro * data} sequences")
        return given or 1
    at_least_one("global_batch_size", batch, LARGEST_BATCH)
    if batch % (micro * data):
        raise wrong(
            "global_batch_size",
            batch,
            f"not divisible by micro_batch_size x data_parallel = {micro} x {data}",
        )
    steps = batch // (micro * data)
    if given is not None and given != steps:
        raise InputError(
            f"global_batch_size {batch} and gradient_accumulation {given} contradict each other: "
            f"{micro} x {data} sequences a pass make {steps} passes",
            field="global_batch_size",
        )
    return steps


def _recipe(request: Request, model: ModelSpec, kind: Stack, notes: list[str]) -> Recipe:
    sequence = request.sequence_length
    if sequence is None:
        sequence = DEFAULT_SEQUENCE_LENGTH
        _assume(notes, "sequence_length", sequence)
    at_least_one("sequence_length", sequence, LARGEST_SEQUENCE)
    word = request.precision
    finetune = _finetune(request, model, notes)
    if word is None:
        word = "bf16-autocast" if kind.name == "ddp" else "bf16-mixed"
        _assume(notes, "precision", word, f"what stack {kind.name} does with bf16")
    with about("precision"):
        precision(word, kind.name)
    name = request.optimizer
    if name is None:
        name = "adamw"
        _assume(notes, "optimizer", name)
    with about("optimizer"):
        optimizer(name)
    attention = request.attention or "flash"
    if attention not in ATTENTION_KERNELS:
        raise unknown("attention", attention, ATTENTION_KERNELS, field="attention")
    loss = request.cross_entropy or "standard"
    if request.cross_entropy is None and request.compile and kind.compiles_loss:
        loss = "fused"
        _assume(notes, "cross_entropy", loss, f"stack {kind.name} compiles its loss too")
    if loss not in CROSS_ENTROPIES:
        raise unknown("cross-entropy", loss, CROSS_ENTROPIES, field="cross_entropy")
    if request.tokens is not None and request.steps is not None:
        raise InputError("tokens and steps: give one of them, the other follows", field="steps")
    for field in ("tokens", "steps"):
        amount = getattr(request, field)
        if amount is not None and not 1 <= amount <= LARGEST_RUN:
            raise wrong(field, f"{amount:g}", f"expected a number from 1 to {LARGEST_RUN:g}")
    return Recipe(
        sequence_length=sequence,
        precision=word,
        optimizer=name,
        attention=attention,
        cross_entropy=loss,
        compile=request.compile,
        finetune=finetune,
        tokens=request.tokens,
        steps=request.steps,
        pauses=pauses_of(
            request.evaluation_every_steps,
            request.evaluation_steps,
            request.checkpoint_every_steps,
            request.storage_bandwidth,
        ),
    )


def _finetune(request: Request, model: ModelSpec, notes: list[str]) -> Finetune | None:
    method = request.finetune or "full"
    if method not in METHODS:
        raise unknown("finetune", method, METHODS, field="finetune")
    if method == "full":
        for field in ("lora_rank", "lora_targets", "quantize"):
            if getattr(request, field) is not None:
                raise InputError(f"{field}: only with finetune lora or qlora", field=field)
        return None
    quantize = request.quantize
    if quantize is not None:
        if quantize not in QUANTIZED:
            raise unknown("quantize", quantize, QUANTIZED, field="quantize")
        method = "qlora"  # LoRA on quantised weights, whatever it was called
    rank = request.lora_rank
    if rank is None:
        rank = DEFAULT_LORA_RANK
        _assume(notes, "lora_rank", rank)
    at_least_one("lora_rank", rank, 2**20)
    targets = _targets(request, model, notes)
    return Finetune(method, rank, targets, quantize)


def _targets(request: Request, model: ModelSpec, notes: list[str]) -> tuple[str, ...]:
    """The linears that get adapters: as named, all, or peft's default."""
    names = {
        op.name.rsplit(".", 1)[-1]
        for place in model.layers
        for op in place.block.operations
        if op.kind == "linear"
    }
    targets = request.lora_targets
    if targets is None:
        targets = next((t for t in _DEFAULT_TARGETS if set(t) <= names), tuple(sorted(names)))
        _assume(notes, "lora_targets", ",".join(targets), "peft's default for this family")
    elif targets == ("all-linear",):
        targets = tuple(sorted(names))
    for name in targets:
        if name not in names:
            raise unknown("lora target", name, names, field="lora_targets")
    return targets


def with_changes(request: Request, **changes: Any) -> Request:
    return replace(request, **changes)
