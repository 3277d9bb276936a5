"""Trace one training step as one of many GPUs sees it: FSDP2, tensor parallel, DDP, autocast, LoRA.

    python tools/trace_sharded.py --cases CASES.json --case sharded-001 --dump peak
    python tools/trace_sharded.py --check CASES.json [--tolerance 0] [ID ...]
    python tools/trace_sharded.py --json '{"config": {...}, "seq": 2048, ...}' --dump backward

Cases have the fields of the planner's sharded memory cases. Tensors are fake and the process group
is PyTorch's fake one, so world sizes and models of any size take seconds. Tensors lie on the CPU
device, since a CPU build of PyTorch knows no other; what a GPU does differently (autocast's
float32 list, the embedding's scratch, which counters lie in host memory) is done here by hand.
--dump as in trace_memory.py. Needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._composable_state import _get_module_state
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.distributed.tensor.parallel import loss_parallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint
from trace_finetune import adapt
from trace_memory import differences, print_rows
from trace_model import FlashAttention, build_config, build_model
from trace_recorder import Moment, Storage
from trace_storages import HOST, StorageTracker, storages_of
from trace_torchtitan import Block, Llama, split_over

Record = dict[str, Any]

# Precision -> (dtype of the stored parameters, dtype of gathered ones, dtype of the reduction)
FSDP_DTYPES = {
    "bf16-mixed": (torch.float32, torch.bfloat16, torch.float32),
    "bf16-pure": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "fp32": (torch.float32, torch.float32, torch.float32),
}
STORED_DTYPES = {"bf16-autocast": torch.float32, "bf16-pure": torch.bfloat16, "fp32": torch.float32}
BUCKET_BYTES = 25 * 2**20  # DDP's default bucket
FIRST_BUCKET_BYTES = 2**20
SCRATCH_FROM = 3072  # tokens from which CUDA's embedding backward sorts and needs scratch
SCRATCH_ROWS = 10  # rows that one of its threads adds up


@contextmanager
def without_shapes(tracker: StorageTracker) -> Iterator[None]:
    """Leave out the operators by which DTensor works out whole tensors' shapes."""
    original = ShardingPropagator._propagate_tensor_meta_non_cached

    def propagate(*arguments: Any, **named: Any) -> Any:
        before, tracker.paused = tracker.paused, True
        try:
            return original(*arguments, **named)
        finally:
            tracker.paused = before

    ShardingPropagator._propagate_tensor_meta_non_cached = propagate  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShardingPropagator._propagate_tensor_meta_non_cached = original  # type: ignore[method-assign]


@contextmanager
def real_meshes() -> Iterator[None]:
    """Let FSDP2 join the data and the tensor mesh: a mesh's ranks must be real numbers."""
    original = DeviceMesh._concatenate

    def concatenate(meshes: list[DeviceMesh]) -> DeviceMesh:
        with unset_fake_temporarily():
            return original(meshes)

    DeviceMesh._concatenate = staticmethod(concatenate)  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeviceMesh._concatenate = staticmethod(original)  # type: ignore[method-assign]


@contextmanager
def gpu_flash() -> Iterator[None]:
    """Let the stand-in attention kernel allocate all that FlashAttention 2 does on a GPU."""
    FlashAttention.on_gpu = True
    try:
        yield
    finally:
        FlashAttention.on_gpu = False


