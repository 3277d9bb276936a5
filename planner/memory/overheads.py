"""What a GPU's memory holds beside tensors: library workspaces, context, communicators, slack.

Each constant is a measurement that somebody published; the spread between such measurements is the
uncertainty that the estimate states.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from planner.numeric import Number, maximum, minimum, where
from planner.training.layout import Layout
from planner.training.stacks import (
    CUBLAS_HANDLES,
    CUBLAS_WORKSPACE_BYTES,
    CUBLAS_WORKSPACE_HOPPER_BYTES,
    stack,
)
from planner.units import BYTES_PER_GIB, BYTES_PER_MIB

# CUDA context and lazily loaded kernels of a torch process: 0.47 GiB on an A100 with torch 2.1
# (stas00/ml-engineering, training/performance); about 0.3 GB by a PyTorch maintainer
# (pytorch/pytorch#107667).
CONTEXT_BYTES = int(0.47 * BYTES_PER_GIB)
# One NCCL communicator: 544 MB for 2 GPUs, 688 MB for 3 or 4 over NVLink on A100 (NVIDIA/nccl#964);
# 342 and 392 MiB in aiconfigurator's tables. Grows with channels x peers, not beyond 2 nodes.
COMMUNICATOR_BYTES = 392 * BYTES_PER_MIB
# The allocator's cache shrinks before a GPU is full: where the driver has no more memory it frees
# the blocks that are cached whole and asks again (PyTorch, c10/cuda/CUDACachingAllocator.cpp,
# release_cached_blocks). What stays is split blocks: no less than the least slack that was seen
# where nothing pressed, 2.8 % (SimuMax, 20 runs).
LEAST_SLACK = 0.028
# Half width of the interval around the device's peak: the spread of the allocator's slack (the
# stack's), of contexts, and of communicators in the sources above.
CONTEXT_SPREAD_BYTES = int(0.1 * BYTES_PER_GIB)
COMMUNICATOR_SPREAD_BYTES = 150 * BYTES_PER_MIB


@dataclass(frozen=True)
class Overheads:
    """Bytes beside the tensors, and the half width of what is known of them."""

    library_workspace: Number
    context: Number
    communicators: Number
    slack: Number
    uncertainty: Number


def communicators(layout: Layout) -> Number:
    """Communicators with more than one rank: one per parallel axis that is used."""
    axes = (
        layout.data_parallel,
        layout.tensor_parallel,
        layout.pipeline_parallel,
        layout.context_parallel,
        layout.expert_parallel,
    )
    total: Number = 0
    for axis in axes:
        total = total + where(axis > 1, 1, 0)
    return total


def overheads(
    layout: Layout,
    allocated: Number,
    compute_capability: str | None,
    logits: Number = 0,
    available: Number = inf,
) -> Overheads:
    """allocated: peak of the tensors, without the library workspace; logits: of them [bytes].

    available: what the device has [bytes]; the allocator's cache takes no more of it.
    """
    kind = stack(layout.stack)
    major = _major(compute_capability)
    one = CUBLAS_WORKSPACE_HOPPER_BYTES if major >= 9 else CUBLAS_WORKSPACE_BYTES
    workspace = one * CUBLAS_HANDLES
    groups = communicators(layout)
    tensors = allocated + workspace
    beside = CONTEXT_BYTES + groups * COMMUNICATOR_BYTES
    slack = kind.allocator_slack * tensors + kind.stranded_logits * logits
    pressed = maximum(LEAST_SLACK * tensors, available - tensors - beside)
    return Overheads(
        library_workspace=workspace,
        context=CONTEXT_BYTES,
        communicators=groups * COMMUNICATOR_BYTES,
        slack=minimum(slack, pressed),
        uncertainty=kind.slack_spread * tensors
        + CONTEXT_SPREAD_BYTES
        + groups * COMMUNICATOR_SPREAD_BYTES,
    )


def _major(capability: str | None) -> int:
    """Of an NVIDIA compute capability such as "8.6"; other devices are taken as recent."""
    word = (capability or "").split(".")[0]
    return int(word) if word.isdigit() else 9
