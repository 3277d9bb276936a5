"""A GPU as the time model sees it: dense peaks, bandwidth, and the constants of its kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.hardware.cluster import Cluster
from planner.hardware.kernel_constants import KernelConstants, MatmulConstants
from planner.hardware.power import power_slowdown
from planner.hardware.profile import GpuProfile
from planner.hardware.ready_constants import grouped_key, step_constants
from planner.numeric import Number
from planner.performance.attention_time import attention_seconds
from planner.performance.constants import StepConstants
from planner.performance.matmul import OUTPUT_BYTES, matmul_seconds

# Memory-bound kernels of a training step reach this share of the peak bandwidth: casts, activations
# and norms of large tensors are measured at 0.7 to 0.95 (planner/validation/data/kernels).
BANDWIDTH_EFFICIENCY = 0.80
# Where a profile does not say how many multiprocessors there are: an A100's (assumed).
USUAL_SM_COUNT = 108
# What a GPU draws at full clocks, per dense bf16 FLOP/s [W s]: an H100 has 700 W for 989 TFLOP/s.
FULL_POWER = {"Hopper": 700.0 / 989.4e12}
# Words of the precision policies' products, and the key of the kernels' constants.
_KERNELS = {
    "bf16": "bf16",
    "fp16": "bf16",
    "tf32": "bf16",
    "fp32": "bf16",
    "fp8": "fp8",
    "fp4": "nvfp4",
}


@dataclass(frozen=True)
class Machine:
    """Rates of one GPU for products of one dtype [FLOP/s, bytes/s].

    attention_share  shares of the peak, forward and backward, where the stack's attention is an
                     older kernel than the GPU's best; else None
    attention_slower time of attention over that of the measured kernels: an older kernel, or the
                     clock of long work
    accurate_slower  the same of products that add up in full precision
    """

    constants: KernelConstants
    product: str
    product_peak: float
    attention_peak: float
    bandwidth: float
    sm_count: int
    attention_share: tuple[float, float] | None = None
    attention_slower: float = 1.0
    accurate_slower: float = 1.0

    def product_seconds(
        self,
        m: Number,
        n: Number,
        k: Number,
        *,
        groups: Number = 1,
        exact: bool = False,
        casts: Number = 1.0,
        output_bytes: float = OUTPUT_BYTES,
        accurate: bool = False,
        library: str | None = None,
    ) -> Number:
        """C[m,n] = A[m,k] B[k,n] at the clock of a long step.

        exact: in bf16 in any policy. casts: of A, what is put into the product's format first.
        output_bytes: moved per element of C. accurate: sums in full precision, as gradients are.
        library: whose grouped kernel it is; where the GPU's was not measured, as dense products.
        """
        product = "bf16" if exact else self.product
        peak = self.attention_peak if exact else self.product_peak
        slower = self.accurate_slower if accurate and not exact else 1.0
        return slower * matmul_seconds(
            m,
            n,
            k,
            constants=self._product_constants(product, library),
            casts=casts,
            output_bytes=output_bytes,
            launched=product == "bf16",
            peak_flops_per_second=peak,
            memory_bytes_per_second=self.bandwidth,
            sm_count=self.sm_count,
            groups=groups,
            sustained=True,
        )

    def _product_constants(self, product: str, library: str | None) -> MatmulConstants:
        dense = self.constants.matmul[_KERNELS[product]]
        if library is None or product != "bf16":
            return dense
        return self.constants.grouped.get(grouped_key(library), dense)

    def attention_seconds(
        self,
        batch: Number,
        heads: Number,
        kv_heads: Number,
        sequence: Number,
        keys: Number,
        *,
        head_dim: int,
        value_head_dim: int,
        causal: bool,
        window: int | None,
        backward: bool,
    ) -> Number:
        """The fused attention core, forward or backward."""
        name = f"bf16/{'backward' if backward else 'forward'}/{'causal' if causal else 'full'}"
        constants = self.constants.attention[name]
        if self.attention_share is not None:
            most = self.attention_share[backward]
            slower = tuple(min(e, most) for e in constants.efficiencies)
            constants = replace(constants, efficiencies=slower, surface=None)
        seconds = attention_seconds(
            batch,
            heads,
            kv_heads,
            sequence,
            head_dim=head_dim,
            value_head_dim=value_head_dim,
            causal=causal,
            window=window,
            keys=keys,
            backward=backward,
            constants=constants,
            peak_flops_per_second=self.attention_peak,
            memory_bytes_per_second=self.bandwidth,
            sm_count=self.sm_count,
            sustained=True,
        )
        return seconds * self.attention_slower

    def moving_seconds(self, moved_bytes: Number) -> Number:
        """Memory-bound kernels together; their starts are counted as host time."""
        return moved_bytes / (self.bandwidth * BANDWIDTH_EFFICIENCY)


# FlashAttention 2 runs on the matrix instructions of Ampere. Share of the dense peak it reaches at
# head size 128, forward and backward, by compute capability: 370 and about 325 of 989 TFLOP/s
# (Dao-AILab/flash-attention, H100 figures); Blackwell's peak per multiprocessor is twice Hopper's.
FLASH_ATTENTION_2_SHARE = {9: (0.375, 0.33), 10: (0.19, 0.165)}
# Hopper's fp8 units add up in 14 bits or so; products of gradients move their sums to registers in
# float32 now and then (TransformerEngine, pytorch/module/base.py, _2X_ACC_DGRAD, _2X_ACC_WGRAD;
# torchao, float8/config.py, use_fast_accum of the output alone). Blackwell adds in float32.
ACCURATE_COSTS = ("9",)
OLDER_KERNELS = ("flash_attention_2", "triton")


def machine_of(
    cluster: Cluster, product: str, attention_kernel: str, step: StepConstants
) -> Machine:
    """The cluster's GPU for products of a dtype; the next wider one where it has none."""
    gpu = cluster.gpu
    attention_peak = gpu.peak("bf16") or gpu.peak("fp16") or gpu.peak("fp32") or 1e12
    peak = gpu.peak(product)
    if peak is None:
        product, peak = "bf16", attention_peak
    slower = _slower_clock(gpu)
    constants = _at_long_clock(step_constants(gpu.id, pcie=gpu.link is None), gpu, step)
    older = attention_kernel in OLDER_KERNELS
    under_load = 1.0 if older else constants.matmul["bf16"].sustained_ratio
    return Machine(
        constants,
        product,
        peak / slower,
        attention_peak / slower,
        gpu.memory_bandwidth_bytes_per_second,
        gpu.sm_count or USUAL_SM_COUNT,
        _older_share(gpu) if older else None,
        under_load / (_triton_speed(gpu, step) if attention_kernel == "triton" else 1.0),
        step.accurate_fp8 if product == "fp8" and _major(gpu) in ACCURATE_COSTS else 1.0,
    )


