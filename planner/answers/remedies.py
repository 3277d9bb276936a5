"""When it does not fit: the single changes that make it fit, each computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.answers.request import Request, resolve, with_changes
from planner.answers.words import OFFLOADS, offload_words
from planner.errors import InputError
from planner.estimate import Estimate, estimate
from planner.model.spec import ModelSpec
from planner.training.layout import Recompute, Sharding
from planner.training.stacks import stack

if TYPE_CHECKING:
    from planner.answers.fit import Target

# Sequences below this are no advice [tokens].
SHORTEST_SEQUENCE = 512


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
    fields: Mapping[str, object]


def remedies_for(
    model: ModelSpec,
    request: Request,
    target: Target,
    now: Estimate,
    limit_bytes: float | None = None,
) -> tuple[Remedy, ...]:
    """Changes after which it fits (or is tight), cheapest in time first.

    limit_bytes: the peak must be no higher either
    """
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
        too_high = limit_bytes is not None and then.memory.peak_bytes > limit_bytes
        if then.verdict == "does_not_fit" or too_high:
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
    """Every single change that can lower the peak from where the request stands."""
    yield from _kernel_changes(now)
    yield from _batch_changes(now)
    yield from _placement_changes(request, now)
    yield from _training_changes(now)


def _kernel_changes(now: Estimate) -> Iterator[_Change]:
    """The same mathematics by other kernels, or again instead of kept."""
    recipe, layout = now.recipe, now.layout
    if layout.recompute == Recompute.none:
        yield _Change("recompute selective", True, {"recompute": "selective"})
    if layout.recompute != Recompute.full:
        yield _Change("recompute full", True, {"recompute": "full"})
    if recipe.attention == "eager":
        yield _Change("attention flash", True, {"attention": "flash"})
    if recipe.cross_entropy == "standard":
        with_liger = stack(layout.stack).kernels == "transformers"  # whose chunked loss is Liger's
        yield _Change("cross-entropy fused", True, {"cross_entropy": "fused"})
        chunked = "cross-entropy chunked" + (", all of Liger's kernels" if with_liger else "")
        yield _Change(chunked, True, {"cross_entropy": "chunked"})
    for what in OFFLOADS:
        if what not in layout.offload:
            yield _Change(f"offload {what}", True, {"offload": (*offload_words(layout), what)})


def _batch_changes(now: Estimate) -> Iterator[_Change]:
    """Fewer sequences a pass and more passes: the same optimizer step."""
    micro = int(now.layout.micro_batch_size)
    passes = int(now.layout.gradient_accumulation_steps)
    smaller = micro // 2
    while smaller >= 1:
        more = passes * (micro // smaller)
        if smaller * more == micro * passes:
            fields = {
                "micro_batch_size": smaller,
                "gradient_accumulation": more,
                "global_batch_size": None,
            }
            yield _Change(f"micro-batch {smaller}, {more} passes a step", True, fields)
        smaller //= 2


def _placement_changes(request: Request, now: Estimate) -> Iterator[_Change]:
    """The same step, divided otherwise; more GPUs make a larger one."""
    layout, gpus = now.layout, int(now.layout.gpus)
    # Another way of dividing is another stack's, and its precision words differ.
    free = {"stack": None, "precision": None} if layout.stack == "ddp" else {}
    for sharding in (Sharding.zero2, Sharding.zero3):
        if layout.data_parallel > 1 and layout.sharding < sharding:
            yield _Change(f"sharding {sharding.name}", True, {"sharding": sharding.name, **free})
    for size in (2, 4, 8):
        if layout.tensor_parallel == 1 and gpus % size == 0:
            fields = {"tensor_parallel": size, "global_batch_size": None, **free}
            yield _Change(f"tensor parallel {size}", False, fields)
    if layout.sharding >= Sharding.zero2:
        for times in (2, 4, 8, 16):
            fields = {"gpus": gpus * times, "global_batch_size": request.global_batch_size}
            yield _Change(f"{gpus * times} GPUs", request.global_batch_size is not None, fields)


def _training_changes(now: Estimate) -> Iterator[_Change]:
    """Changes of what is trained, and how."""
    recipe = now.recipe
    if recipe.optimizer == "adamw":
        yield _Change("optimizer adamw-8bit", False, {"optimizer": "adamw-8bit"})
    if recipe.precision != "bf16-pure":
        yield _Change("precision bf16-pure", False, {"precision": "bf16-pure"})
    if recipe.finetune is None:
        yield _Change("LoRA", False, {"finetune": "lora"})
        yield _Change("QLoRA", False, {"finetune": "qlora"})
    for part in (2, 4, 8):
        length = recipe.sequence_length // part
        if length * part == recipe.sequence_length and length >= SHORTEST_SEQUENCE:
            yield _Change(f"sequence length {length}", False, {"sequence_length": length})
