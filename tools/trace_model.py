"""Build a Transformers causal model on fake tensors and run one training step of it.

One step is forward with labels, backward, optimizer step, gradients set to none, in a steady state
(the optimizer's states exist). Dropout is off. Attention is Transformers' eager code, or "flash":
a stand-in for a fused kernel that saves q, k, v, out and a float32 log-sum-exp per row.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from trace_recorder import Recorder, Storage, saved_storages
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FLASH = "fused_attention"  # "flash" in the name would make Transformers look for a kernel package


class FlashAttention(torch.autograd.Function):
    """What a fused attention kernel allocates and saves, without its mathematics."""

    on_gpu = False  # also FlashAttention 2's random state and its backward pass's accumulators

    @staticmethod
    def forward(ctx, query, key, value):  # type: ignore[no-untyped-def]
        batch, length, heads, _ = query.shape
        out = query.new_empty((batch, length, heads, value.shape[-1]))
        log_sum_exp = query.new_empty((batch, heads, length), dtype=torch.float32)
        held = [query, key, value, out, log_sum_exp]
        if FlashAttention.on_gpu:
            held.append(query.new_empty(2, dtype=torch.int64))
        ctx.save_for_backward(*held)
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        query, key, value, _, log_sum_exp, *_ = ctx.saved_tensors
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        if FlashAttention.on_gpu:
            scratch = [torch.empty_like(query, dtype=torch.float32), torch.empty_like(log_sum_exp)]
            if key.shape[2] != query.shape[2]:  # summed over the group after the kernel
                shape = (*key.shape[:2], query.shape[2])
                scratch += [key.new_empty((*shape, t.shape[-1])) for t in (key, value)]
            del scratch
        return gradients


def flash_attention(module, query, key, value, attention_mask, **_):  # type: ignore[no-untyped-def]
    """Transformers' attention interface around the stand-in (batch, heads, length, head_dim)."""
    inputs = [query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)]
    if torch.is_autocast_enabled("cpu"):  # the kernel knows no float32
        inputs = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in inputs]
    return FlashAttention.apply(*inputs), None


ALL_ATTENTION_FUNCTIONS.register(FLASH, flash_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(FLASH, lambda *_, **__: None)


@dataclass(frozen=True)
class Case:
    """One traced step. `config` is as in config.json; its num_hidden_layers is what is traced."""

    config: dict[str, Any]
    seq: int
    batch: int
    attention: str  # flash | eager
    checkpointing: bool
    dtype: str  # bfloat16 | float32
    optimizer: str  # adamw | sgd | sgd-momentum


@dataclass
class Trace:
    """What one step showed: bytes by category at the named moments, and the recorder."""

    result: dict[str, Any]
    recorder: Recorder
    saved: list[Storage]  # empty with checkpointing
    attention: str  # what the model really ran; some families have eager code only


def without_dropout(config: transformers.PretrainedConfig) -> None:
    """Set every dropout probability of a config and its nested configs to zero."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            without_dropout(value)
        elif ("drop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


def build_config(config: dict[str, Any]) -> transformers.PretrainedConfig:
    """The config object of a config.json, dropout off."""
    built = transformers.CONFIG_MAPPING[config["model_type"]](**config)
    without_dropout(built)
    return built


def build_model(config: dict[str, Any], attention: str, dtype: torch.dtype) -> torch.nn.Module:
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

    def apply(self, function, recurse=True):  # type: ignore[no-untyped-def]
        for module in self.modules() if recurse else [self]:
            for name, one in module._parameters.items():
                if one is not None:
                    made = torch.nn.Parameter(function(one.detach()), one.requires_grad)
                    module._parameters[name] = made
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = function(buffer)
        return self

    torch.nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module._apply = original  # type: ignore[method-assign]


def build_optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a case, foreach (PyTorch's default on a GPU)."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, foreach=True)
    momentum = {"sgd": 0.0, "sgd-momentum": 0.9}[name]
    return torch.optim.SGD(parameters, lr=0.1, momentum=momentum, foreach=True)


def trace(case: Case) -> Trace:
    """Run one step of a case on fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model(case.config, case.attention, getattr(torch, case.dtype))
        model.train()
        if case.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        parameters = list(model.parameters())
        optimizer = build_optimizer(case.optimizer, parameters)
        for parameter in parameters:  # a first step makes the optimizer's states
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ids = torch.zeros((case.batch, case.seq), dtype=torch.int64)
        gc.collect()
        recorder = Recorder()
        recorder.track_external(model, optimizer)
        recorder.name_state(model, optimizer)
        with recorder:
            recorder.phase = "forward"
            output = model(input_ids=ids, labels=ids, use_cache=False)
            after_forward = recorder.mark("after_forward")
            loss = output.loss
            del output
            saved = []
            if not case.checkpointing:  # reading what a checkpoint saved would recompute it
                saved = saved_storages(recorder, loss.grad_fn, [*parameters, *model.buffers()])
            recorder.phase = "backward"
            loss.backward()
            del loss
            after_backward = recorder.mark("after_backward")
            recorder.phase = "optimizer"
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    flash = any("FlashAttentionBackward" in moment.operator for moment in recorder.moments)
    result = {
        "params": sum(p.numel() * p.element_size() for p in parameters),
        "saved_for_backward": None if case.checkpointing else sum(s.bytes for s in saved),
        "after_forward": after_forward,
        "after_backward": after_backward,
        "peak": recorder.snapshot("peak"),
    }
    return Trace(result, recorder, saved, "flash" if flash else "eager")
