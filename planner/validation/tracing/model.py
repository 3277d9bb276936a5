"""Build a Transformers causal model: dropout off, attention as Transformers' eager code or "flash".

"flash" is a stand-in for a fused kernel: it saves q, k, v, out and a float32 log-sum-exp per row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FLASH = "fused_attention"  # "flash" in the name would make Transformers look for a kernel package


class FlashAttention(torch.autograd.Function):
    """What a fused attention kernel allocates and saves, without its mathematics."""

    on_gpu = False  # also FlashAttention 2's random state and its backward pass's accumulators

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        batch, length, heads, _ = query.shape
        out = query.new_empty((batch, length, heads, value.shape[-1]))
        log_sum_exp = query.new_empty((batch, heads, length), dtype=torch.float32)
        held = [query, key, value, out, log_sum_exp]
        if FlashAttention.on_gpu:
            held.append(query.new_empty(2, dtype=torch.int64))
        ctx.save_for_backward(*held)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        query, key, value, _, log_sum_exp, *_ = ctx.saved_tensors
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        if FlashAttention.on_gpu:
            scratch = [torch.empty_like(query, dtype=torch.float32), torch.empty_like(log_sum_exp)]
            if key.shape[2] != query.shape[2]:  # summed over the group after the kernel
                shape = (*key.shape[:2], query.shape[2])
                scratch += [key.new_empty((*shape, t.shape[-1])) for t in (key, value)]
            del scratch
        return gradients


def flash_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any
) -> tuple[Any, None]:
    """Transformers' attention interface around the stand-in (batch, heads, length, head_dim)."""
    inputs = [query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)]
    if torch.is_autocast_enabled("cpu"):  # the kernel knows no float32
        inputs = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in inputs]
    return FlashAttention.apply(*inputs), None


ALL_ATTENTION_FUNCTIONS.register(FLASH, flash_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(FLASH, lambda *_, **__: None)


def without_dropout(config: transformers.PretrainedConfig) -> None:
    """Set every dropout probability of a config and its nested configs to zero."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            without_dropout(value)
        elif ("drop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


def build_config(config: Mapping[str, Any]) -> transformers.PretrainedConfig:
    """The config object of a config.json, dropout off."""
    built = transformers.CONFIG_MAPPING[config["model_type"]](**config)
    without_dropout(built)
    return built


def build_model(config: Mapping[str, Any], attention: str, dtype: torch.dtype) -> torch.nn.Module:
    """The causal model of a config."""
    built = build_config(config)
    make = transformers.AutoModelForCausalLM.from_config
    if attention == "flash":
        try:
            return make(built, attn_implementation=FLASH, dtype=dtype)
        except (ValueError, KeyError) as error:  # a family with its own table of attention classes
            warnings.warn(f"eager attention instead of flash: {error}", stacklevel=2)
    return make(built, attn_implementation="eager", dtype=dtype)


@contextmanager
def plain_conversion() -> Iterator[None]:
    """Let `module.to(...)` make new parameters: fake ones cannot be swapped in place."""
    original = torch.nn.Module._apply

    def apply(self: Any, function: Any, recurse: bool = True) -> Any:
        for module in self.modules() if recurse else [self]:
            for name, one in module._parameters.items():
                if one is not None:
                    made = torch.nn.Parameter(function(one.detach()), one.requires_grad)
                    module._parameters[name] = made
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = function(buffer)
        return self

    torch.nn.Module._apply = apply
    try:
        yield
    finally:
        torch.nn.Module._apply = original
