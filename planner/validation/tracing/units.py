"""A case's model, mesh and optimizer: torchtitan's FSDP2 units, adapters, checkpointed layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from planner.errors import InputError
from planner.training.layout import Sharding
from planner.validation.traced import TracedCase
from planner.validation.tracing.adapters import adapt
from planner.validation.tracing.model import build_config, build_model
from planner.validation.tracing.torchtitan import Block, Llama, split_over

# Precision -> (dtype of the stored parameters, dtype of gathered ones, dtype of the reduction)
FSDP_DTYPES = {
    "bf16-mixed": (torch.float32, torch.bfloat16, torch.float32),
    "bf16-pure": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "fp32": (torch.float32, torch.float32, torch.float32),
}
STORED_DTYPES = {"bf16-autocast": torch.float32, "bf16-pure": torch.bfloat16, "fp32": torch.float32}


def checkpoint_layers(model: nn.Module, preserve_rng_state: bool) -> None:
    """Recompute every layer."""
    settings = {"use_reentrant": False, "preserve_rng_state": preserve_rng_state}
    if not isinstance(model, Llama):
        model.gradient_checkpointing_enable(settings)
        return
    for layer in model.layers:
        recompute_block(layer, settings)


def recompute_block(layer: Block, settings: dict[str, bool]) -> None:
    """Let a block of torchtitan's model recompute itself."""
    run = layer.forward

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        return checkpoint(run, *inputs, **settings)

    layer.forward = forward  # type: ignore[assignment] # same call, other signature


def parts(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """(embeddings, layers, [final norm ..., head]) of a model.

    The layers are its outermost list of modules. What is defined beside them and has parameters
    comes before them, but for what is defined after them or is called final.
    """
    if isinstance(model, Llama):
        return [model.tok_embeddings], list(model.layers), [model.norm, model.output]
    found = next(
        ((n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)), None
    )
    head = model.get_output_embeddings()
    if found is None or head is None:
        raise InputError(
            f"{type(model).__name__} has no list of layers, or no head: no FSDP2 units"
        )
    name, layers = found
    parent = model.get_submodule(name.rpartition(".")[0])
    before: list[nn.Module] = []
    after: list[nn.Module] = []
    behind = False
    for child_name, child in parent.named_children():
        behind = behind or child is layers
        if child is layers or child is head or not any(True for _ in child.parameters()):
            continue
        (after if behind or "final" in child_name else before).append(child)
    return before, list(layers), [*after, head]


def shard(model: nn.Module, case: TracedCase, mesh: DeviceMesh) -> None:
    """FSDP2 in torchtitan's units."""
    _, gathered, reduced = FSDP_DTYPES[case.recipe.precision]
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced)
    settings = {"mesh": mesh, "mp_policy": policy}
    reshard = case.layout.sharding == Sharding.zero3
    embeddings, layers, end = parts(model)
    tied = end[-1].weight is getattr(embeddings[0], "weight", None)
    if not tied:
        for embedding in embeddings:
            fully_shard(embedding, reshard_after_forward=reshard, **settings)
    for layer in layers:
        fully_shard(layer, reshard_after_forward=reshard, **settings)
    last = [*(embeddings if tied else ()), *end]
    fully_shard(last, reshard_after_forward=False, **settings)
    fully_shard(model, reshard_after_forward=reshard, **settings)


def is_gathered(case: TracedCase) -> bool:
    """Whether FSDP2 holds the parameters."""
    return case.layout.stack != "ddp"


def build_meshes(case: TracedCase) -> dict[str, DeviceMesh]:
    """The GPUs as a grid: data parallel by tensor parallel."""
    if not is_gathered(case):
        return {}
    data, tensor = int(case.layout.data_parallel), int(case.layout.tensor_parallel)
    if tensor == 1:
        return {"data": init_device_mesh("cpu", (data,), mesh_dim_names=("data",))}
    mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=("data", "tensor"))
    return {"data": mesh["data"], "tensor": mesh["tensor"]}


def stored_dtype(case: TracedCase) -> torch.dtype:
    """Of the parameters as they lie in memory; under adapters of the frozen model."""
    if case.recipe.finetune:
        return torch.bfloat16
    if is_gathered(case):
        return FSDP_DTYPES[case.recipe.precision][0]
    return STORED_DTYPES[case.recipe.precision]


def build(case: TracedCase, meshes: dict[str, DeviceMesh]) -> nn.Module:
    """The model of a case, split as the case says."""
    dtype = stored_dtype(case)
    if case.layout.stack == "torchtitan":
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model: nn.Module = Llama(build_config(case.config), case.recipe.sequence_length)
        torch.set_default_dtype(default)
    else:
        model = build_model(case.config, case.recipe.attention, dtype)
    if case.recipe.finetune:
        model = adapt(model, case.recipe.finetune, case.recipe.precision)
    model.train()
    if "tensor" in meshes:
        split_over(model, meshes["tensor"])
    if case.recomputes:  # dropout is off: a GPU's run need not keep the random state
        checkpoint_layers(model, preserve_rng_state=not case.on_gpu)
    if "data" in meshes:
        shard(model, case, meshes["data"])
    return model


def build_optimizer(case: TracedCase, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer, with its states made."""
    way = {"fused" if case.fused_optimizer else "foreach": True}
    if case.recipe.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, **way)
    else:
        momentum = 0.9 if case.recipe.optimizer == "sgd-momentum" else 0.0
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, **way)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer
