"""The measured layers with experts, their grouped products and their dispatch, as points.

What the columns mean: validation/data/kernels/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planner.hardware.kernel_constants import MatmulConstants
from planner.hardware.profile import GpuProfile
from planner.numeric import Array
from planner.performance.calibration.dispatch_fit import DispatchPoints
from planner.performance.calibration.expert_layer_fit import ExpertLayerPoints
from planner.performance.calibration.matmul_fit import MatmulPoints
from planner.performance.calibration.table import Table
from planner.performance.matmul import matmul_seconds
from planner.validation.routed_loads import Load, even_load, power_law_load

Rates = tuple[Array, Array, Array]  # peak, memory bandwidth, multiprocessors of each point

# Bytes of an element of the products' operands: weights decide where both are narrow, and blocks of
# 16 or 32 elements share a byte of scale.
LAYER_BYTES = {"bf16": 2.0, "nvfp4": 0.5625, "mxfp4_weights_mxfp8": 0.53125}
_FP8_BYTES = 1.0
# Nemotron 3's experts, the only ones with so many choices, have a squared ReLU and no gate
# (collector/trtllm/collect_moe.py of the source, NON_GATED_MOE_MODELS).
_UNGATED_TOP_K = 22
# Kernels whose collectors (sglang, vllm) hand them the rank's share alone: a gate in any case, and
# with even loads the tokens over the ranks, each with as many choices as the rank has experts.
_LOCAL_KERNELS = "triton"

# Kernels that tables know by several names.
_KERNEL_NAMES = {
    "moe_torch_flow": "moe_torch_flow_cutlass",  # of older versions
    "sglang_mxfp4_flashinfer_trtllm_moe": "sglang_flashinfer_trtllm_moe",
}

# Payload of a dispatched element: 128 fp8 elements share a scale of 4 bytes, 16 nvfp4 ones a byte.
_FP8_PAYLOAD, _FP4_PAYLOAD, _BF16_PAYLOAD = 1.03125, 0.5625, 2.0
# Modes that name their library: calls as a framework makes them, and their kernels alone.
_LIBRARIES = {
    f"{name} {payload}{kernel}": (name.lower(), f"{payload}{kernel}")
    for name in ("HybridEP", "DeepEP")
    for payload in ("bf16", "fp8")
    for kernel in ("", " kernel")
}
# One GPU's rate into the network of the DeepEP rows [B/s]: 400 Gb/s (the source names no network).
_DISPATCH_NETWORK = 50e9
# GPUs that share NVLink: a node, or a rack of GB200.
_DOMAIN_GPUS = {"gb200-186gb": 72, "gb300-288gb": 72}
_NODE_GPUS = 8


@dataclass(frozen=True)
class GroupedPoints(MatmulPoints):
    """Products of several experts in one kernel; `directions`: as in _directions."""

    groups: Array
    casts: Array
    directions: str

    @property
    def rows(self) -> Array:
        return np.asarray(self.groups * self.m)

    def predicted(self, constants: MatmulConstants, quantise: bool = True) -> Array:
        """Predicted times [s]: of one product, or of the three of a linear layer."""
        seconds = np.zeros(len(self.m))
        for m, n, k in _directions(self):
            seconds = seconds + matmul_seconds(
                m, n, k,
                groups=self.groups,
                constants=constants,
                peak_flops_per_second=self.peak_flops_per_second,
                memory_bytes_per_second=self.memory_bytes_per_second,
                sm_count=self.sm_count,
                casts=self.casts * quantise,
            )  # fmt: skip
        return np.asarray(seconds)


def _directions(points: GroupedPoints) -> list[tuple[Array, Array, Array]]:
    """Products of a pass: rows of C, its columns, and what is summed over."""
    m, n, k = points.m, points.n, points.k
    if points.directions != "forward+backward":
        return [(m, n, k)]
    return [(m, n, k), (m, k, n), (n, k, m)]


def grouped_names(row: Mapping[str, str]) -> tuple[str, str]:
    """Key: dtype, pass and library; family: the same."""
    library = "deepgemm" if "DeepGEMM" in row["source"] else "torch"
    key = f"{row['dtype']}/{row['pass']}/{library}"
    return key, key


def grouped_points(table: Table, rates: Rates) -> GroupedPoints:
    """Their shapes; casts count only where the source says that they were timed."""
    peak, bandwidth, sm_count = rates
    notes = table.columns["note"]
    return GroupedPoints(
        m=table.number("m_per_group"),
        n=table.number("n"),
        k=table.number("k_per_group"),
        seconds=table.number("microseconds") * 1e-6,
        product_seconds=np.full(len(table), np.nan),
        peak_flops_per_second=peak,
        memory_bytes_per_second=bandwidth,
        sm_count=sm_count,
        groups=table.number("groups"),
        casts=np.array([float("includes quantisation" in note) for note in notes]),
        directions=table.columns["pass"][0],
    )


def layer_names(row: Mapping[str, str]) -> tuple[str, str]:
    """Key and family: one server's kernel in one dtype; the same kernel under two names is one."""
    kernel = _KERNEL_NAMES.get(row["kernel"], row["kernel"])
    key = f"{row['dtype']}/{kernel}"
    return key, key


