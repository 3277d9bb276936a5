"""A sharded case's model, mesh and optimizer: torchtitan's FSDP2 units, DDP's buckets, adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from trace_finetune import adapt
from trace_model import build_config, build_model
from trace_storages import StorageTracker
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
