"""LoRA and QLoRA models for traces: peft's adapters, and NF4 linears with double quantization.

The NF4 linear holds half a byte a weight, one uint8 scale per 64 weights and one float32 scale
per 256 of those; both passes expand one linear's weights to the compute dtype and drop them again,
as bitsandbytes' kernels do.
"""

from __future__ import annotations

from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from planner.training.recipe import Finetune
from planner.validation.tracing.model import plain_conversion

BLOCK = 64  # weights per first scale
NESTED_BLOCK = 256  # first scales per second scale


class Expanded(torch.autograd.Function):
    """A product with weights that are expanded for it, and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, bias: Any, layer: Any) -> Any:
        ctx.layer = layer
        return torch.nn.functional.linear(hidden, layer.expand(hidden.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return torch.matmul(gradient, ctx.layer.expand(gradient.dtype)), None, None


class QuantizedLinear(nn.Linear):
    """A frozen linear in NF4. A subclass of nn.Linear, so that peft adapts it."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        size = linear.weight.numel()
        packed = torch.zeros((size // 2, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        blocks = -(-size // BLOCK)
        self.register_buffer("scales", torch.zeros(blocks, dtype=torch.uint8))
        self.register_buffer("nested_scales", torch.zeros(-(-blocks // NESTED_BLOCK)))
        self.register_buffer("code", torch.zeros(16))
        self.register_buffer("offset", torch.zeros(()))

    def expand(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights in the compute dtype; the first scales are expanded to float32 for it."""
        scales = torch.empty(self.scales.shape, dtype=torch.float32)
        weights = torch.empty((self.out_features, self.in_features), dtype=dtype)
        del scales
        return weights

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return Expanded.apply(hidden, self.bias, self)


def quantized_forward(self: Any, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """The adapted forward pass that peft uses for 4-bit linears."""
    result = self.base_layer(hidden).clone()
    for name in self.active_adapters:
        adapted = self.lora_B[name](self.lora_A[name](hidden)) * self.scaling[name]
        result = result + adapted
    return result


def quantize_layers(model: nn.Module) -> None:
    """Replace every linear of the layers (not the head)."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name not in ("lm_head", "embed_out"):
                setattr(module, name, QuantizedLinear(child))


def adapt(model: nn.Module, finetune: Finetune, precision: str) -> nn.Module:
    """The model with adapters: float32, or bfloat16 for bf16-pure."""
    if finetune.method == "qlora":
        quantize_layers(model)
    settings = peft.LoraConfig(
        r=finetune.rank,
        lora_alpha=2 * finetune.rank,
        lora_dropout=0.0,
        target_modules=list(finetune.targets),
        task_type="CAUSAL_LM",
    )
    with plain_conversion():
        adapted = peft.get_peft_model(
            model, settings, autocast_adapter_dtype=precision != "bf16-pure"
        )
    for module in adapted.modules():
        if isinstance(module, LoraLinear) and isinstance(module.base_layer, QuantizedLinear):
            module.forward = quantized_forward.__get__(module)
    return adapted
