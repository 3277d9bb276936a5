"""What a GPU and FSDP2 do that a trace on CPU tensors must be told: labels, casts, scratch.

Each context manager replaces a function of PyTorch while a step is traced and puts it back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator

from planner.validation.tracing.model import FlashAttention
from planner.validation.tracing.storage import Moment, Storage
from planner.validation.tracing.tracker import StorageTracker, storages_of

# References to a tensor, and to its storage, that only the operator's own call holds.
LONE_TENSOR, LONE_STORAGE = 4, 2
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

    ShardingPropagator._propagate_tensor_meta_non_cached = propagate
    try:
        yield
    finally:
        ShardingPropagator._propagate_tensor_meta_non_cached = original


@contextmanager
def real_meshes() -> Iterator[None]:
    """Let FSDP2 join the data and the tensor mesh: a mesh's ranks must be real numbers."""
    original = DeviceMesh._concatenate

    def concatenate(meshes: list[DeviceMesh]) -> DeviceMesh:
        with unset_fake_temporarily():
            return original(meshes)

    DeviceMesh._concatenate = staticmethod(concatenate)
    try:
        yield
    finally:
        DeviceMesh._concatenate = staticmethod(original)


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


def caller() -> str:
    """The function that called the operator in hand, behind PyTorch's own wrappers of a mode."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_name in ("inner", "_fn"):
        frame = frame.f_back
    return frame.f_code.co_name if frame is not None else ""


class GpuTracker(StorageTracker):
    """Knows autocast's copies of parameters and the embedding backward's scratch on a GPU."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        super().__init__(category)
        self._parameters = {id(s) for p in parameters for s in storages_of(p)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and not isinstance(args[0], DTensor):
            label = self._cast_label(args[0])
            with self.labelled(label) if label else nullcontext():
                return super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.add.Tensor and self._adds_in_place(args[0]):
            return args[0]
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.native_layer_norm.default and result is not NotImplemented:
            self._widen(result)
        if func is torch.ops.aten.embedding_dense_backward.default and result is not NotImplemented:
            self._scratch(args[0], args[1], args[2])
        return result

    def _cast_label(self, tensor: torch.Tensor) -> str:
        return "WeightCast" if id(tensor.untyped_storage()) in self._parameters else ""

    @staticmethod
    def _adds_in_place(held: torch.Tensor) -> bool:
        """Whether autograd would add a second gradient into the first, were it no fake tensor.

        It does so if nobody else holds the first one: neither its tensor nor, as a view's base
        does, its storage.
        """
        if torch.is_grad_enabled() or caller() != "_engine_run_backward":
            return False
        users = torch._C._storage_Use_Count(held.untyped_storage()._cdata)
        return not held._is_view() and held._use_count() == LONE_TENSOR and users == LONE_STORAGE

    def _widen(self, outputs: tuple[torch.Tensor, ...]) -> None:
        """A layer norm's statistics are float32 on a GPU, of the input's dtype on a CPU."""
        for statistic in outputs[1:]:
            number = self._number(statistic.untyped_storage())
            if statistic.dtype == torch.bfloat16 and number is not None:
                size = self.storages[number].bytes
                self.storages[number].bytes *= 2
                self._change(number, size, "")
        last = self.moments.pop()
        self.moments.append(
            Moment(len(self._events), last.operator, last.module, self.phase, self.total)
        )

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
