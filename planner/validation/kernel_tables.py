"""The measured kernels and collectives as groups of points, one group for each set of constants.

Tables and their sources: validation/data/kernels/README.md. Rates come from the GPUs' profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TypeAlias, cast

import numpy as np

from planner import documents
from planner.hardware.gpu_file import read_gpu
from planner.hardware.profile import GpuProfile
from planner.numeric import Array
from planner.performance.calibration.attention_fit import AttentionPoints
from planner.performance.calibration.collective_fit import CollectivePoints
from planner.performance.calibration.dispatch_fit import DispatchPoints
from planner.performance.calibration.expert_layer_fit import ExpertLayerPoints
from planner.performance.calibration.matmul_fit import MatmulPoints
from planner.performance.calibration.movement_fit import MovementPoints
from planner.performance.calibration.table import QUARTER, Kind, Split, Table, read
from planner.performance.collectives import Operation
from planner.resources import HARDWARE_PROFILES, package_file, shipped_folder
from planner.validation import expert_tables

Points: TypeAlias = (
    MatmulPoints
    | AttentionPoints
    | MovementPoints
    | CollectivePoints
    | ExpertLayerPoints
    | DispatchPoints
)

FILES: Mapping[Kind, str] = {
    "matmul": "gemm",
    "attention": "attention",
    "movement": "elementwise",
    "collectives": "collectives",
    "grouped": "grouped_gemm",
    "expert_layer": "moe",
    "dispatch": "moe_all_to_all",
}
# What makes two measurements the same shape; a shape is held out on all GPUs or on none.
SHAPES: Mapping[Kind, Sequence[str]] = {
    "matmul": ("m", "n", "k"),
    "attention": (
        "batch", "sequence", "query_heads", "kv_heads", "head_dim", "value_head_dim", "window",
        "causal",
    ),
    "movement": ("operation", "rows", "columns"),
    "collectives": ("operation", "gpus", "nodes", "message_bytes"),
    "grouped": ("pass", "groups", "m_per_group", "n", "k_per_group"),
    "expert_layer": (
        "tokens", "hidden", "moe_intermediate", "experts", "top_k", "tensor_parallel",
        "expert_parallel", "distribution",
    ),
    "dispatch": (
        "gpus", "nodes", "operation", "mode", "tokens_per_gpu", "hidden", "top_k", "experts", "sms",
    ),
}  # fmt: skip

# Least bytes of an element of the tensor (each input read, each output written once) where the
# table does not say: logits and embeddings in float32, the rest in its dtype.
PASSES = {"forward": 2.0, "no-grad-forward": 1.0, "backward": 3.0, "forward+backward": 5.0}
_ELEMENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}

# One GPU's rate into the network [B/s], by the fabric's name in the table.
_NETWORKS = (
    ("slow network", 13.6e9),
    ("Slingshot", 25e9),
    ("400 Gb/s", 50e9),
    ("racks of 72", 50e9),
    ("", 50e9),
)
# A collective's standard implementation is the newest NCCL or RCCL in the table.
_STANDARD_VERSIONS = {
    "a100-sxm4-80gb": "nccl 2.27.3",
    "l40s": "nccl 2.27.3",
    "gh200-96gb": "nccl 2.23.4, aws-ofi 1.13.0",
    "mi300x-192gb": "rccl",
}
_STANDARD_VERSION = "nccl 2.29.2"
_OPERATIONS = {"p2p": "send_receive"}
# Libraries that start the same eager kernels.
_MAKERS = {"pytorch": "torch", "huggingface": "torch"}
# Where NVIDIA does not publish the L2 cache: that of the B200, where the measured casts turn too.
_L2_BYTES = {"b300-sxm-288gb": 126 * 2**20, "gb300-288gb": 126 * 2**20}


@dataclass(frozen=True)
class Group:
    """Measured points that share a GPU and a set of constants."""

    kind: Kind
    gpu: str
    key: str  # of the constants, in KernelConstants
    family: str  # groups of other GPUs with the same family are alike: a centre to lean on
    kin: str  # families that are alike, what they lean on in turn; "": nothing
    table: Table
    board: GpuProfile | None = None  # whose rates count; None: the shipped profile's

    @property
    def profile(self) -> GpuProfile:
        return self.board or gpu_profile(self.gpu)

    @cached_property
    def points(self) -> Points:
        """The group's points."""
        return _POINTS[self.kind](self)

    def where(self, chosen: Array) -> Group:
        """The group's rows where `chosen` holds."""
        return replace(self, table=self.table.where(chosen == 1))

    def held_out(self, split: Split = QUARTER) -> Array:
        """1 where a row's shape is held out, else 0."""
        return self.table.held_out(SHAPES[self.kind], split).astype(float)


