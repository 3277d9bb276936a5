"""A GPU as the time model sees it: dense peaks, bandwidth, and the constants of its kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.hardware.cluster import Cluster
from planner.hardware.kernel_constants import KernelConstants
from planner.hardware.kernel_files import kernel_constants
from planner.hardware.profile import GpuProfile
from planner.numeric import Number
from planner.performance.attention_time import attention_seconds
from planner.performance.matmul import matmul_seconds

# Memory-bound kernels of a training step reach this share of the peak bandwidth: casts, activations
# and norms of large tensors are measured at 0.7 to 0.95 (planner/validation/data/kernels).
BANDWIDTH_EFFICIENCY = 0.80
# Where a profile does not say how many multiprocessors there are: an A100's (assumed).
USUAL_SM_COUNT = 108
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

    flash_attention_2: shares of the peak, forward and backward, where the stack's attention is
    that kernel and it does not use the GPU's newest matrix instructions; else None.
    """

    constants: KernelConstants
    product: str
    product_peak: float
    attention_peak: float
    bandwidth: float
    sm_count: int
    flash_attention_2: tuple[float, float] | None = None

    def product_seconds(
        self, m: Number, n: Number, k: Number, *, groups: Number = 1, exact: bool = False
    ) -> Number:
        """C[m,n] = A[m,k] B[k,n] at the clock of a long step; exact: in bf16 in any policy."""
        product = "bf16" if exact else self.product
        peak = self.attention_peak if exact else self.product_peak
        return matmul_seconds(
            m,
            n,
            k,
            constants=self.constants.matmul[_KERNELS[product]],
            peak_flops_per_second=peak,
            memory_bytes_per_second=self.bandwidth,
            sm_count=self.sm_count,
            groups=groups,
            sustained=True,
        )

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
        if self.flash_attention_2 is not None:
            most = self.flash_attention_2[backward]
            slower = tuple(min(e, most) for e in constants.efficiencies)
            constants = replace(constants, efficiencies=slower, surface=None)
        return attention_seconds(
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

    def moving_seconds(self, moved_bytes: Number) -> Number:
        """Memory-bound kernels together; their starts are counted as host time."""
        return moved_bytes / (self.bandwidth * BANDWIDTH_EFFICIENCY)


# FlashAttention 2 runs on the matrix instructions of Ampere. Share of the dense peak that it reaches
# at head size 128, forward and backward, by compute capability: 370 and about 325 of 989 TFLOP/s
# (Dao-AILab/flash-attention, H100 figures); Blackwell's peak per multiprocessor is twice Hopper's.
FLASH_ATTENTION_2_SHARE = {9: (0.375, 0.33), 10: (0.19, 0.165)}


def machine_of(cluster: Cluster, product: str, attention_kernel: str) -> Machine:
    """The cluster's GPU for products of a dtype; the next wider one where it has none."""
    gpu = cluster.gpu
    attention_peak = gpu.peak("bf16") or gpu.peak("fp16") or gpu.peak("fp32") or 1e12
    peak = gpu.peak(product)
    if peak is None:
        product, peak = "bf16", attention_peak
    return Machine(
        kernel_constants(gpu.id, pcie=gpu.link is None),
        product,
        peak,
        attention_peak,
        gpu.memory_bandwidth_bytes_per_second,
        gpu.sm_count or USUAL_SM_COUNT,
        _flash_attention_2(gpu) if attention_kernel == "flash_attention_2" else None,
    )


def _flash_attention_2(gpu: GpuProfile) -> tuple[float, float] | None:
    major = (gpu.compute_capability or "").split(".")[0]
    return FLASH_ATTENTION_2_SHARE.get(int(major)) if major.isdigit() else None