def _triton_speed(gpu: GpuProfile, step: StepConstants) -> float:
    return step.triton_attention.get(_major(gpu), 1.0)


def _major(gpu: GpuProfile) -> str:
    return (gpu.compute_capability or "").split(".")[0]


def _older_share(gpu: GpuProfile) -> tuple[float, float] | None:
    major = _major(gpu)
    return FLASH_ATTENTION_2_SHARE.get(int(major)) if major.isdigit() else None


def _at_long_clock(
    constants: KernelConstants, gpu: GpuProfile, step: StepConstants
) -> KernelConstants:
    """With the ratios of long work to a burst that a step's own measurements give."""
    matmul = dict(constants.matmul)
    for name, ratio in step.sustained.items():
        of, _, dtype = name.partition("/")
        if of == gpu.id:
            matmul[dtype] = replace(matmul[dtype], sustained_ratio=ratio)
    return replace(constants, matmul=matmul)


def _slower_clock(gpu: GpuProfile) -> float:
    """Time under this GPU's power limit over that of the measured GPU of the same silicon."""
    per_flops = FULL_POWER.get(gpu.architecture)
    peak = gpu.peak("bf16")
    if per_flops is None or peak is None or gpu.power_limit_watts is None:
        return 1.0
    return 1 / power_slowdown(gpu.power_limit_watts, per_flops * peak)
