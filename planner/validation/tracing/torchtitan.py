"""torchtitan's Llama in its essentials, for traces: its operators and its tensor-parallel plan.

What differs from Transformers' Llama: one fused kernel per RMSNorm, the rotary embedding as a
complex product in float32, and the loss outside the model on float32 logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from planner.validation.tracing.model import FlashAttention


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on this GPU."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def like(made: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """A local result placed as the model tensor is."""
    if not isinstance(model, DTensor):
        return made
    return DTensor.from_local(made, model.device_mesh, model.placements, run_check=False)


class FusedNorm(torch.autograd.Function):
    """RMSNorm as one kernel: keeps its input and one float32 scale per token."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any) -> Any:
        out = torch.empty_like(local(hidden))
        scale = out.new_empty((*out.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, scale)
        return like(out, hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        hidden, weight, _ = ctx.saved_tensors
        hidden_gradient = torch.empty_like(local(gradient))
        weight_gradient = torch.empty_like(local(weight))
        if isinstance(weight, DTensor):
            weight_gradient = DTensor.from_local(
                weight_gradient, weight.device_mesh, [Partial()], run_check=False
            )
        return like(hidden_gradient, hidden), weight_gradient


class Norm(nn.Module):
    """RMSNorm with a weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return FusedNorm.apply(hidden, self.weight)


def rotate(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The rotary embedding of (batch, length, heads, head_dim) as a complex product."""
    pairs = torch.view_as_complex(heads.float().reshape(*heads.shape[:-1], -1, 2))
    turned = pairs * angles[: heads.shape[1]].view(1, heads.shape[1], 1, -1)
    return torch.view_as_real(turned).flatten(3).type_as(heads)


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.wq = nn.Linear(config.hidden_size, queries, bias=False)
        self.wk = nn.Linear(config.hidden_size, keys, bias=False)
        self.wv = nn.Linear(config.hidden_size, keys, bias=False)
        self.wo = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        batch, length, _ = hidden.shape
        query, key, value = self.wq(hidden), self.wk(hidden), self.wv(hidden)
        query = rotate(query.view(batch, length, -1, self.head_dim), angles)
        key = rotate(key.view(batch, length, -1, self.head_dim), angles)
        value = value.view(batch, length, -1, self.head_dim)
        return self.wo(FlashAttention.apply(query, key, value).view(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(hidden)) * self.w3(hidden))


class Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = Norm(config.hidden_size)
        self.ffn_norm = Norm(config.hidden_size)

    def forward(self, hidden: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), angles)
        return hidden + self.feed_forward(self.ffn_norm(hidden))


class Llama(nn.Module):
    """torchtitan's Llama 3; the config is Transformers' LlamaConfig, untied."""

    def __init__(self, config: Any, length: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        angles = torch.zeros((length, config.head_dim // 2), dtype=torch.complex64)
        self.register_buffer("angles", angles, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.tok_embeddings(ids)
        for layer in self.layers:
            hidden = layer(hidden, self.angles)
        return self.output(self.norm(hidden))


def split_over(model: Llama, mesh: DeviceMesh) -> None:
    """torchtitan's tensor-parallel plan: sequence-parallel norms, loss on split logits."""
    parallelize_module(
        model,
        mesh,
        {
            "tok_embeddings": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "norm": SequenceParallel(),
            "output": ColwiseParallel(
                input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False
            ),
        },
    )
    for layer in model.layers:
        parallelize_module(
            layer,
            mesh,
            {
                "attention_norm": SequenceParallel(),
                "attention": PrepareModuleInput(
                    input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)
                ),
                "attention.wq": ColwiseParallel(),
                "attention.wk": ColwiseParallel(),
                "attention.wv": ColwiseParallel(),
                "attention.wo": RowwiseParallel(output_layouts=Shard(1)),
                "ffn_norm": SequenceParallel(),
                "feed_forward": PrepareModuleInput(
                    input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
                ),
                "feed_forward.w1": ColwiseParallel(),
                "feed_forward.w2": RowwiseParallel(output_layouts=Shard(1)),
                "feed_forward.w3": ColwiseParallel(),
            },
        )
