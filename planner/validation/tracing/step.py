"""One training step of a case, traced: the moments, and every storage behind them.

One step is forward with labels, backward, optimizer step, gradients set to none, in a steady state
(the optimizer's states exist), as rank 0 sees it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._composable_state import _get_module_state
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from planner.validation.traced import TracedCase
from planner.validation.tracing.buckets import Buckets
from planner.validation.tracing.gpu import (
    GpuTracker,
    fsdp_labels,
    gpu_autocast,
    gpu_flash,
    real_meshes,
    without_shapes,
)
from planner.validation.tracing.storage import Moment, Storage
from planner.validation.tracing.torchtitan import Llama
from planner.validation.tracing.tracker import GIVEN, HOST, StorageTracker
from planner.validation.tracing.units import build, build_meshes, build_optimizer, is_gathered

Given = tuple[torch.Tensor, torch.Tensor]  # token ids and labels
PHASES = ("forward", "backward", "optimizer")
# What is no activation though autograd keeps it.
NOT_SAVED = {"Parameter", "Unsharded", "WeightCast", "Buffer", "Gather"}


def hold_state(
    tracker: StorageTracker, model: nn.Module, optimizer: torch.optim.Optimizer, steps: str
) -> None:
    """Count what was there before the step; steps: the category of AdamW's step counters."""
    for name, parameter in model.named_parameters():
        tracker.hold(parameter, "Parameter", name)
        for state, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                category = steps if state == "step" else "Optstate"
                tracker.hold(value, category, f"{state} of {name}")
    for name, buffer in model.named_buffers():
        tracker.hold(buffer, "Buffer", name)
    for module in model.modules():  # FSDP2 keeps the shards' padded flat data besides the DTensor
        state = _get_module_state(module)
        for group in getattr(state, "_fsdp_param_groups", None) or (
            [state._fsdp_param_group] if getattr(state, "_fsdp_param_group", None) else []
        ):
            for one in group.fsdp_params:
                tracker.hold(one._sharded_param_data, "Parameter", one._param_fqn or "")


def forward_pass(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    """The loss as the code computes it, and what else the model gives back."""
    if isinstance(model, Llama):
        logits = model(ids)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(0, 1))
        return loss, None
    output = model(input_ids=ids, labels=labels, use_cache=False)
    return output.loss, output


def cpu_category(tracker: StorageTracker) -> str:
    """What an allocation is to PyTorch's MemTracker, by which traces of one device count."""
    if tracker.phase == "optimizer":
        return "Optstate"
    # Recomputation has gradients on; the gradient with which a backward pass begins is made before
    # autograd's engine runs.
    in_backward = torch._C._current_autograd_node() is not None and not torch.is_grad_enabled()
    return "Temp" if in_backward else "Activation"


