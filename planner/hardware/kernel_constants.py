"""What was fitted on measured kernels and collectives, per GPU: the constants of the time model.

One folder of data files, hardware/data/kernels/: <gpu>.yaml holds the constants with their
evidence, held-out error and source; <gpu>.surfaces.json the measured residuals behind them
(surface.py). `generic` serves every GPU that was never measured. tools/fit_kernels.py writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from planner.hardware.surface import Surface

# measured: on this GPU, smoothed between measured shapes; fitted: the closed form on this GPU;
# borrowed: from a GPU of the same generation; assumed: the fit over all GPUs.
Evidence = Literal["measured", "fitted", "borrowed", "assumed"]


@dataclass(frozen=True)
class Quality:
    """How well constants describe what was not used to fit them."""

    median_error: float | None = None  # |predicted / measured - 1| on held-out shapes
    p90_error: float | None = None
    shapes: int = 0  # fitted
    held_out: int = 0
    source: str = ""
    evidence: Evidence = "assumed"


@dataclass(frozen=True)
class MatmulConstants:
    """Of one dtype's products on one GPU. The formula stands in performance/matmul.py."""

    efficiency: float  # e: attainable fraction of the dense peak
    memory_efficiency: float  # e_b: fraction of the memory bandwidth
    fixed_seconds: float  # t0: start of the kernel (and of the casts before it)
    ramp_k: float  # k0: k that fills and drains the pipeline of a tile
    small_tile_penalty: float  # q: loss per halving of the tile's area
    wave_rounding: float  # alpha: 1 = whole waves only, 0 = none (stream-k)
    overlap_power: float  # p: infinite = memory and arithmetic overlap fully
    operand_bytes: float  # of one element of A and B
    tile_set: str  # output tiles of the library: a key of performance.matmul.TILE_SETS
    quantise_efficiency: float = 1.0  # e_q
    quantised_bytes: float = 0.0  # moved per element of A by the casts
    clock_fall: float = 0.0  # beta: of the burst's clock, at the end of a long burst
    split_seconds: float = 3e-6  # of adding up a split product
    sustained_ratio: float = 1.0  # time under the power limit of long work over that of a burst
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class AttentionConstants:
    """Of one attention kernel, dtype, pass and mask on one GPU (performance/attention_time.py)."""

    head_dims: tuple[float, ...]
    efficiencies: tuple[float, ...]  # e[d]: attainable fraction of the dense peak
    wasted_pairs: float  # s0: per query, on the mask's diagonal and the ramps
    wasted_pairs_window: float  # the same with a sliding window
    idle_exponent: float  # gamma: 1 = a GPU half full takes as long as a full one
    wave_rounding: float  # alpha
    fixed_seconds: float
    key_value_traffic: float  # c_kv: times that k and v cross the memory bus
    query_traffic: float  # c_q: the same for q and the output
    element_bytes: float
    unskipped_share: float = 0.0  # of the pairs outside a window, those worked out all the same
    sustained_ratio: float = 1.0
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class MovementConstants:
    """Of one memory-bound kernel on one GPU (performance/elementwise.py)."""

    efficiency: float  # e: fraction of the memory bandwidth
    fixed_seconds: float
    host_share: float = 0.0  # u: of t0, the host's part, which a long kernel hides
    row_bytes: float = 0.0  # r: what a row costs beyond its bytes, as traffic
    cache_speedup: float = 1.0  # of traffic that the L2 cache serves
    cache_fraction: float = 0.5  # f: of the L2 cache that one kernel's data may fill
    cache_edge: float = 4.0  # g: how sharply the cache stops helping when the data outgrow it
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class CollectiveConstants:
    """Of one collective over one kind of link (performance/collectives.py)."""

    fixed_seconds: float  # alpha of two ranks
    seconds_per_doubling: float  # alpha's growth per doubling of the ranks
    root_seconds: float  # s: of sqrt(bytes on the wire in kB), the middle sizes
    efficiency: float  # bus bandwidth over the link's rate at large messages, two ranks
    rank_exponent: float  # fall of the bandwidth with the ranks (shared PCIe)
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class ExpertLayerConstants:
    """Of one implementation of a layer with experts on one GPU (performance/expert_layer.py).

    The grouped products are those of MatmulConstants; what 160 shapes cannot tell apart there
    (tiles, ramp, waves, overlap) has the values that dense products are expected to have.
    """

    efficiency: float  # e of the grouped products
    memory_efficiency: float  # e_b
    row_efficiency: float  # e_r: of the memory bandwidth, of rows that are copied for experts
    activation_efficiency: float  # e_a: the same between the two products
    token_efficiency: float  # e_t: the same of the layer's tokens, read and written
    routing_seconds: float  # c: per token, expert and choice
    uneven_ratio: float  # u: time with unevenly loaded experts over that of even loads
    fixed_seconds: float
    operand_bytes: float  # of one element of the products' operands
    tile_set: str  # a key of performance.matmul.TILE_SETS
    ramp_k: float = 120.0
    small_tile_penalty: float = 0.03
    wave_rounding: float = 0.5
    overlap_power: float = 3.0
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class DispatchConstants:
    """Of one way to send tokens to experts' ranks, or back (performance/dispatch.py)."""

    fixed_seconds: float  # of two ranks
    root_seconds: float  # of sqrt(bytes sent in kB)
    token_seconds: float  # of one token's bookkeeping
    efficiency: float  # of the link inside a domain; above 1 where it does not set the pace
    element_bytes: float  # sent per element, scales included
    once_per_rank: bool  # else each choice of an expert is a message of its own
    seconds_per_doubling: float = 0.0  # of the ranks
    network_efficiency: float = 1.0  # of two domains
    domain_exponent: float = 0.0  # fall of the network's rate with the domains
    sm_bytes_per_second: float = 0.0  # that one multiprocessor copies; 0: it does not matter
    surface: Surface | None = field(default=None, repr=False)
    quality: Quality = Quality()


@dataclass(frozen=True)
class KernelConstants:
    """All constants of one GPU; keys as in the data files.

    matmul: "bf16", "fp8", "fp8_block", ... in cool bursts, and "bf16/sustained vllm" and so on.
    attention: "bf16/forward/causal", ...: the kernel that training would use, and under longer
    names every kernel that was measured. movement: "rms_norm/cudnn/forward/bf16", ...
    collectives: "all_reduce" inside an NVLink or PCIe domain, "network/all_reduce" between domains.
    grouped: products of several experts in one kernel, "bf16/forward+backward/torch", ...
    expert_layer: whole layers of inference servers, "bf16/moe_torch_flow_cutlass", ...
    dispatch: "deepep/normal/dispatch", "trtllm/NVLinkTwoSided bf16/combine", ...
    """

    gpu: str
    matmul: Mapping[str, MatmulConstants]
    attention: Mapping[str, AttentionConstants]
    movement: Mapping[str, MovementConstants]
    collectives: Mapping[str, CollectiveConstants]
    grouped: Mapping[str, MatmulConstants] = field(default_factory=dict)
    expert_layer: Mapping[str, ExpertLayerConstants] = field(default_factory=dict)
    dispatch: Mapping[str, DispatchConstants] = field(default_factory=dict)
