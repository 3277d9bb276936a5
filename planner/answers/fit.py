"""Does it fit: the estimate, how far each axis goes, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planner.answers.oom import OomAnswer, explain
from planner.answers.remedies import Remedy, remedies_for
from planner.answers.request import Request, resolve, with_changes
from planner.errors import InputError
from planner.estimate import (
    Estimate,
    MemoryEstimate,
    check_modelled,
    estimate,
    memory_of,
    verdict_of,
)
from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.profile import GpuProfile, NodeProfile
from planner.model.spec import ModelSpec

# More GPUs than this are not looked at for the fewest.
MOST_GPUS_SEARCHED = 16384
LONGEST_SEQUENCE_SEARCHED = 2**24
# Sequences are told in steps of this many tokens.
SEQUENCE_STEP = 128


@dataclass(frozen=True)
class Target:
    """The GPUs that are asked: a profile, or this machine's, with what is free and kept back."""

    gpu: GpuProfile
    reserve_bytes: int = 0
    free_bytes: int | None = None
    usd_per_gpu_hour: float | None = None
    gpus_per_node: int | None = None
    warnings: tuple[str, ...] = ()
    gpus: int | None = None
    node: NodeProfile | None = None
    region: str | None = None

    def cluster(self, gpus: int) -> Cluster:
        return cluster_of(
            self.gpu,
            gpus,
            gpus_per_node=self.gpus_per_node,
            node=self.node,
            region=self.region,
            usd_per_gpu_hour=self.usd_per_gpu_hour,
        )


@dataclass(frozen=True)
class BatchRow:
    """One line of the table by micro-batch."""

    micro_batch_size: int
    activations_bytes: float
    peak_bytes: float
    verdict: str


@dataclass(frozen=True)
class Limits:
    """How far each axis goes while everything else stays; None: not even the least fits."""

    largest_micro_batch_size: int | None
    longest_sequence_length: int | None
    fewest_gpus: int | None


@dataclass(frozen=True)
class FitAnswer:
    estimate: Estimate
    table: tuple[BatchRow, ...]
    limits: Limits
    remedies: tuple[Remedy, ...]
    oom: OomAnswer | None = None


def fit(
    model: ModelSpec,
    request: Request,
    target: Target,
    *,
    name: str = "",
    notes: tuple[str, ...] = (),
    oom: str | None = None,
) -> FitAnswer:
    """The answer of `planner fit` for one model on one kind of GPU.

    notes: assumptions so far; oom: PyTorch's out-of-memory message of such a run, to explain
    """
    _check(model, request)
    request, found, chosen = _with_gpus(model, request, target)
    gpus = request.gpus
    assert gpus is not None
    plan = resolve(request, model, gpus)
    result = estimate(
        model,
        plan.recipe,
        plan.layout,
        target.cluster(gpus),
        name=name,
        reserve_bytes=target.reserve_bytes,
        free_bytes=target.free_bytes,
        assumptions=(*notes, *chosen, *plan.assumptions),
    )
    result = replace(result, warnings=(*target.warnings, *result.warnings))
    ask = Asker(model, request, target)
    limits = Limits(
        largest_micro_batch_size=ask.largest_micro_batch(),
        longest_sequence_length=ask.longest_sequence(),
        fewest_gpus=found if found is not None else ask.fewest_gpus(),
    )
    remedies = (
        remedies_for(model, request, target, result) if result.verdict == "does_not_fit" else ()
    )
    explained = None if oom is None else explain(oom, model, request, target, result)
    return FitAnswer(result, tuple(ask.batch_rows()), limits, remedies, explained)


def _check(model: ModelSpec, request: Request) -> None:
    """Refuse by name what cannot be asked or is not modelled, before anything is varied."""
    least = request.tensor_parallel * request.pipeline_parallel * request.context_parallel
    plan = resolve(request, model, least if request.gpus is None else request.gpus)
    check_modelled(model, plan.layout)


def _with_gpus(
    model: ModelSpec, request: Request, target: Target
) -> tuple[Request, int | None, tuple[str, ...]]:
    """The request with its number of GPUs: as given, this machine's, or the fewest that fit.

    Without both gpus and sharding, one GPU is tried as it is, and then the parameters are divided
    (zero3): without any division more GPUs do not help.
    """
    if request.gpus is not None:
        return request, None, ()
    if target.gpus is not None:
        note = (f"gpus {target.gpus}: all usable ones of this machine",)
        return with_changes(request, gpus=target.gpus), None, note
    share = request.tensor_parallel * request.pipeline_parallel * request.context_parallel
    least = with_changes(request, gpus=share)
    found = Asker(model, least, target).fewest_gpus()
    if found is None and request.sharding is None:
        divided = with_changes(request, gpus=share, sharding="zero3")
        found = Asker(model, divided, target).fewest_gpus()
        if found is not None:
            note = (f"sharding zero3 and gpus {found}: the fewest that fit; whole copies do not",)
            return with_changes(divided, gpus=found), found, note
    if found is None:
        note = (f"gpus {share}: no number of GPUs fits as asked",)
        return least, None, note
    return with_changes(request, gpus=found), found, (f"gpus {found}: the fewest that fit",)