@cache
def gpu_profile(gpu: str) -> GpuProfile:
    """The shipped profile of a GPU in the tables."""
    return read_gpu(documents.load(shipped_folder(HARDWARE_PROFILES) / "gpus" / f"{gpu}.yaml"))


def groups(kind: Kind) -> Iterator[Group]:
    """All groups of one shipped table, in order of GPU and key."""
    folder = package_file("validation") / "data" / "kernels"
    yield from groups_of(kind, read(folder / f"{FILES[kind]}.csv.gz"))


def groups_of(kind: Kind, table: Table, board: GpuProfile | None = None) -> Iterator[Group]:
    """All groups of a table, in order of GPU and key; rows without a time are left out."""
    table = table.where(table.text("microseconds") != "")
    naming = {
        "matmul": _matmul_names,
        "attention": _attention_names,
        "movement": _movement_names,
        "collectives": _collective_names,
        "grouped": expert_tables.grouped_names,
        "expert_layer": expert_tables.layer_names,
        "dispatch": expert_tables.dispatch_names,
    }[kind]
    names = [naming(row) for row in _rows(table)]
    table = table.with_column("key", [key for key, _ in names])
    table = table.with_column("family", [family for _, family in names])
    for (gpu, key, family), rows in table.groups(("gpu", "key", "family")):
        kin = _movement_kin(next(_rows(rows))) if kind == "movement" else ""
        yield Group(kind, gpu, key, family, kin, rows, board)


def _rows(table: Table) -> Iterator[dict[str, str]]:
    names = list(table.columns)
    for cells in zip(*table.columns.values(), strict=True):
        yield dict(zip(names, cells, strict=True))


def _matmul_names(row: Mapping[str, str]) -> tuple[str, str]:
    if row["run"] == "burst":
        return row["dtype"], f"{row['dtype']} burst"
    return f"{row['dtype']}/sustained {row['source'].split()[1]}", f"{row['dtype']} sustained"


def _attention_names(row: Mapping[str, str]) -> tuple[str, str]:
    mask = "causal" if row["causal"] == "1" else "full"
    key = f"{row['dtype']}/{row['pass']}/{mask}"
    served = {"causal": "prefill", "full": "encoder"}[mask]
    maker = served if row["source"].startswith("aic") else row["kernel"].split()[0]
    return f"{key}/{row['kernel']}", f"{key}/{maker}"


def _movement_names(row: Mapping[str, str]) -> tuple[str, str]:
    key = "/".join(row[name] for name in ("operation", "implementation", "pass", "dtype"))
    return key, key


def _movement_kin(row: Mapping[str, str]) -> str:
    """Who starts the kernels of which pass: the host's part of their time is alike."""
    first, *rest = row["implementation"].replace(",", " ").replace("_", " ").split()
    maker = "compiled" if "compile" in rest else _MAKERS.get(first, first)
    return f"{maker}/{row['pass']}"


def _collective_names(row: Mapping[str, str]) -> tuple[str, str]:
    operation = _OPERATIONS.get(row["operation"], row["operation"])
    how = row["implementation"].split(", median")[0].split(", SHARP")[0]
    version = _STANDARD_VERSIONS.get(row["gpu"], _STANDARD_VERSION)
    if "rack" in row["fabric"] or how == "nccl":  # racks: one version, nothing else to compare
        version = how
    variant = "" if how == version else f"/{how}"
    if "slow" in row["fabric"]:
        variant = "/slow network"
    if _domains(row) == 1:
        # Boxes without NVLink share PCIe lanes: another family, under a name of its own.
        shared = "pcie/" if "PCIe" in row["fabric"] else ""
        kind = "other" if variant else "standard"
        return f"{operation}{variant}", f"{shared}{operation} {kind}"
    network = next((f" {name}" for name in ("Slingshot", "slow") if name in row["fabric"]), "")
    return f"network/{operation}{variant}", f"network/{operation}{network}"


