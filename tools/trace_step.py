"""One training step of a sharded case, traced: what its record says, and what is behind it."""

from __future__ import annotations

import gc
from contextlib import ExitStack, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._composable_state import _get_module_state
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from trace_gpu import (
    ShardedTracker,
    fsdp_labels,
    gpu_autocast,
    gpu_flash,
    real_meshes,
    without_shapes,
)
from trace_layout import Buckets, Record, build, build_meshes, build_optimizer
from trace_recorder import Moment, Storage
from trace_storages import HOST, StorageTracker
from trace_torchtitan import Llama


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
