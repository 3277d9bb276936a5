"""Time of one training step: blocks on the GPU, traffic between GPUs, bubbles, host, optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.hardware.cluster import Cluster
from planner.memory.profile import ModelRows
from planner.memory.rows import Columns
from planner.model.flops import model_flops, operation_flops
from planner.model.spec import ModelSpec
from planner.numeric import Number, maximum, minimum, where
from planner.performance import traffic
from planner.performance.block_time import BlockTime
from planner.performance.constants import StepConstants, step_constants
from planner.performance.offload import host_optimizer_seconds, offload_seconds
from planner.performance.work import Work
from planner.training.layout import Layout
from planner.training.optimizers import optimizer
from planner.training.precision import Precision
from planner.training.recipe import Recipe
from planner.training.schedule import layers_at, schedule, uneven_bubble

# Compiled programs start many kernels at once: this share of the host's time is left (assumed). So
# with graphs: of layers one by one, of some modules (assumed), of the whole iteration none.
COMPILED_SHARE = 0.25
GRAPH_SHARES = {"none": 1.0, "local": 0.25, "full": 0.0}
MODULES_GRAPH_SHARE = 0.5
# torch's foreach AdamW runs a dozen kernels over lists of tensors: about three times the traffic of
# a fused one (counted from its reads and writes).
UNFUSED_OPTIMIZER_PASSES = 3.0


@dataclass(frozen=True)
class StepEstimate:
    """Seconds by part; the parts add up to step_seconds. FLOPs of a token, forward and backward.

    model_flops_per_token         attention over the pairs that its mask leaves
    full_square_flops_per_token   attention over all pairs, as PaLM's appendix B counts
    hardware_flops_per_token      what is done: the model's, and what recompute repeats
    evaluation_step_seconds       of a batch that runs forward alone
    """

    step_seconds: Number
    breakdown_seconds: dict[str, Number] = field(default_factory=dict)
    model_flops_per_token: float = 0.0
    full_square_flops_per_token: float = 0.0
    hardware_flops_per_token: Number = 0.0
    evaluation_step_seconds: Number = 0.0


def step_time(
    spec: ModelSpec,
    rows: ModelRows,
    recipe: Recipe,
    layout: Layout,
    policy: Precision,
    cluster: Cluster,
    columns: Columns,
    constants: StepConstants | None = None,
) -> StepEstimate:
    """One optimizer step on one of the GPUs."""
    w = Work(spec, rows, recipe, layout, policy, cluster, columns, constants or step_constants())
    parts = _parts(w)
    flops = model_flops(spec, recipe.sequence_length).forward
    square = model_flops(spec, recipe.sequence_length, full_square=True).forward
    # frozen matrices have no weight gradients to compute
    times = 3.0 if recipe.finetune is None else 2.0
    return StepEstimate(
        sum(parts.values()),
        parts,
        times * flops,
        times * square,
        times * flops + _repeated_flops(w),
        _evaluation_step(w, parts),
    )


def _parts(w: Work) -> dict[str, Number]:
    """Seconds of a step by part."""
    layout = w.layout
    stages, passes = layout.pipeline_parallel, layout.gradient_accumulation_steps
    on_layers = _by_part([(count, time) for count, time in w.layers])
    on_layers["recompute"] = _recompute(w)
    on_layers["tensor_parallel"] = traffic.tensor_parallel_seconds(w)
    on_layers["context_parallel"] = traffic.context_parallel_seconds(w)
    on_layers["expert_parallel"] = traffic.expert_parallel_seconds(w)
    on_layers["dispatch"] = _dispatch(w)
    ends = _by_part([(1, end) for end in w.ends])
    share = passes / stages
    parts = {name: share * seconds for name, seconds in on_layers.items()}
    for name, seconds in ends.items():
        parts[name] = parts[name] + share * seconds
    # the GPU waits where the host starts kernels more slowly than they run
    busy: Number = sum(parts.values())
    kernels = share * _host(w)
    parts["host"] = maximum(kernels - busy, 0)
    once = passes * _graphed(w) * w.stack.host.per_pass * w.host_slowdown
    on_one_stage = maximum(once - maximum(busy - kernels, 0), 0)
    layer = sum(on_layers.values()) / w.layer_count
    slower = _imbalance(w, layer)
    parts["imbalance"] = passes * slower
    parts["pipeline_transfer"] = traffic.pipeline_seconds(w)
    whole: Number = busy + parts["host"] + parts["pipeline_transfer"]
    parts["bubble"] = uneven_bubble(_bubble(w, whole / passes), slower, layout.virtual_pipeline)
    # what a pass costs the host beside its layers (data, loss) is one stage's, like the head
    parts["host"] = parts["host"] + on_one_stage
    parts["data_parallel"] = traffic.data_parallel_seconds(w) + traffic.tied_embedding_seconds(w)
    if layout.offload:
        parts["offload"] = offload_seconds(w)
    parts["optimizer"] = _optimizer(w) + w.stack.host.per_step * w.host_slowdown
    return parts


def _evaluation_step(w: Work, parts: dict[str, Number]) -> Number:
    """The forward part of a step; its traffic is shared between the passes as the work is."""
    left_out = {"optimizer"} if w.stack.gathers_units else {"optimizer", "data_parallel"}
    passes = sum(seconds for name, seconds in parts.items() if name not in left_out)
    return passes * _forward_share(w)


def _forward_share(w: Work) -> Number:
    """Of the work of the blocks, what the forward pass is."""
    blocks = [*w.layers, *((1, end) for end in w.ends)]
    ahead = sum(count * time.forward_seconds for count, time in blocks)
    back = sum(count * time.backward_seconds for count, time in blocks) + _recompute(w)
    return ahead / (ahead + back)


def _by_part(blocks: list[tuple[int, BlockTime]]) -> dict[str, Number]:
    """Seconds of blocks for one micro-batch, forward and backward, by part."""
    parts: dict[str, Number] = {}
    for count, time in blocks:
        for passed in (time.forward, time.backward):
            for name, seconds in passed.items():
                parts[name] = parts.get(name, 0) + count * seconds
    return parts


def _bubble(w: Work, whole: Number) -> Number:
    """What a stage waits for the others in a step, if they are alike [s].

    whole: of one micro-batch on one stage. The weights' gradients are in it as their products take,
    the rest is shared between forward and backward as the blocks' own work is.
    """
    layout = w.layout
    weights = sum(count * time.weights for count, time in w.layers) / layout.pipeline_parallel
    forward = whole * _forward_share(w)
    return schedule(layout.pipeline_schedule).bubble(
        layout.pipeline_parallel,
        layout.virtual_pipeline,
        forward,
        whole - forward - weights,
        weights,
    )


def _imbalance(w: Work, layer: Number) -> Number:
    """By how much the slowest stage is slower than the mean, for one micro-batch [s].

    The first has the embedding, the last the head; a GPU that holds both of them works on each for
    half of the micro-batches.
    """
    stages = w.layout.pipeline_parallel
    embedding, head = (end.forward_seconds + end.backward_seconds for end in w.ends)
    mean = (w.layer_count * layer + embedding + head) / stages
    at_first, most, at_last = layers_at(w.layer_count, stages)
    first, last = at_first * layer + embedding, at_last * layer + head
    if schedule(w.layout.pipeline_schedule).copies > 1:
        first = last = (first + last) / 2
    slowest = maximum(maximum(first, last), most * layer)
    return where(stages > 1, maximum(slowest - mean, 0), 0)


def _recompute(w: Work) -> Number:
    """The layers' forward passes that the backward pass runs again."""
    if not w.repeats_forward:
        return sum(count * time.repeated for count, time in w.layers)
    total: Number = sum(count * time.forward_seconds for count, time in w.layers)
    return total * _share_repeated(w)


