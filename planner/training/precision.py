"""Precision words: with which element sizes a policy keeps and computes, under each kind of stack.

A policy has element sizes [bytes] for the stored parameters, the compute, the gradients as the
backward pass makes them, the gradients as they are kept, the reduction between GPUs, and the
master copy that the optimizer updates (0: it updates the parameters themselves).
Words as in the design: fp32, bf16-mixed, bf16-autocast, bf16-pure, fp16-mixed, fp8-mixed,
mxfp8-mixed, nvfp4-mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.errors import InputError, unknown
from planner.training.recipe import Recipe


@dataclass(frozen=True)
class Precision:
    """Element sizes in bytes; `product` is the dtype of the matrix products.

    quantised_weight  the copies of a matrix in the format of the products
    quantised_alone   they are all that is kept of it: no wide weight beside them
    quantised_input   a product keeps its input in that format for the backward pass (0: as it is)
    exchanged_input   the same as tensor-parallel ranks gather it (0: as it is computed with)
    step_gradient     the copies of the gradients that the optimizer makes for its step
    """

    name: str
    parameter: float
    compute: int
    gradient: float
    reduce: float
    master: float
    product: str
    autocast: bool = False
    quantised_weight: float = 0.0
    quantised_alone: bool = False
    quantised_input: float = 0.0
    exchanged_input: float = 0.0
    step_gradient: float = 0.0

    @property
    def updated(self) -> float:
        """Element size of the tensor that the optimizer updates."""
        return self.master or self.parameter

    @property
    def gathered(self) -> float:
        """Element size in which parameters are gathered: narrow ones where no wide one is kept."""
        return self.quantised_input if self.quantised_alone else self.compute


_BF16_PURE = Precision("bf16-pure", 2, 2, 2, 2, 0, "bf16")
_FP32 = Precision("fp32", 4, 4, 4, 4, 0, "tf32")
_AUTOCAST = Precision("bf16-autocast", 4, 2, 4, 4, 0, "bf16", autocast=True)

# bf16-mixed by stack. FSDP's kin keep float32 shards and gather them as bf16; Megatron-Core keeps
# bf16 weights, float32 main gradients and a float32 master copy; DeepSpeed bf16 gradients, which
# its optimizer joins to one flat tensor and casts to float32 for the step, before either is freed
# (runtime/zero/stage_1_and_2.py, step); under Megatron's model bf16 gradients and their float32 sum
# (runtime/bf16_optimizer.py).
_MIXED = {
    "fsdp2": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "torchtitan": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "fsdp": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "megatron": Precision("bf16-mixed", 2, 2, 4, 4, 4, "bf16"),
    "megatron-deepspeed": Precision("bf16-mixed", 2, 2, 6, 2, 4, "bf16"),
    "deepspeed": Precision("bf16-mixed", 2, 2, 2, 2, 4, "bf16", step_gradient=6),
    "ddp": Precision("bf16-mixed", 2, 2, 2, 2, 4, "bf16"),
    "fsdp-2024": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "torchtune": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    # its optimizer casts the gradients to float32 for the step (solver/optimizer/fsdp_optimizer.py)
    "internevo": Precision("bf16-mixed", 2, 2, 2, 2, 4, "bf16", step_gradient=4),
    "litgpt-fsdp": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "litgpt-2023": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
    "litgpt": Precision("bf16-mixed", 4, 2, 4, 4, 0, "bf16"),
}
# Formats of the matrix products: dtype word, and bytes per element in it. mxfp8: 1 byte and a scale
# per 32; nvfp4: half a byte and a scale per 16 (OCP MX 1.0; NVIDIA Transformer Engine recipes). Of
# a weight a row- and a column-wise copy are kept, of a product's input the column-wise one.
_PRODUCTS = {
    "fp8-mixed": ("fp8", 1.0),
    "mxfp8-mixed": ("fp8", 1 + 1 / 32),
    "nvfp4-mixed": ("fp4", 0.5 + 1 / 16),
}
# One scale a tensor, so that a transpose is the same numbers; block scales differ by direction.
PER_TENSOR = "fp8-mixed"
# Megatron-Core trains with fp8 weights alone (fp8_param_gather) and reduces gradients in bf16, as
# every published fp8 recipe that says so does; nvfp4 keeps bf16 weights beside them.
_WIDE_BESIDE = ("nvfp4-mixed",)
# Inputs are cast before tensor-parallel ranks gather them: Transformer Engine
# (pytorch/module/layernorm_linear.py, pytorch/distributed.py), torchao (Float8ColwiseParallel).
# torchao casts a weight for each product and keeps the wide one for the backward pass
# (float8/float8_linear.py, mx_formats/mx_linear.py): no copy outlives the product.
_CASTS_EACH_TIME = ("torchtitan", "fsdp2", "torchtune")
WORDS = ("bf16-mixed", "bf16-autocast", "bf16-pure", "fp16-mixed", "fp32", *_PRODUCTS)


def precision(word: str, stack: str) -> Precision:
    """The policy that a precision word means under a stack."""
    if word not in WORDS:
        raise unknown("precision", word, WORDS)
    if word == "bf16-pure":
        return _BF16_PURE
    if word == "fp32":
        return _FP32
    if word == "bf16-autocast":
        if stack != "ddp":
            raise InputError(
                f"precision bf16-autocast is torch.autocast around the model (stack ddp): under "
                f"stack {stack} use bf16-mixed"
            )
        return _AUTOCAST
    mixed = _MIXED[stack]
    if word == "bf16-mixed":
        return mixed
    if word == "fp16-mixed":
        if stack.startswith("megatron"):  # gradients in the weights' dtype, but for bf16
            mixed = replace(mixed, gradient=2, reduce=2, step_gradient=4)
        if stack == "megatron-deepspeed":  # DeepSpeed's flat copy, see above
            mixed = replace(mixed, step_gradient=6)
        return replace(mixed, name=word, product="fp16")
    return _quantised(mixed, word, stack)


def policy_of(recipe: Recipe, stack: str) -> Precision:
    """The policy of a recipe; gradients that it wants in 16 bits are kept and reduced so."""
    policy = precision(recipe.precision, stack)
    if recipe.gradients == "bf16":
        policy = replace(policy, gradient=2, reduce=2)
    if recipe.precision == PER_TENSOR and not recipe.weight_transposes:
        policy = replace(policy, quantised_weight=policy.quantised_weight / 2)
    return policy


def reads_weights_both_ways(compute_capability: str | None) -> bool:
    """Whether fp8 products with one scale a tensor read a matrix by rows and by columns.

    Data-centre Blackwell and what follows it does; Ada, Hopper and consumer Blackwell need a
    transposed copy (Transformer Engine, pytorch/utils.py, is_non_tn_fp8_gemm_supported).

    >>> [reads_weights_both_ways(x) for x in ("8.9", "9.0", "10.0", "12.0", "13.0", None)]
    [False, False, True, False, True, False]
    """
    major = (compute_capability or "").split(".")[0]
    return major.isdigit() and (10 <= int(major) < 12 or int(major) >= 13)


def _quantised(mixed: Precision, word: str, stack: str) -> Precision:
    product, itemsize = _PRODUCTS[word]
    narrow = replace(mixed, name=word, product=product, exchanged_input=itemsize)
    if stack in _CASTS_EACH_TIME:
        return narrow
    narrow = replace(narrow, quantised_weight=2 * itemsize)
    if stack != "megatron":
        return narrow
    alone = word not in _WIDE_BESIDE
    return replace(narrow, gradient=2, reduce=2, quantised_alone=alone, quantised_input=itemsize)
