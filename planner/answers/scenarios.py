"""Scenario files answered: each becomes one question per GPU type and number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.answers.auto import AXES, arranged
from planner.answers.fit import FitAnswer, Target, fit
from planner.answers.request import Request, resolve, with_changes
from planner.answers.targets import targets_for
from planner.errors import InputError
from planner.estimate import Estimate
from planner.hardware.library import find_node
from planner.hardware.profile import NodeProfile
from planner.model.sources import from_fields, load_model
from planner.model.spec import ModelSpec
from planner.scenario.fields import BudgetFields, FinetuneFields, LayoutFields
from planner.scenario.file import ScenarioFile
from planner.units import SECONDS_PER_DAY, parse_byte_rate, parse_bytes

# Fields of the budget that are read and checked, and that nothing is worked out of.
ENERGY_FIELDS = ("region", "kg_co2_per_kwh", "usd_per_kwh", "pue")


@dataclass(frozen=True)
class Question:
    """One thing to answer. free: the axes of the layout that the planner may choose."""

    file: ScenarioFile
    name: str
    model: ModelSpec
    request: Request
    target: Target
    free: frozenset[str]


def answers_of(file: ScenarioFile) -> list[FitAnswer]:
    """Every answer of a scenario, in the order in which it lists GPUs."""
    return [_answer(question) for question in questions_of(file)]


def questions_of(file: ScenarioFile) -> list[Question]:
    """What a scenario asks, checked as far as can be without answering."""
    model = _model(file)
    layout = file.scenario.layout
    given = LayoutFields() if layout == "auto" else layout
    free = frozenset(name for name in AXES if getattr(given, name) is None)
    request = _request(file, given)
    counts = _counts(file, given)
    targets = list(_targets(file))
    found = []
    for target in targets:
        for gpus in counts:
            name = file.name
            if len(targets) > 1:
                name += f" on {target.gpu.id}"
            if len(counts) > 1:
                name += f" x {gpus}"
            asked = replace(request, gpus=gpus)
            found.append(_settled(Question(file, name, model, asked, target, free), given))
    return found


def _model(file: ScenarioFile) -> ModelSpec:
    with file.placed("model"):
        model = file.scenario.model
        if isinstance(model, str):
            return load_model(file.beside(model))
        return from_fields(file.document.part("model"), name=file.name)


def _request(file: ScenarioFile, layout: LayoutFields) -> Request:
    """The file's fields under the names of a request."""
    recipe, hardware = file.scenario.recipe, file.scenario.hardware
    tune = recipe.finetune
    if not isinstance(tune, FinetuneFields):
        tune = FinetuneFields(tune or "full")
    targets = (tune.targets,) if isinstance(tune.targets, str) else tune.targets
    batch = recipe.global_batch_size
    if batch is None:
        batch = layout.global_batch_size
    elif layout.global_batch_size not in (None, batch):
        raise file.document.error(
            ("layout", "global_batch_size"),
            f"{layout.global_batch_size} contradicts recipe.global_batch_size {batch}",
        )
    return Request(
        gpus_per_node=hardware.gpus_per_node,
        sequence_length=recipe.sequence_length,
        micro_batch_size=layout.micro_batch_size,
        global_batch_size=batch,
        gradient_accumulation=layout.gradient_accumulation_steps,
        precision=recipe.precision,
        optimizer=recipe.optimizer,
        tensor_parallel=layout.tensor_parallel or 1,
        pipeline_parallel=layout.pipeline_parallel or 1,
        virtual_pipeline=layout.virtual_pipeline or 1,
        pipeline_schedule=layout.pipeline_schedule,
        context_parallel=layout.context_parallel or 1,
        expert_parallel=layout.expert_parallel or 1,
        expert_tensor_parallel=layout.expert_tensor_parallel,
        sequence_parallel=layout.sequence_parallel,
        sharding=layout.sharding,
        recompute=_joined(layout.recompute),
        cuda_graph=layout.cuda_graph,
        moe_dispatcher=layout.moe_dispatcher,
        overlap=_joined(layout.overlap),
        attention=recipe.attention,
        cross_entropy=recipe.cross_entropy,
        compile=recipe.compile,
        stack=file.scenario.stack,
        finetune=tune.method,
        lora_rank=tune.rank,
        lora_targets=targets,
        quantize=tune.quantize,
        offload=layout.offload,
        tokens=recipe.tokens,
        steps=recipe.steps,
        evaluation_every_steps=recipe.evaluation_every_steps,
        evaluation_steps=recipe.evaluation_steps,
        checkpoint_every_steps=recipe.checkpoint_every_steps,
        storage_bandwidth=_storage(file),
    )


def _storage(file: ScenarioFile) -> float | None:
    given = file.scenario.recipe.storage_bandwidth
    if given is None:
        return None
    with file.placed("recipe", "storage_bandwidth"):
        return parse_byte_rate(given)


def _joined(words: str | tuple[str, ...] | None) -> str | None:
    """Names as the flag takes them."""
    return ",".join(words) if isinstance(words, tuple) else words