def _share_repeated(w: Work) -> Number:
    """Of the layers, those that full recompute runs again."""
    layout = w.layout
    if layout.recompute_layers is None:
        return 1.0
    # where the layers do not divide, some stages have fewer than the others
    return minimum(layout.recompute_layers * layout.pipeline_parallel / w.layer_count, 1)


def _repeated_flops(w: Work) -> Number:
    """Of a token, what recompute runs again: whole layers, or single operations of each [FLOP]."""
    sequence = w.recipe.sequence_length
    total: Number = 0.0
    for layer in w.rows.layers:
        for index, op in enumerate(layer.block.operations):
            if w.repeats_forward or index in layer.repeated:
                total = total + len(layer.positions) * operation_flops(op, sequence)
    return total * _share_repeated(w) if w.repeats_forward else total


def _graphed(w: Work) -> float:
    """Of the host's time, what graphs and compilation leave."""
    graph = w.layout.execution.cuda_graph
    share = GRAPH_SHARES.get(graph, MODULES_GRAPH_SHARE)
    return share * (COMPILED_SHARE if w.recipe.compile else 1.0)


def _host(w: Work) -> Number:
    """Time the host needs to start all kernels of one micro-batch."""
    kernels: Number = sum(sum(end.launches) for end in w.ends)
    for count, time in w.layers:
        again = time.launches[0] * _share_repeated(w) if w.repeats_forward else time.launches_again
        kernels = kernels + count * (sum(time.launches) + again)
    started = kernels * w.stack.host.per_kernel * _graphed(w) + _experts_host(w)
    return started * w.host_slowdown


def _experts_host(w: Work) -> Number:
    """The same of the products of the experts that a rank holds."""
    if w.layout.execution.cuda_graph == "full" or w.stack.kernels != "megatron":
        return 0
    held: Number = 0
    for count, op in w.operations("experts"):
        held = held + count * op.number("experts") / w.layout.expert_parallel
    return held * w.constants.expert_seconds


def _dispatch(w: Work) -> Number:
    """Reading the experts' token counts back: the host waits, then the GPU waits for the host.

    DeepEP reads them back as a plain all-to-all does, and no run with it is fitted on.
    """
    execution = w.layout.execution
    routed = sum(count for count, _ in w.operations("experts"))
    if execution.cuda_graph == "full" or w.stack.kernels != "megatron":
        return 0
    pauses = w.constants.dispatch_seconds
    each = pauses.get(execution.dispatcher or "alltoall", pauses["alltoall"])
    if w.layout.overlaps("ep"):  # the GPU has another micro-batch's kernels meanwhile
        each = each * w.constants.expert_shown
    return where(w.layout.expert_parallel > 1, routed * each * w.host_slowdown, 0)


def _optimizer(w: Work) -> Number:
    """Gradients' norm, then parameters, gradients and states by memory-bound kernels."""
    if w.steps_on_host:
        return host_optimizer_seconds(w)
    policy = w.policy
    states = len(optimizer(w.recipe.optimizer).states)
    # the norm reads the gradients; then parameter and states are read and written, the gradient
    # read again, the low-precision copy written
    moved = policy.updated * 2 * (1 + states) + 2 * policy.gradient + policy.parameter
    passes = 1.0 if w.stack.fused_optimizer else UNFUSED_OPTIMIZER_PASSES
    return w.machine.moving_seconds(w.updated_elements * moved * passes)
