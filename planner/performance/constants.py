"""What kernel tables cannot give: how kernels and traffic behave beside each other in a step.

Values stand in performance/data/step.json, each with its range and evidence; tools/fit_step.py fits
the fitted ones on measured runs.
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
    pipeline_shown          of a pipeline's sends, what shows where they overlap
    expert_shown            of dispatch and combine, what shows behind another micro-batch
    traffic_megatron, traffic_eager, traffic_compiled   bytes that elementwise kernels move, over
                            those of the tape's steps
    fused_experts_traffic   of them what is left with fused grouped MLPs (full-iteration graphs)
    expert_bias_passes      extra passes over an expert's activations where its linears have biases
    dispatch_seconds        of one layer's dispatch and combine on the host, there and back, by
                            dispatcher: token counts are read back, so that the GPU waits
    triton_attention        speed of the Triton kernels of 2023 over FlashAttention 2
    sustained               time of products under the power limit over that of a cool burst, by
                            GPU and dtype, where a table of long runs is missing
    """

    interference: float = 0.6
    tensor_parallel_shown: float = 0.5
    pipeline_shown: float = 0.3
    expert_shown: float = 0.3
    traffic_megatron: float = 1.0
    traffic_eager: float = 1.0
    traffic_compiled: float = 1.0
    fused_experts_traffic: float = 1.0
    expert_bias_passes: float = 1.0
    dispatch_seconds: Mapping[str, float] = field(
        default_factory=lambda: {"alltoall": 5e-3, "deepep": 5e-3, "hybridep": 5e-4}
    )
    triton_attention: float = 1.0
    sustained: Mapping[str, float] = field(default_factory=dict)


@cache
def step_constants() -> StepConstants:
    """The shipped values."""
    rows: Mapping[str, Any] = documents.load(package_file(FILE)).data["constants"]
    known = StepConstants.__dataclass_fields__
    for name in rows:
        if name not in known:
            raise InputError(f"{FILE}: constants: {name}: no such constant")
    return StepConstants(**{name: row["value"] for name, row in rows.items()})