@contextmanager
def gpu_autocast() -> Iterator[None]:
    """Run in float32 the operators that autocast so runs on a GPU and leaves alone on a CPU."""
    places = [(torch, "pow"), (torch.Tensor, "pow"), (nn.functional, "layer_norm")]
    originals = [getattr(place, name) for place, name in places]

    def in_float32(function: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            if torch.is_autocast_enabled("cpu"):
                arguments = tuple(
                    a.float() if isinstance(a, torch.Tensor) and a.dtype == torch.bfloat16 else a
                    for a in arguments
                )
            return function(*arguments, **named)

        return run

    for (place, name), function in zip(places, originals, strict=True):
        setattr(place, name, in_float32(function))
    try:
        yield
    finally:
        for (place, name), function in zip(places, originals, strict=True):
            setattr(place, name, function)


def category(tracker: StorageTracker) -> str:
    """What an unlabelled allocation is: by phase, but for recomputation, which is temporary."""
    return "Activation" if tracker.phase == "forward" else "Temp"


class ShardedTracker(StorageTracker):
    """Knows autocast's copies of parameters and the embedding backward's scratch on a GPU."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        super().__init__(category)
        self._parameters = {id(s) for p in parameters for s in storages_of(p)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._to_copy.default and not isinstance(args[0], DTensor):
            label = self._cast_label(args[0])
            with self.labelled(label) if label else nullcontext():
                return super().__torch_dispatch__(func, types, args, kwargs)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.embedding_dense_backward.default and result is not NotImplemented:
            self._scratch(args[0], args[1], args[2])
        return result

    def _cast_label(self, tensor: torch.Tensor) -> str:
        return "WeightCast" if id(tensor.untyped_storage()) in self._parameters else ""

    def _scratch(self, gradient: torch.Tensor, ids: torch.Tensor, rows: int) -> None:
        if isinstance(gradient, DTensor) or ids.numel() <= SCRATCH_FROM:
            return
        partial = ids.numel() // SCRATCH_ROWS + min(ids.numel(), rows)
        size = 4 * partial * gradient.shape[-1]
        number, last = len(self.storages), self.moments.pop()
        self.storages.append(
            Storage(size, "Temp", self.phase, f"scratch of {last.operator}", last.module)
        )
        self._change(number, size, "Temp")
        self.moments.append(
            Moment(len(self._events), last.operator, last.module, self.phase, self.total)
        )
        self._change(number, -size, "")


@contextmanager
def fsdp_labels(tracker: StorageTracker) -> Iterator[None]:
    """Label what FSDP2 allocates, from outside its code."""
    group, param = _fsdp_param_group, _fsdp_param.FSDPParam
    gather, reduce = group.foreach_all_gather, group.foreach_reduce
    start, allocate = param.init_all_gather_outputs, param.alloc_all_gather_outputs
    unsharded = param.init_unsharded_param

    def labelled(label: str, function: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            with tracker.labelled(label):
                return function(*arguments, **named)

        return run

    def reduced(fsdp_params: Any, *arguments: Any, **named: Any) -> Any:
        with tracker.labelled("Reduce"):
            result = reduce(fsdp_params, *arguments, **named)
        for one in fsdp_params:
            tracker.relabel(one.sharded_param.grad, "Gradient")
        return result

    def init_unsharded(self: Any) -> None:
        first = not hasattr(self, "_unsharded_param")
        unsharded(self)
        if first and self._unsharded_param.requires_grad:
            self._unsharded_param.register_post_accumulate_grad_hook(
                lambda p: tracker.relabel(p.grad, "UnshardedGradient")
            )

    group.foreach_all_gather = labelled("Gather", gather)
    group.foreach_reduce = reduced
    param.init_all_gather_outputs = labelled("Unsharded", start)
    param.alloc_all_gather_outputs = labelled("Unsharded", allocate)
    param.init_unsharded_param = init_unsharded
    try:
        yield
    finally:
        group.foreach_all_gather, group.foreach_reduce = gather, reduce
        param.init_all_gather_outputs, param.alloc_all_gather_outputs = start, allocate
        param.init_unsharded_param = unsharded


# building


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute every layer, without the random state (dropout is off)."""
    if isinstance(model, Llama):
        for layer in model.layers:
            recompute_block(layer)
    else:
        settings = {"use_reentrant": False, "preserve_rng_state": False}
        model.gradient_checkpointing_enable(settings)


def recompute_block(layer: Block) -> None:
    """Let a block of torchtitan's model recompute itself."""
    run = layer.forward

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)

    layer.forward = forward  # type: ignore[method-assign]


def parts(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module], nn.Module, nn.Module]:
    """(embeddings, layers, final norm, head) of a model."""
    if isinstance(model, Llama):
        return [model.tok_embeddings], list(model.layers), model.norm, model.output
    base = model.base_model
    head = model.get_output_embeddings()
    if hasattr(base, "wte"):
        return [base.wte, base.wpe], list(base.h), base.ln_f, head
    return [base.embed_tokens], list(base.layers), base.norm, head


