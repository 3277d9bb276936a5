"""NCCL's collectives among the GPUs of this machine, one process each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from planner.hardware.measure.timing import Timer

Row = dict[str, str]
SIZES = tuple(2**exponent for exponent in range(16, 31, 2))  # bytes: 64 KiB to 1 GiB
_ITEM = 2  # bf16
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


def collectives(gpu: str, ranks: int, fabric: str) -> list[Row]:
    """Times of each collective among `ranks` GPUs; fabric: "NVLink" or "PCIe"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    manager = multiprocessing.get_context("spawn").Manager()
    found = manager.list()
    multiprocessing.spawn(_rank, args=(ranks, port, gpu, fabric, found), nprocs=ranks)
    return list(found)


def _rank(rank: int, ranks: int, port: int, gpu: str, fabric: str, found: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks)
    timer = Timer(f"cuda:{rank}")
    version = ".".join(map(str, torch.cuda.nccl.version()))
    for operation in OPERATIONS:
        for size in SIZES:
            dist.barrier()
            seconds = timer.burst(kernel_of(operation, rank, ranks, size, timer.device))
            if rank == 0:
                found.append(
                    {
                        "gpu": gpu,
                        "gpus": str(ranks if operation != "p2p" else 2),
                        "nodes": "1",
                        "operation": operation,
                        "dtype": "bf16",
                        "message_bytes": str(size),
                        "microseconds": f"{seconds * 1e6:.4g}",
                        "fabric": fabric,
                        "implementation": "nccl",
                        "source": f"calibrate nccl-{version}",
                    }
                )
    dist.destroy_process_group()


def kernel_of(
    operation: str, rank: int, ranks: int, size: int, device: torch.device
) -> Callable[[], object]:
    """One collective on a message of nccl-tests' size: the larger of what goes in and comes out."""
    whole = torch.zeros(size // _ITEM, dtype=torch.bfloat16, device=device)
    part = torch.zeros(size // _ITEM // ranks, dtype=torch.bfloat16, device=device)
    again = torch.empty_like(whole)
    whole = whole[: part.numel() * ranks]
    again = again[: part.numel() * ranks]
    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole)
    if operation == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, part)
    if operation == "reduce_scatter":
        return lambda: dist.reduce_scatter_tensor(part, whole)
    if operation == "all_to_all":
        return lambda: dist.all_to_all_single(again, whole)
    if rank > 1:
        return lambda: None
    return lambda: dist.send(whole, 1) if rank == 0 else dist.recv(whole, 0)
