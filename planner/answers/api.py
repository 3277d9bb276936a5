"""The planner as Python functions: what the commands answer, as dataclasses.

import planner

answer = planner.fit("llama-3.1-8b", gpu="h100", gpus=8, sharding="zero3", sequence_length=8192)
answer.estimate.verdict, answer.estimate.memory.peak_bytes, answer.limits.fewest_gpus
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from planner.answers.fit import FitAnswer
from planner.answers.fit import fit as fit_request
from planner.answers.request import Request
from planner.answers.scenarios import answers_of
from planner.answers.targets import targets_for
from planner.errors import InputError, unknown
from planner.model.sources import from_mapping, load_model
from planner.model.spec import ModelSpec
from planner.scenario.file import read_scenario
from planner.units import parse_bytes

_FIELDS = tuple(field.name for field in fields(Request))


def fit(
    model: str | Path | Mapping[str, Any] | ModelSpec,
    *,
    gpu: str,
    reserve: str | int = 0,
    usd_per_gpu_hour: float | None = None,
    oom: str | None = None,
    **request: Any,
) -> FitAnswer:
    """Does training fit, where does the memory go, how long does it take: `planner fit`.

    model    path, catalog id, the fields of a config, or what `load_model` gave
    gpu      profile id, alias, path of a profile, or "live"
    reserve  memory of each GPU to keep free [bytes, or text such as "2GiB"]
    oom      PyTorch's out-of-memory message of such a run, to be explained (the answer's `oom`)
    request  fields of `planner.Request`, named as the flags: gpus, sequence_length, sharding ...

    >>> fit("llama-3.2-1b", gpu="h100", gpus=1, sequence_length=2048).estimate.verdict
    'fits'
    """
    for name in request:
        if name not in _FIELDS:
            raise unknown("argument", name, (*_FIELDS, "gpu", "reserve", "usd_per_gpu_hour", "oom"))
    targets = targets_for(
        [gpu],
        reserve_bytes=parse_bytes(reserve, "reserve"),
        usd_per_gpu_hour=usd_per_gpu_hour,
        gpus_per_node=request.get("gpus_per_node"),
    )
    found = list(targets)
    if len(found) != 1:
        raise InputError(f"gpu {gpu}: names {len(found)} GPUs, expected one")
    return fit_request(_model(model), Request(**request), found[0], oom=oom)


def estimate_scenario(path: str | Path) -> list[FitAnswer]:
    """Every answer of a scenario file: one per GPU type and number of GPUs."""
    return answers_of(read_scenario(path))


def _model(model: str | Path | Mapping[str, Any] | ModelSpec) -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model
    return from_mapping(model) if isinstance(model, Mapping) else load_model(str(model))