class StepTrace:
    """The step of a case: tracker, saved storages (empty with recomputation), attention."""

    def __init__(self, case: TracedCase) -> None:
        self.case = case
        self.saved: list[Storage] = []
        world = int(case.layout.gpus) if is_gathered(case) else 1
        with ExitStack() as stack:
            stack.enter_context(process_group(world))
            meshes = build_meshes(case)
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            if case.on_gpu:
                stack.enter_context(gpu_flash())
            stack.enter_context(real_meshes())
            self._run(meshes)

    @property
    def attention(self) -> str:
        """What the model really ran; some families have eager code only."""
        flash = any("FlashAttentionBackward" in m.operator for m in self.tracker.moments)
        return "flash" if flash else "eager"

    def _run(self, meshes: dict[str, DeviceMesh]) -> None:
        case = self.case
        autocast = case.recipe.precision == "bf16-autocast"
        model = build(case, meshes)
        self.elements = parameter_elements(model.parameters())
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trained_elements = parameter_elements(trained)
        optimizer = build_optimizer(case, trained)
        gc.collect()
        if case.on_gpu:
            tracker: StorageTracker = GpuTracker(list(model.parameters()) if autocast else [])
        else:
            tracker = StorageTracker(cpu_category)
        self.tracker = tracker
        steps = HOST if case.on_gpu and not case.fused_optimizer else "Optstate"
        hold_state(tracker, model, optimizer, steps)
        tracker.follow_modules(model)
        with ExitStack() as stack:
            if autocast:
                stack.enter_context(gpu_autocast())
            if "tensor" in meshes:
                stack.enter_context(loss_parallel())
            stack.enter_context(fsdp_labels(tracker))
            stack.enter_context(without_shapes(tracker))
            buckets = None
            if not is_gathered(case):
                buckets = self._reduce(trained)
            if not case.on_gpu:  # the batch is the caller's
                given = self._inputs()
            stack.enter_context(tracker)
            self._start("forward")
            if case.on_gpu:  # the data loader's batch is counted, and outlives the step
                given = self._inputs()
            self._passes(model, given, buckets, autocast)
            self._start("optimizer")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _reduce(self, trained: list[nn.Parameter]) -> Buckets | None:
        """DDP's buckets; on one GPU the gradients alone, told by their category."""
        tracker = self.tracker
        if int(self.case.layout.data_parallel) > 1:
            return Buckets(trained, self.case.bucket_views, tracker)
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(
                lambda p: tracker.relabel(p.grad, "Gradient")
            )
        return None

    def _start(self, phase: str) -> None:
        tracker = self.tracker
        tracker.phase = phase
        start = Moment(len(tracker._events), "(start)", "", phase, tracker.total)
        tracker.moments.append(start)

    def _inputs(self) -> Given:
        """Token ids and labels. Traces of one device have one tensor for both, made outside."""
        layout, recipe = self.case.layout, self.case.recipe
        shape = (int(layout.micro_batch_size), recipe.sequence_length)
        ids = torch.zeros(shape, dtype=torch.int64)
        if self.case.on_gpu:
            return ids, torch.zeros(shape, dtype=torch.int64)
        return ids, ids

    def _passes(
        self, model: nn.Module, given: Given, buckets: Buckets | None, autocast: bool
    ) -> None:
        case, tracker = self.case, self.tracker
        passes = int(case.layout.gradient_accumulation_steps)
        for number in range(passes):
            if buckets:
                buckets.on = number == passes - 1
            self._start("forward")
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                loss, rest = forward_pass(model, *given)
            if case.on_gpu:
                del rest
                tracker.mark("after_forward")
            else:  # the caller holds the logits
                tracker.mark("after_forward")
                del rest
            if number == 0 and not case.recomputes:
                self.saved = self._saved_by(loss, given)
            self._start("backward")
            loss.backward()
            del loss
        tracker.mark("after_backward")

    def _saved_by(self, loss: Any, given: Given) -> list[Storage]:
        """What autograd holds of a loss; traces of one device count the step's inputs with it."""
        root = loss._local_tensor.grad_fn if isinstance(loss, DTensor) else loss.grad_fn
        root = loss.grad_fn if root is None else root
        if self.case.on_gpu:
            return self.tracker.saved(root, NOT_SAVED, given)
        for tensor in given:
            self.tracker.hold(tensor, GIVEN, "input")
        return self.tracker.saved(root, NOT_SAVED, ())

    def moment(self, what: str) -> Moment:
        """The moment of a name: a mark, the peak, a phase's highest, or an operator's."""
        if what in self.tracker.marks:
            return self.tracker.marks[what]
        if what == "peak":
            return self.tracker.peak_moment()
        if what in PHASES:
            return self.tracker.peak_moment(phase=what)
        return self.tracker.peak_moment(operator=what)


@contextmanager
def process_group(world: int) -> Iterator[None]:
    """PyTorch's fake process group, where several GPUs share the parameters."""
    if world == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def parameter_elements(parameters: Any) -> int:
    """Elements of parameters; a byte of uint8 holds two (NF4)."""
    return sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in parameters)
