"""What kernel tables cannot give: how kernels and traffic behave beside each other in a step.

Values stand in performance/data/step.json, each with its range and evidence; tools/fit_step.py fits
them on measured runs, and what no run tells stays as it is assumed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from planner import documents
from planner.errors import InputError
from planner.resources import package_file

FILE = "performance/data/step.json"


@dataclass(frozen=True)
class StepConstants:
    """Shares are of the time or bytes that the closed forms give [1]; times in seconds.

    The defaults know no measured run; the shipped values are in the file.

    interference            of hidden traffic's time, what the compute beside it loses
    tensor_parallel_shown   of tensor-parallel traffic, what shows where products overlap it
    stream_switch_seconds   of a collective between two dependent kernels: its stream waits for
                            theirs, and theirs for it
    pipeline_shown          of a pipeline's sends, what shows where they overlap
    expert_shown            of dispatch and combine, what shows behind another micro-batch
    traffic_megatron, traffic_eager, traffic_compiled   bytes that elementwise kernels move, over
                            those of the tape's steps
    traffic_megatron_eager  the same with written-out attention: Megatron of before 2023, whose
                            default dropout (0.1, also on the scores) is no step of the tape
    traffic_experts, traffic_experts_fused  the same of Megatron's layers with experts, and with
                            fused grouped MLPs (full-iteration graphs)
    accurate_fp8            time of Hopper's fp8 products of the backward pass, which add up in full
                            precision, over that of the measured ones, which do not
    expert_bias_passes      extra passes over an expert's activations where its linears have biases
    expert_seconds          host's time to start one expert's products in one layer, there and back:
                            Transformer Engine starts them one by one (GroupedLinear)
    dispatch_seconds        of one layer's dispatch and combine on the host, there and back, by
                            dispatcher: token counts are read back, so that the GPU waits
    triton_attention        speed of the Triton kernels of 2023 over FlashAttention 2, by compute
                            capability (they did not use Hopper's matrix instructions)
    sustained               time of products under the power limit over that of a cool burst, by
                            GPU and dtype, where a table of long runs is missing
    """

    interference: float = 0.6
    tensor_parallel_shown: float = 0.5
    stream_switch_seconds: float = 3e-5
    pipeline_shown: float = 0.3
    expert_shown: float = 0.3
    traffic_megatron: float = 1.0
    traffic_megatron_eager: float = 1.0
    traffic_eager: float = 1.0
    traffic_compiled: float = 1.0
    traffic_experts: float = 1.0
    traffic_experts_fused: float = 1.0
    accurate_fp8: float = 1.0
    expert_bias_passes: float = 1.0
    expert_seconds: float = 3e-4
    dispatch_seconds: Mapping[str, float] = field(
        default_factory=lambda: {"alltoall": 5e-3, "hybridep": 5e-4}
    )
    triton_attention: Mapping[str, float] = field(default_factory=lambda: {"8": 1.0, "9": 1.0})
    sustained: Mapping[str, float] = field(default_factory=dict)


@cache
def step_table() -> Mapping[str, Mapping[str, Any]]:
    """The shipped values by name, each with its `evidence` and the `range` it was looked for in.

    Where there are several under one name, so are their evidence and ranges.
    """
    rows: Mapping[str, Mapping[str, Any]] = documents.load(package_file(FILE)).data["constants"]
    known = StepConstants.__dataclass_fields__
    for name in rows:
        if name not in known:
            raise InputError(f"{FILE}: constants: {name}: no such constant")
    return rows


@cache
def step_constants() -> StepConstants:
    """The shipped values."""
    return StepConstants(**{name: row["value"] for name, row in step_table().items()})
