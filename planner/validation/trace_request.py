"""What `planner trace` is asked: a model and settings, as one case that the tracer can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.answers.checks import at_least_one, wrong
from planner.answers.request import Plan, Request, resolve, with_changes
from planner.errors import InputError
from planner.estimate import check_modelled
from planner.model.sources import from_mapping, load_model
from planner.model.spec import ModelSpec
from planner.training.layout import Recompute, Sharding
from planner.training.stacks import default_stack
from planner.validation.traced import TracedCase, cut

# GPUs that share the parameters where nobody says how many: one node.
USUAL_GPUS = 8
OPTIMIZERS = ("adamw", "sgd", "sgd-momentum")
RECOMPUTES = (Recompute.none, Recompute.full)


@dataclass(frozen=True)
class StackRules:
    """What the tracer runs under a stack."""

    precisions: tuple[str, ...]
    shardings: tuple[Sharding, ...]
    tensor_parallel: bool = False
    finetune: bool = False
    families: tuple[str, ...] = ()  # none named: every family


_GATHERED = ("bf16-mixed", "bf16-pure", "fp32")
STACKS: Mapping[str, StackRules] = {
    "ddp": StackRules(
        ("bf16-autocast", "bf16-pure", "fp32"), shardings=(Sharding.none,), finetune=True
    ),
    "fsdp2": StackRules(_GATHERED, shardings=(Sharding.zero2, Sharding.zero3)),
    "torchtitan": StackRules(
        _GATHERED,
        shardings=(Sharding.zero2, Sharding.zero3),
        tensor_parallel=True,
        families=("llama",),
    ),
}
# A frozen model's adapters may also be float32 with no autocast around them (peft by itself); on
# 4-bit weights the tracer has them as the Trainer does.
ADAPTER_PRECISIONS = {
    "lora": ("bf16-autocast", "bf16-mixed", "bf16-pure"),
    "qlora": ("bf16-autocast",),
}
# Switches of a Llama that torchtitan's model does not have.
NOT_IN_TORCHTITAN = ("tie_word_embeddings", "attention_bias", "mlp_bias")


@dataclass(frozen=True)
class Question:
    """The case, the model's name, and what was assumed."""

    name: str
    case: TracedCase
    assumptions: tuple[str, ...]


def question_of(argument: str, request: Request, layers: int | None = None) -> Question:
    """The step that a MODEL and flags describe; layers: trace so many of the model's."""
    model = load_model(argument)
    if layers is not None:
        at_least_one("layers", layers, len(model.layers))
        model = from_mapping(
            cut(model.config, layers, len(model.layers)), name=model.name, where=argument
        )
    request, notes = _with_defaults(request)
    assert request.gpus is not None
    plan = resolve(request, model, request.gpus)
    check_modelled(model, plan.layout)
    _check(model, plan)
    fields = {"model_type": model.model_type, **model.config}
    case = TracedCase(model.name, fields, plan.recipe, plan.layout)
    return Question(model.name, case, (*notes, *plan.assumptions))


def _with_defaults(request: Request) -> tuple[Request, tuple[str, ...]]:
    """One GPU with ddp; with parameters shared among GPUs zero3, and a node of them."""
    notes: list[str] = []
    tensor = request.tensor_parallel
    stack = request.stack
    if stack is None:
        known = request.sharding in Sharding.__members__
        sharding = Sharding[request.sharding] if request.sharding and known else Sharding.none
        stack = "torchtitan" if tensor > 1 else default_stack(sharding, model_parallel=False)
        notes.append(f"stack {stack}")
    if stack not in STACKS:
        raise wrong("stack", stack, f"the tracer runs {', '.join(STACKS)}")
    request = with_changes(request, stack=stack)
    gathers = Sharding.none not in STACKS[stack].shardings
    if request.sharding is None and gathers:
        request = with_changes(request, sharding="zero3")
        notes.append(f"sharding zero3: what stack {stack} is for")
    if request.gpus is None:
        gpus = tensor * (USUAL_GPUS if gathers else 1)
        request = with_changes(request, gpus=gpus)
        notes.append(f"gpus {gpus}")
    return request, tuple(notes)


def _check(model: ModelSpec, plan: Plan) -> None:
    """Refuse by name what the tracer cannot run."""
    layout, recipe = plan.layout, plan.recipe
    rules = STACKS[layout.stack]
    under = f"under stack {layout.stack} the tracer runs"
    if layout.sharding not in rules.shardings:
        known = ", ".join(s.name for s in rules.shardings)
        raise wrong("sharding", Sharding(int(layout.sharding)).name, f"{under} {known}")
    if layout.tensor_parallel > 1 and not rules.tensor_parallel:
        why = "the tracer splits torchtitan's Llama alone: stack torchtitan"
        raise wrong("tensor_parallel", layout.tensor_parallel, why)
    if rules.families and model.model_type not in rules.families:
        raise InputError(
            f"{model.name}: {under} {', '.join(rules.families)}, not {model.model_type}"
        )
    if recipe.finetune and not rules.finetune:
        raise wrong("finetune", recipe.finetune.method, "the tracer runs adapters with stack ddp")
    tuned = recipe.finetune
    precisions = ADAPTER_PRECISIONS[tuned.method] if tuned else rules.precisions
    if recipe.precision not in precisions:
        raise wrong("precision", recipe.precision, f"{under} {', '.join(precisions)}")
    if recipe.optimizer not in OPTIMIZERS:
        raise wrong("optimizer", recipe.optimizer, f"the tracer runs {', '.join(OPTIMIZERS)}")
    if layout.recompute_layers is not None:
        raise wrong("recompute", f"full:{layout.recompute_layers}", "expected none or full")
    if layout.recompute not in RECOMPUTES:
        raise wrong("recompute", Recompute(int(layout.recompute)).name, "expected none or full")
    if layout.stack == "torchtitan":
        _check_torchtitan(model, recipe.attention)


def _check_torchtitan(model: ModelSpec, attention: str) -> None:
    for name in NOT_IN_TORCHTITAN:
        if model.config.get(name):
            raise InputError(f"{model.name}: {name}: torchtitan's Llama has no such switch")
    if attention != "flash":
        raise wrong("attention", attention, "torchtitan's model runs a fused kernel")