def _counts(file: ScenarioFile, layout: LayoutFields) -> tuple[int | None, ...]:
    """Numbers of GPUs: as given, else as the layout's sizes make them, else the fewest."""
    gpus = file.scenario.hardware.gpus
    if isinstance(gpus, int):
        return (gpus,)
    if gpus is not None:
        if not gpus:
            raise file.document.error(("hardware", "gpus"), "an empty list, expected numbers")
        return gpus
    if layout.data_parallel is None:
        return (None,)
    return (layout.data_parallel * _share(layout),)


def _share(layout: LayoutFields) -> int:
    """GPUs of one copy of the model."""
    return (
        (layout.tensor_parallel or 1)
        * (layout.pipeline_parallel or 1)
        * (layout.context_parallel or 1)
    )


def _targets(file: ScenarioFile) -> Iterator[Target]:
    hardware = file.scenario.hardware
    node = _node(file)
    names = (hardware.gpu,) if isinstance(hardware.gpu, str) else hardware.gpu
    if names is None:
        if node is None:
            raise file.document.error(
                ("hardware",), "missing field 'gpu' (or 'node', the id of a node type)"
            )
        names = (node.gpu,)
    with file.placed("hardware", "reserve"):
        reserve = 0 if hardware.reserve is None else parse_bytes(hardware.reserve)
    with file.placed("hardware", "gpu"):
        for target in targets_for(
            [file.beside(name) for name in names],
            reserve_bytes=reserve,
            usd_per_gpu_hour=file.scenario.budget.usd_per_gpu_hour,
            gpus_per_node=hardware.gpus_per_node,
        ):
            if node is not None and node.gpu != target.gpu.id:
                raise InputError(
                    f"node {node.id} holds {node.gpu}, the GPU given is {target.gpu.id}",
                    field="node",
                )
            yield replace(target, node=node or target.node, region=file.scenario.budget.region)


def _node(file: ScenarioFile) -> NodeProfile | None:
    name = file.scenario.hardware.node
    if name is None:
        return None
    with file.placed("hardware", "node"):
        return find_node(file.beside(name))


def _settled(question: Question, layout: LayoutFields) -> Question:
    """The question with what its sizes imply; what contradicts itself is refused at its line."""
    gpus, file = question.request.gpus, question.file
    if gpus is None:
        return question
    if layout.data_parallel is not None:
        made = layout.data_parallel * _share(layout)
        if gpus % made or (gpus != made and "tensor_parallel" not in question.free):
            raise file.document.error(
                ("layout", "data_parallel"),
                f"{layout.data_parallel}: with tensor, pipeline and context parallel it makes "
                f"{made} GPUs, hardware.gpus is {gpus}",
            )
        tensor = question.request.tensor_parallel * (gpus // made)
        request = replace(question.request, tensor_parallel=tensor)
        question = replace(question, request=request, free=question.free - {"tensor_parallel"})
    with file.placed("hardware", "gpus"):
        _resolvable(question, gpus)
    return question


def _resolvable(question: Question, gpus: int) -> None:
    """Some size of the tensor parallelism that may be chosen makes a layout; else the error."""
    sizes = AXES["tensor_parallel"] if "tensor_parallel" in question.free else (None,)
    first: InputError | None = None
    for size in sizes:
        changes = {} if size is None else {"tensor_parallel": size}
        try:
            resolve(with_changes(question.request, **changes), question.model, gpus)
            return
        except InputError as error:
            first = first or error
    assert first is not None
    raise first


def _answer(question: Question) -> FitAnswer:
    request = question.request
    notes: tuple[str, ...] = ()
    with question.file.placed("layout"):
        if request.gpus is None and question.target.gpus is not None:
            notes = (f"gpus {question.target.gpus}: all usable ones of this machine",)
            request = replace(request, gpus=question.target.gpus)
        if request.gpus is not None and question.free:
            request, chosen = arranged(question.model, request, question.target, question.free)
            notes = (*notes, *chosen)
        answer = fit(question.model, request, question.target, name=question.name, notes=notes)
    budget = question.file.scenario.budget
    warnings = (*answer.estimate.warnings, *broken_limits(answer.estimate, budget))
    return replace(answer, estimate=replace(answer.estimate, warnings=warnings))


def broken_limits(e: Estimate, budget: BudgetFields) -> Iterator[str]:
    """What the estimate exceeds of the budget, or cannot be held against it."""
    seconds, most_days = e.run.training_seconds, budget.deadline_days
    if most_days is not None:
        if seconds is None:
            yield "deadline_days is not checked: the recipe has neither tokens nor steps"
        elif float(seconds) > most_days * SECONDS_PER_DAY:
            days = float(seconds) / SECONDS_PER_DAY
            yield f"takes {days:,.1f} days, deadline_days is {most_days:g}"
    if budget.max_cost_usd is not None:
        if e.cost_usd is None:
            missing = "tokens or steps" if seconds is None else "a price of the GPU"
            yield f"max_cost_usd is not checked: {missing} is not known"
        elif e.cost_usd > budget.max_cost_usd:
            yield f"costs ${e.cost_usd:,.0f}, max_cost_usd is ${budget.max_cost_usd:,.0f}"
    unused = [name for name in ENERGY_FIELDS if getattr(budget, name) is not None]
    if unused:
        yield f"{', '.join(unused)}: not used, energy and carbon are not estimated"
