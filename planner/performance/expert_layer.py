"""Time of a whole layer with experts on one GPU, forward, without what moves between GPUs.

Routing, a copy of each token's row for each of its experts, two grouped products, the activation
between them, and the weighted sum of what the experts made.
"""

from __future__ import annotations

import numpy as np

from planner.hardware.kernel_constants import ExpertLayerConstants, MatmulConstants
from planner.hardware.surface import correction
from planner.numeric import Number
from planner.performance.matmul import matmul_seconds

# Rows are moved in bf16: copied for an expert (read, written), and read again for the sum.
_BYTES, _ROW_PASSES, _TOKEN_PASSES = 2.0, 3.0, 2.0


def expert_layer_seconds(
    tokens: Number,
    *,
    hidden: Number,
    inner: Number,
    experts: Number,
    top_k: Number,
    local_experts: Number,
    rows: Number,
    touched: Number,
    branches: Number = 2.0,
    uneven: Number = 0.0,
    constants: ExpertLayerConstants,
    peak_flops_per_second: Number,
    memory_bytes_per_second: Number,
    sm_count: Number,
) -> Number:
    """Time of one rank of an expert-parallel group, forward [s]; numbers or arrays.

    tokens: of the whole group, each routed to top_k of all experts. inner: an expert's width on
    this rank. local_experts: that the rank holds; touched: those of them that any token chose;
    rows: of all tokens' choices, those that the rank computes. branches: 2 where the activation is
    gated. uneven: 1 where experts have unlike numbers of rows.

        t = (products(rows/touched by branches inner by hidden, and back; touched groups)
             + rows (3 hidden 2 B / (bw e_r) + (1 + branches) inner 2 B / (bw e_a))
             + tokens (2 hidden 2 B / (bw e_t) + experts top_k c) + t0) u^uneven

    times the residual of the measured neighbours. The products are matmul.py's, whole tiles of each
    expert's rows and the weights of those experts alone.

    Source: fitted on planner/validation/data/kernels/moe.csv.gz (kernels of inference servers).
    Valid for: 16 to 65,536 tokens, 8 to 896 experts.
    """
    product = _product_constants(constants)

    def grouped(outputs: Number, inputs: Number) -> Number:
        return matmul_seconds(
            rows / touched,
            outputs,
            inputs,
            groups=touched,
            constants=product,
            peak_flops_per_second=peak_flops_per_second,
            memory_bytes_per_second=memory_bytes_per_second,
            sm_count=sm_count,
        )

    moved = hidden * _ROW_PASSES / constants.row_efficiency
    moved = moved + inner * (1.0 + branches) / constants.activation_efficiency
    routed = tokens * experts * top_k * constants.routing_seconds
    of_tokens = tokens * hidden * _TOKEN_PASSES / constants.token_efficiency
    seconds = (
        grouped(branches * inner, hidden)
        + grouped(hidden, inner)
        + (rows * moved + of_tokens) * _BYTES / memory_bytes_per_second
        + routed
        + constants.fixed_seconds
    )
    at = expert_layer_coordinates(
        tokens, rows, hidden, inner, local_experts, experts, top_k, uneven
    )
    factor = constants.uneven_ratio**uneven * correction(constants.surface, at)
    result: Number = seconds * factor
    return float(result) if np.ndim(result) == 0 else result


def expert_layer_coordinates(
    tokens: Number,
    rows: Number,
    hidden: Number,
    inner: Number,
    local_experts: Number,
    experts: Number,
    top_k: Number,
    uneven: Number,
) -> tuple[Number, ...]:
    """Where a layer lies on its surface of residuals: doublings per length scale.

    The server's choice of kernel is the model's and the layout's, not the batch's: the scales are
    short in what tells models apart and long in rows (chosen on held-out shapes).
    """
    return (
        np.log2(tokens) / 4.0,
        np.log2(rows) / 6.0,
        np.log2(hidden) / 2.0,
        np.log2(inner) / 4.0,
        np.log2(local_experts) / 4.0,
        np.log2(experts),
        np.log2(top_k) / 2.0,
        uneven / 2.0,
    )


def _product_constants(constants: ExpertLayerConstants) -> MatmulConstants:
    """Of the two products alone: no start of a kernel, no casts, no clock that falls."""
    return MatmulConstants(
        efficiency=constants.efficiency,
        memory_efficiency=constants.memory_efficiency,
        fixed_seconds=0.0,
        ramp_k=constants.ramp_k,
        small_tile_penalty=constants.small_tile_penalty,
        wave_rounding=constants.wave_rounding,
        overlap_power=constants.overlap_power,
        operand_bytes=constants.operand_bytes,
        tile_set=constants.tile_set,
    )