def _domains(row: Mapping[str, str]) -> int:
    """NVLink domains or PCIe nodes that the ranks are spread over."""
    if "rack" in row["fabric"]:
        return int(row["gpus"]) // 72
    return int(row["nodes"])


def _rates(group: Group, dtype: str) -> tuple[Array, Array, Array]:
    profile = group.profile
    peak = profile.peak({"nvfp4": "fp4"}.get(dtype, "fp8" if "fp8" in dtype else dtype))
    ones = np.ones(len(group.table))
    return (
        ones * (peak or np.nan),
        ones * profile.memory_bandwidth_bytes_per_second,
        ones * (profile.sm_count or np.nan),
    )


def _own_rates(group: Group) -> tuple[Array, Array, Array]:
    return _rates(group, group.table.columns["dtype"][0])


def _matmul_points(group: Group) -> MatmulPoints:
    table = group.table
    seconds = table.number("microseconds") * 1e-6
    peak, bandwidth, sm_count = _rates(group, table.columns["dtype"][0])
    return MatmulPoints(
        m=table.number("m"),
        n=table.number("n"),
        k=table.number("k"),
        seconds=seconds,
        product_seconds=seconds - table.number("quantise_microseconds") * 1e-6,
        peak_flops_per_second=peak,
        memory_bytes_per_second=bandwidth,
        sm_count=sm_count,
    )


def _attention_points(group: Group) -> AttentionPoints:
    table = group.table
    peak, bandwidth, sm_count = _rates(group, table.columns["dtype"][0])
    return AttentionPoints(
        batch=table.number("batch"),
        sequence=table.number("sequence"),
        query_heads=table.number("query_heads"),
        kv_heads=table.number("kv_heads"),
        head_dim=table.number("head_dim"),
        value_head_dim=table.number("value_head_dim"),
        window=table.number("window"),
        causal=table.columns["causal"][0] == "1",
        backward=table.columns["pass"][0].startswith("backward"),
        seconds=table.number("microseconds") * 1e-6,
        peak_flops_per_second=peak,
        memory_bytes_per_second=bandwidth,
        sm_count=sm_count,
    )


def _movement_points(group: Group) -> MovementPoints:
    table = group.table
    rows, columns = table.number("rows"), table.number("columns")
    element = _ELEMENT_BYTES.get(table.columns["dtype"][0], 2.0)
    passes = PASSES.get(table.columns["pass"][0], 1.0)
    told = table.number("bytes")
    _, bandwidth, _ = _rates(group, "bf16")
    warm = table.columns["source"][0].startswith("aic")
    cache = group.profile.l2_bytes or _L2_BYTES.get(group.gpu)
    return MovementPoints(
        rows=rows,
        columns=columns,
        moved_bytes=np.where(np.isfinite(told), told, rows * columns * element * passes),
        seconds=table.number("microseconds") * 1e-6,
        memory_bytes_per_second=bandwidth,
        warm_cache_bytes=np.full(len(table), float(cache or 0) if warm else 0.0),
    )


def _collective_points(group: Group) -> CollectivePoints:
    table = group.table
    profile = group.profile
    link = profile.link or profile.pcie
    fabric = table.columns["fabric"][0]
    operation = table.columns["operation"][0]
    domains = np.array([_domains(row) for row in _rows(table)], float)
    ones = np.ones(len(table))
    return CollectivePoints(
        operation=cast(Operation, _OPERATIONS.get(operation, operation)),
        message_bytes=table.number("message_bytes"),
        ranks=table.number("gpus"),
        domains=domains,
        link_bytes_per_second=ones * (link.bytes_per_second_per_direction if link else np.nan),
        network_bytes_per_second=ones * next(rate for name, rate in _NETWORKS if name in fabric),
        seconds=table.number("microseconds") * 1e-6,
    )


_POINTS: Mapping[Kind, Callable[[Group], Points]] = {
    "matmul": _matmul_points,
    "attention": _attention_points,
    "movement": _movement_points,
    "collectives": _collective_points,
    "grouped": lambda g: expert_tables.grouped_points(g.table, _own_rates(g)),
    "expert_layer": lambda g: expert_tables.layer_points(g.table, _own_rates(g)),
    "dispatch": lambda g: expert_tables.dispatch_points(g.table, g.profile),
}