@dataclass(frozen=True)
class Asker:
    """Varies one field of a request and asks for the memory alone."""

    model: ModelSpec
    request: Request
    target: Target

    def memory(self, **changes: object) -> MemoryEstimate | None:
        """The memory with some fields changed; None where such a layout cannot be."""
        return self._memory(with_changes(self.request, **changes))

    def memory_near(self, **changes: object) -> MemoryEstimate | None:
        """The same, with the global batch that such a layout can do nearest to the asked one."""
        return self._memory(_nearest_batch(with_changes(self.request, **changes)))

    def _memory(self, request: Request) -> MemoryEstimate | None:
        assert request.gpus is not None
        try:
            plan = resolve(request, self.model, request.gpus)
        except InputError:
            return None
        return memory_of(
            self.model,
            plan.recipe,
            plan.layout,
            self.target.cluster(request.gpus),
            reserve_bytes=self.target.reserve_bytes,
            free_bytes=self.target.free_bytes,
        )

    def batch_rows(self) -> Iterator[BatchRow]:
        """1, 2, 4 ... up to the first micro-batch that does not fit."""
        size = 1
        while size <= 2**20:
            memory = self.memory_near(micro_batch_size=size)
            if memory is None:
                return
            verdict = verdict_of(memory)
            yield BatchRow(size, memory.activations_bytes, memory.peak_bytes, verdict)
            if verdict == "does_not_fit":
                return
            size *= 2

    def largest_micro_batch(self) -> int | None:
        return largest(lambda n: _fits(self.memory_near(micro_batch_size=n)), 1, 2**20)

    def longest_sequence(self) -> int | None:
        found = largest(
            lambda n: _fits(self.memory(sequence_length=n * SEQUENCE_STEP)),
            1,
            LONGEST_SEQUENCE_SEARCHED // SEQUENCE_STEP,
        )
        return None if found is None else found * SEQUENCE_STEP

    def fewest_gpus(self) -> int | None:
        """The least number of GPUs that fits: within a node by ones, then by whole nodes.

        One that divides the global batch is preferred: only with such a one can the step be done
        as asked.
        """
        request = self.request
        share = request.tensor_parallel * request.pipeline_parallel * request.context_parallel
        per_node = self.target.cluster(share).gpus_per_node
        counts = [n for n in range(1, per_node + 1) if n % share == 0] or [share]
        if request.sharding in (None, "none"):
            counts = counts[:1]
        elif nodes := least(
            lambda n: _fits(self.memory_near(gpus=n * per_node)), 2, MOST_GPUS_SEARCHED // per_node
        ):
            counts += [n * per_node for n in range(nodes, 2 * nodes + 1)]
        exact = (n for n in counts if _fits(self.memory(gpus=n)))
        near = (n for n in counts if _fits(self.memory_near(gpus=n)))
        return next(exact, None) or next(near, None)


def _fits(memory: MemoryEstimate | None) -> bool:
    """Fits, or is tight: what the exit status calls an answer of yes."""
    return memory is not None and verdict_of(memory) != "does_not_fit"


def _nearest_batch(request: Request) -> Request:
    """The request with as many whole passes as its global batch holds, at least one.

    What varies (micro-batch, GPUs) need not divide the global batch; the passes of a step decide
    what a pipeline has in flight, and whether gradients are added up.
    """
    batch = request.global_batch_size
    if batch is None or request.gpus is None:
        return request
    share = request.tensor_parallel * request.pipeline_parallel * request.context_parallel
    a_pass = (request.micro_batch_size or 1) * (request.gpus // share)
    passes = max(batch // max(a_pass, 1), 1)
    return with_changes(request, global_batch_size=None, gradient_accumulation=passes)


def largest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest n in [low, high] for which a falling condition holds; None if not even low.

    >>> largest(lambda n: n * n <= 50, 1, 100)
    7
    """
    if not holds(low):
        return None
    step = low
    while step * 2 <= high and holds(step * 2):
        step *= 2
    below, above = step, min(step * 2, high + 1)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if holds(middle) else (below, middle)
    return below


def least(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least n in [low, high] for which a rising condition holds; None if not even high.

    >>> least(lambda n: n * n >= 50, 1, 100)
    8
    """
    step = low
    while not holds(step):
        if step >= high:
            return None
        step = min(step * 2, high)
    below, above = max(step // 2, low - 1), step
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
