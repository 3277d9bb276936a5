"""When it does not fit: the single changes that make it fit, each computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.answers.request import Request, resolve, with_changes
from planner.errors import InputError
from planner.estimate import Estimate, estimate
from planner.model.spec import ModelSpec

if TYPE_CHECKING:
    from planner.answers.fit import Target


@dataclass(frozen=True)
class Remedy:
    """One change: what the peak is then, and the step's time over the time now (per token)."""

    change: str
    same_training: bool
    peak_bytes: float
    verdict: str
    step_seconds_ratio: float


@dataclass(frozen=True)
class _Change:
    words: str
    same_training: bool
    fields: dict[str, object]


def remedies_for(
    model: ModelSpec, request: Request, target: Target, now: Estimate
) -> tuple[Remedy, ...]:
    """Changes after which it fits (or is tight), cheapest in time first."""
    found = []
    for change in _changes(request, now):
        changed = with_changes(request, **change.fields)
        assert changed.gpus is not None
        try:
            plan = resolve(changed, model, changed.gpus)
            then = estimate(
                model,
                plan.recipe,
                plan.layout,
                target.cluster(changed.gpus),
                reserve_bytes=target.reserve_bytes,
                free_bytes=target.free_bytes,
            )
        except InputError:
            continue
        if then.verdict == "does_not_fit":
            continue
        ratio = _seconds_per_token(then) / _seconds_per_token(now)
        found.append(
            Remedy(
                change.words,
                change.same_training,
                then.memory.peak_bytes,
                then.verdict,
                ratio,
            )
        )
    return tuple(sorted(found, key=lambda r: (not r.same_training, r.step_seconds_ratio)))


def _seconds_per_token(e: Estimate) -> float:
    tokens = e.layout.global_batch_size * e.recipe.sequence_length
    return float(e.step.step_seconds) / float(tokens)


def _changes(request: Request, now: Estimate) -> Iterator[_Change]:
    layout, recipe = now.layout, now.recipe
    gpus = request.gpus or 1
    micro, passes = int(layout.micro_batch_size), int(layout.gradient_accumulation_steps)
    if layout.recompute != 2:
        yield _Change("recompute full", True, {"recompute": "full"})
    if layout.recompute == 0 and recipe.attention == "eager":
        yield _Change("recompute selective", True, {"recompute": "selective"})
    if recipe.attention == "eager":
        yield _Change("attention flash", True, {"attention": "flash"})
    for loss in ("fused", "chunked"):
        if recipe.cross_entropy == "standard":
            yield _Change(f"cross-entropy {loss}", True, {"cross_entropy": loss})
    smaller = micro // 2
    while smaller >= 1:
        times = micro // smaller
        yield _Change(
            f"micro-batch {smaller}, {passes * times} passes a step",
            True,
            {
                "micro_batch_size": smaller,
                "gradient_accumulation": passes * times,
                "global_batch_size": None,
            },
        )
        smaller //= 2
    stack = {"stack": None} if request.stack in ("ddp", None) else {}
    for sharding in ("zero2", "zero3"):
        if int(layout.data_parallel) > 1 and layout.sharding < {"zero2": 2, "zero3": 3}[sharding]:
            yield _Change(
                f"sharding {sharding}", True, {"sharding": sharding, "precision": None, **stack}
            )
    for size in (2, 4, 8):
        if gpus % size == 0 and gpus >= size and layout.tensor_parallel == 1:
            yield _Change(
                f"tensor parallel {size}",
                True,
                {"tensor_parallel": size, "global_batch_size": None, "precision": None, **stack},
            )
    for times in (2, 4, 8, 16):
        if layout.sharding >= 2:
            yield _Change(
                f"{gpus * times} GPUs",
                False,
                {"gpus": gpus * times, "global_batch_size": None},
            )
    if "optimizer" not in layout.offload:
        yield _Change("offload optimizer", True, {"offload": (*layout.offload, "optimizer")})
    if recipe.optimizer == "adamw":
        yield _Change("optimizer adamw-8bit", False, {"optimizer": "adamw-8bit"})
    if recipe.precision in ("fp32", "bf16-autocast", "bf16-mixed"):
        yield _Change("precision bf16-pure", False, {"precision": "bf16-pure"})
    if recipe.finetune is None:
        yield _Change("LoRA", False, {"finetune": "lora"})
        yield _Change("QLoRA", False, {"finetune": "qlora"})
    length = recipe.sequence_length
    for part in (2, 4, 8):
        if length % part == 0 and length // part >= 512:
            yield _Change(
                f"sequence length {length // part}", False, {"sequence_length": length // part}
            )