def shard(model: nn.Module, case: Record, mesh: DeviceMesh) -> None:
    """FSDP2 in torchtitan's units."""
    _, gathered, reduced = FSDP_DTYPES[case["precision"]]
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced)
    settings = {"mesh": mesh, "mp_policy": policy}
    reshard = case["sharding"] == "zero3"
    embeddings, layers, norm, head = parts(model)
    tied = head.weight is embeddings[0].weight
    if not tied:
        for embedding in embeddings:
            fully_shard(embedding, reshard_after_forward=reshard, **settings)
    for layer in layers:
        fully_shard(layer, reshard_after_forward=reshard, **settings)
    last = [*(embeddings if tied else ()), norm, head]
    fully_shard(last, reshard_after_forward=False, **settings)
    fully_shard(model, reshard_after_forward=reshard, **settings)


def build_meshes(case: Record) -> dict[str, DeviceMesh]:
    """The GPUs as a grid: data parallel by tensor parallel."""
    tensor = case["tensor_parallel"]
    if case["stack"] != "fsdp2":
        return {}
    if tensor == 1:
        return {"data": init_device_mesh("cpu", (case["world"],), mesh_dim_names=("data",))}
    grid = (case["world"] // tensor, tensor)
    mesh = init_device_mesh("cpu", grid, mesh_dim_names=("data", "tensor"))
    return {"data": mesh["data"], "tensor": mesh["tensor"]}


def build(case: Record, meshes: dict[str, DeviceMesh]) -> nn.Module:
    """The model of a case, split as the case says."""
    config = case["config"] | {"num_hidden_layers": case["layers"]}
    if case["config"]["model_type"] == "gpt2":
        config = case["config"] | {"n_layer": case["layers"]}
    fsdp = case["stack"] == "fsdp2"
    dtype = FSDP_DTYPES[case["precision"]][0] if fsdp else STORED_DTYPES.get(case["precision"])
    if case["finetune"]:
        dtype = torch.bfloat16  # the frozen model
    if case["code"] == "torchtitan":
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model: nn.Module = Llama(build_config(config), case["seq"])
        torch.set_default_dtype(default)
    else:
        model = build_model(config, case["attention"], dtype)
    if case["finetune"]:
        model = adapt(model, case["finetune"], case["precision"])
    model.train()
    if "tensor" in meshes:
        split_over(model, meshes["tensor"])
    if case["checkpointing"]:
        checkpoint_layers(model)
    if "data" in meshes:
        shard(model, case, meshes["data"])
    return model


def build_optimizer(case: Record, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer, with its states made."""
    way = {case["implementation"]: True}
    if case["optimizer"] == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, **way)
    else:
        momentum = 0.9 if case["optimizer"] == "sgd-momentum" else 0.0
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, **way)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


class Buckets:
    """DDP's reducer: flat buckets that live always; gradients are copied, or are views."""

    def __init__(
        self, parameters: list[nn.Parameter], views: bool, tracker: StorageTracker
    ) -> None:
        self.on = True
        self._tracker, self._views = tracker, views
        self._place: dict[nn.Parameter, torch.Tensor] = {}
        for bucket in self._divide(parameters):
            size = sum(p.numel() for p in bucket)
            with tracker.labelled("Bucket"):
                flat = torch.zeros(size, dtype=bucket[0].dtype)
            tracker.hold(flat, "Bucket", "bucket")
            for parameter, part in zip(
                bucket, flat.split([p.numel() for p in bucket]), strict=True
            ):
                self._place[parameter] = part.view(parameter.shape)
                parameter.register_post_accumulate_grad_hook(self._ready)

    @staticmethod
    def _divide(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
        buckets: list[list[nn.Parameter]] = [[]]
        held, limit = 0, FIRST_BUCKET_BYTES
        for parameter in reversed(parameters):
            buckets[-1].append(parameter)
            held += parameter.numel() * parameter.element_size()
            if held >= limit:
                buckets.append([])
                held, limit = 0, BUCKET_BYTES
        return [bucket for bucket in buckets if bucket]

    def _ready(self, parameter: nn.Parameter) -> None:
        self._tracker.relabel(parameter.grad, "Gradient")
        if not self.on:
            return
        place = self._place[parameter]
        with torch.no_grad():
            place.copy_(parameter.grad)
        if self._views:
            parameter.grad = place
            self._tracker.relabel(place, "Bucket")


# running


def hold_state(
    tracker: StorageTracker, model: nn.Module, optimizer: torch.optim.Optimizer, fused: bool
) -> None:
    """Count what was there before the step."""
    for name, parameter in model.named_parameters():
        tracker.hold(parameter, "Parameter", name)
        for state, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                on_host = state == "step" and not fused
                tracker.hold(value, HOST if on_host else "Optstate", f"{state} of {name}")
    for name, buffer in model.named_buffers():
        tracker.hold(buffer, "Buffer", name)
    for module in model.modules():  # FSDP2 keeps the shards' padded flat data besides the DTensor
        state = _get_module_state(module)
        for group in getattr(state, "_fsdp_param_groups", None) or (
            [state._fsdp_param_group] if getattr(state, "_fsdp_param_group", None) else []
        ):
            for one in group.fsdp_params:
                tracker.hold(one._sharded_param_data, "Parameter", one._param_fqn or "")


def loss_of(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss as the code computes it."""
    if isinstance(model, Llama):
        logits = model(ids)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(0, 1))
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def moment_record(tracker: StorageTracker, moment: Moment, logits: int) -> Record:
    """A moment by category, and the logits' share of it."""
    found: Record = tracker.by_category(moment)
    share = sum(
        held
        for one, held, kind in tracker.live_with_category(moment)
        if kind in ("Activation", "Temp") and held in (2 * logits, 4 * logits)
    )
    if share:
        found["of_which_logits"] = share
    return found


class ShardedTrace:
    """One step of a case: its result, and the tracker and saved storages behind it."""

    def __init__(self, case: Record) -> None:
        self.case = case
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", rank=0, world_size=case["world"], store=FakeStore())
        meshes = build_meshes(case)
        with FakeTensorMode(allow_non_fake_inputs=True), gpu_flash(), real_meshes():
            self._run(meshes)

    def _run(self, meshes: dict[str, DeviceMesh]) -> None:
        case = self.case
        model = build(case, meshes)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = build_optimizer(case, trained)
        gc.collect()
        tracker = self.tracker = ShardedTracker(
            list(model.parameters()) if case["precision"] == "bf16-autocast" else []
        )
        hold_state(tracker, model, optimizer, case["implementation"] == "fused")
        tracker.follow_modules(model)
        self.saved: list[Storage] = []
        with ExitStack() as stack:
            if case["precision"] == "bf16-autocast":
                stack.enter_context(gpu_autocast())
            if case["tensor_parallel"] > 1:
                stack.enter_context(loss_parallel())
            stack.enter_context(fsdp_labels(tracker))
            stack.enter_context(without_shapes(tracker))
            buckets = None
            if case["stack"] == "ddp":
                if case["world"] > 1:
                    buckets = Buckets(trained, case["gradient_as_bucket_view"], tracker)
                else:
                    for parameter in trained:
                        parameter.register_post_accumulate_grad_hook(
                            lambda p: tracker.relabel(p.grad, "Gradient")
                        )
            stack.enter_context(tracker)
            self._passes(model, buckets)
            self._start("optimizer")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.result = self._result(model, optimizer, trained)

    def _start(self, phase: str) -> None:
        tracker = self.tracker
        tracker.phase = phase
        start = Moment(len(tracker._events), "(start)", "", phase, tracker.total)
        tracker.moments.append(start)

    def _passes(self, model: nn.Module, buckets: Buckets | None) -> None:
        case, tracker = self.case, self.tracker
        shape = (case["batch"], case["seq"])
        self._start("forward")
        ids = torch.zeros(shape, dtype=torch.int64)
        labels = torch.zeros(shape, dtype=torch.int64)
        self._inputs = ids, labels  # the data loader's batch outlives the step
        for number in range(case["gradient_accumulation"]):
            if buckets:
                buckets.on = number == case["gradient_accumulation"] - 1
            self._start("forward")
            autocast = case["precision"] == "bf16-autocast"
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                loss = loss_of(model, ids, labels)
            tracker.mark("after_forward")
            if number == 0 and not case["checkpointing"]:
                root = loss._local_tensor.grad_fn if isinstance(loss, DTensor) else loss.grad_fn
                root = loss.grad_fn if root is None else root
                excluded = {"Parameter", "Unsharded", "WeightCast", "Buffer", "Gather"}
                self.saved = tracker.saved(root, excluded, self._inputs)
            self._start("backward")
            loss.backward()
            del loss
        tracker.mark("after_backward")

    def _result(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]
    ) -> Record:
        case, tracker = self.case, self.tracker
        tokens = case["batch"] * case["seq"]
        logits = tokens * case["config"].get("vocab_size", 50257) // case["tensor_parallel"]
        marks = {name: moment_record(tracker, m, logits) for name, m in tracker.marks.items()}
        phases = {}
        for phase in ("forward", "backward", "optimizer"):
            moment = tracker.peak_moment(phase=phase)
            operator = moment.operator.split(" in ")[0]
            phases[phase] = moment_record(tracker, moment, logits) | {"op": operator}
        top = max(phases, key=lambda phase: phases[phase]["Total"])
        peak = {name: value for name, value in phases[top].items() if name != "op"}
        parameters = sum(
            p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters()
        )
        adapters = {"trainable_parameters": sum(p.numel() for p in trained)}
        after = marks["after_backward"]
        saved = sum(s.bytes for s in self.saved)
        return {
            "parameters": parameters,
            **(adapters if case["finetune"] else {}),
            "parameter_bytes_per_gpu": after["Parameter"],
            "gradient_bytes_per_gpu": after.get("Gradient", after.get("Bucket", 0)),
            "optimizer_bytes_per_gpu": after.get("Optstate", 0),
            "saved_for_backward": None if case["checkpointing"] else saved,
            **marks,
            "phases": phases,
            "peak_phase": top,
            "peak": peak,
        }


# the command line


def check(records: list[Record], tolerance: float) -> int:
    """Trace cases again and compare; the number whose peak is off by more than the tolerance."""
    wrong = 0
    for record in records:
        expected = record["result"]
        try:
            found = ShardedTrace(record).result
        except Exception as error:  # noqa: BLE001 - one case must not stop the others
            print(record["id"], "failed:", type(error).__name__, str(error)[:300], flush=True)
            wrong += 1
            continue
        lines = differences(expected, found)
        off = found["peak"]["Total"] / expected["peak"]["Total"] - 1
        wrong += abs(off) > tolerance
        kind = f"{record['stack']} {record['code']} {record['precision']}"
        text = "same" if not lines else f"peak off by {off:+.4%}: " + "; ".join(lines)
        print(record["id"], kind, text, flush=True)
    print(f"{len(records) - wrong} of {len(records)} peaks within {tolerance:.2%}")
    return wrong


def dump(traced: ShardedTrace, what: str, full: bool, limit: int) -> None:
    """Print the storages of one moment."""
    tracker = traced.tracker
    if what == "saved" and traced.saved:
        print("held by autograd at the end of the first forward pass:")
        print_rows(traced.saved, full, limit)
        return
    what = "after_forward" if what == "saved" else what
    if what in tracker.marks:
        moment = tracker.marks[what]
    elif what == "peak":
        moment = tracker.peak_moment()
    elif what in ("forward", "backward", "optimizer"):
        moment = tracker.peak_moment(phase=what)
    else:
        moment = tracker.peak_moment(operator=what)
    print(f"{moment.total} bytes after {moment.phase}: {moment.operator}; {moment.module or '-'}")
    print_rows(tracker.live(moment), full, limit)


DEFAULTS = {
    "code": "transformers",
    "world": 1,
    "tensor_parallel": 1,
    "stack": "ddp",
    "sharding": "none",
    "gradient_as_bucket_view": False,
    "precision": "bf16-pure",
    "optimizer": "adamw",
    "implementation": "foreach",
    "attention": "flash",
    "checkpointing": False,
    "gradient_accumulation": 1,
    "finetune": None,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", metavar="CASES")
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--cases")
    parser.add_argument("--case")
    parser.add_argument("--json", help="a case as JSON; left out fields: one GPU, bf16-pure, AdamW")
    parser.add_argument("--dump", action="append", default=[], metavar="MOMENT")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("ids", nargs="*", help="with --check: only these")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if arguments.check:
        records = json.loads(Path(arguments.check).read_text())
        chosen = [r for r in records if not arguments.ids or r["id"] in arguments.ids]
        return int(check(chosen, arguments.tolerance) > 0)
    if arguments.json:
        case = DEFAULTS | json.loads(arguments.json)
        case.setdefault("layers", case["config"].get("num_hidden_layers"))
    else:
        records = json.loads(Path(arguments.cases).read_text())
        case = next(r for r in records if r["id"] == arguments.case)
    traced = ShardedTrace(DEFAULTS | case)
    print(json.dumps(traced.result))
    for what in arguments.dump:
        print()
        dump(traced, what, arguments.full, arguments.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