def layer_points(table: Table, rates: Rates) -> ExpertLayerPoints:
    """Layers with the load of the rank that was timed."""
    peak, bandwidth, sm_count = rates
    ranks = table.number("expert_parallel")
    experts, top_k = table.number("experts"), table.number("top_k")
    local = _LOCAL_KERNELS in table.columns["kernel"][0]
    loads = [_load(*cells, local=local) for cells in _cells(table, *_LOAD_COLUMNS)]
    rows = np.array([load.rows for load in loads])
    branches = np.where((top_k == _UNGATED_TOP_K) & (not local), 1.0, 2.0)
    return ExpertLayerPoints(
        tokens=table.number("tokens"),
        hidden=table.number("hidden"),
        inner=table.number("moe_intermediate") / table.number("tensor_parallel"),
        experts=experts,
        top_k=top_k,
        local_experts=experts / ranks,
        rows=rows,
        touched=np.array([load.touched for load in loads]),
        branches=branches,
        uneven=(table.text("distribution") != "balanced").astype(float),
        seconds=table.number("microseconds") * 1e-6,
        peak_flops_per_second=peak,
        memory_bytes_per_second=bandwidth,
        sm_count=sm_count,
    )


def layer_bytes(dtype: str) -> float:
    """Of one element of the products' operands."""
    return LAYER_BYTES.get(dtype, _FP8_BYTES)


_LOAD_COLUMNS = ("tokens", "experts", "top_k", "expert_parallel", "distribution")


def _load(
    tokens: str, experts: str, top_k: str, ranks: str, distribution: str, *, local: bool
) -> Load:
    sizes = (int(tokens), int(experts), int(top_k), int(ranks))
    if distribution != "balanced":
        return power_law_load(*sizes, float(distribution.removeprefix("power_law_")))
    if not local:
        return even_load(*sizes)
    held = sizes[1] // sizes[3]
    return even_load(sizes[0] / sizes[3], held, min(sizes[2], held), 1)


def _cells(table: Table, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(table.columns[name] for name in names), strict=True))


def dispatch_names(row: Mapping[str, str]) -> tuple[str, str]:
    """Key and family: library, mode and operation; an older DeepEP is another library."""
    source = row["source"]
    library = "trtllm" if "trtllm" in source else "deepep"
    if "0.5.6" in source:
        library = "deepep of 2025"
    library, mode = _LIBRARIES.get(row["mode"], (library, row["mode"]))
    key = f"{library}/{mode}/{row['operation']}"
    # HybridEP takes a rack as it takes a node
    domain = "rack" if row["gpu"] in _DOMAIN_GPUS and library != "hybridep" else "node"
    return key, f"{key} in a {domain}"


def dispatch_points(table: Table, profile: GpuProfile) -> DispatchPoints:
    """Messages between ranks, in a node, an NVLink rack, or over several nodes."""
    mode, operation = table.columns["mode"][0], table.columns["operation"][0]
    ranks = table.number("gpus")
    link = profile.link or profile.pcie
    ones = np.ones(len(table))
    domain = _DOMAIN_GPUS.get(profile.id, _NODE_GPUS)
    return DispatchPoints(
        tokens=table.number("tokens_per_gpu"),
        hidden=table.number("hidden"),
        top_k=table.number("top_k"),
        experts=table.number("experts"),
        ranks=ranks,
        domains=np.ceil(ranks / domain),
        multiprocessors=table.number("sms", empty=1.0),
        link_bytes_per_second=ones * (link.bytes_per_second_per_direction if link else np.nan),
        network_bytes_per_second=ones * _DISPATCH_NETWORK,
        seconds=table.number("microseconds") * 1e-6,
        element_bytes=_payload(mode, operation),
        once_per_rank=not mode.startswith("low latency"),
    )


def _payload(mode: str, operation: str) -> float:
    if operation == "combine_low_precision":
        return _FP4_PAYLOAD
    if operation == "combine" or "bf16" in mode:
        return _BF16_PAYLOAD
    return _FP4_PAYLOAD if "nvfp4" in mode else _FP8_PAYLOAD
