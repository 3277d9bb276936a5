"""`hardware live --json`: the shape that others rely on. Unknown is null; bytes are NVML's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from planner.hardware.live import LiveMachine
from planner.hardware.live_types import LiveGpu

SCHEMA_VERSION = 1


def as_json(machine: LiveMachine) -> dict[str, Any]:
    """The whole answer as plain data."""
    joined = machine.interconnect
    return {
        "schema_version": SCHEMA_VERSION,
        "source": "nvml",
        "driver_version": machine.driver_version,
        "cuda_version": machine.cuda_version,
        "gpus": [_gpu(gpu) for gpu in machine.gpus],
        "interconnect": None if joined is None else asdict(joined),
        "warnings": list(machine.warnings),
    }


def _gpu(gpu: LiveGpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "profile": gpu.profile,
        "profile_source": gpu.profile_source,
        "memory_total_bytes": gpu.memory_total_bytes,
        "memory_free_bytes": gpu.memory_free_bytes,
        "memory_used_bytes": gpu.memory_used_bytes,
        "memory_reserved_bytes": gpu.memory_reserved_bytes,
        "memory_unified": gpu.memory_unified,
        "compute_capability": gpu.compute_capability,
        "sm_count": gpu.sm_count,
        "power_limit_watts": gpu.power_limit_watts,
        "power_default_watts": gpu.power_default_watts,
        "power_usage_watts": gpu.power_usage_watts,
        "clocks": None if gpu.clocks is None else asdict(gpu.clocks),
        "ecc": gpu.ecc,
        "compute_mode": gpu.compute_mode,
        "mps": gpu.mps,
        "pci_bus_id": gpu.pci_bus_id,
        "pcie_generation": gpu.pcie_generation,
        "pcie_width": gpu.pcie_width,
        "pcie_max_generation": gpu.pcie_max_generation,
        "pcie_max_width": gpu.pcie_max_width,
        "nvlink": None if gpu.nvlink is None else asdict(gpu.nvlink),
        "mig": None if gpu.mig is None else asdict(gpu.mig),
        "processes": None
        if gpu.processes is None
        else [asdict(process) for process in gpu.processes],
        "throttled": None if gpu.throttled is None else list(gpu.throttled),
        "state": gpu.state,
        "error": gpu.error,
    }
