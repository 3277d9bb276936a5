"""Training-resource planner for language models.

Does training fit on these GPUs, how many are needed, how long does it take, what does it cost?
`planner.fit(...)` answers as `planner fit` does; every other command has its function here too.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.advice.sensitivity import Sensitivity
    from planner.answers.api import estimate_scenario, fit
    from planner.answers.fit import FitAnswer, Limits, Target
    from planner.answers.params import ParamsAnswer, params
    from planner.answers.request import Request
    from planner.answers.sensitivity import sensitivity_of as sensitivity
    from planner.errors import InputError, MissingPartError, PlannerError
    from planner.estimate import Estimate, MemoryEstimate
    from planner.hardware.library import all_gpus, find_gpu
    from planner.hardware.profile import GpuProfile
    from planner.model.sources import load_model
    from planner.model.spec import ModelSpec
    from planner.report.as_json import answer_json as to_dict

# Public name -> module, and the name there where it differs.
_PUBLIC = {
    "Estimate": "planner.estimate",
    "FitAnswer": "planner.answers.fit",
    "GpuProfile": "planner.hardware.profile",
    "InputError": "planner.errors",
    "Limits": "planner.answers.fit",
    "MemoryEstimate": "planner.estimate",
    "MissingPartError": "planner.errors",
    "ModelSpec": "planner.model.spec",
    "ParamsAnswer": "planner.answers.params",
    "PlannerError": "planner.errors",
    "Request": "planner.answers.request",
    "Sensitivity": "planner.advice.sensitivity",
    "Target": "planner.answers.fit",
    "all_gpus": "planner.hardware.library",
    "estimate_scenario": "planner.answers.api",
    "find_gpu": "planner.hardware.library",
    "fit": "planner.answers.api",
    "load_model": "planner.model.sources",
    "params": "planner.answers.params",
    "sensitivity": "planner.answers.sensitivity:sensitivity_of",
    "to_dict": "planner.report.as_json:answer_json",
}

__all__ = [
    "Estimate",
    "FitAnswer",
    "GpuProfile",
    "InputError",
    "Limits",
    "MemoryEstimate",
    "MissingPartError",
    "ModelSpec",
    "ParamsAnswer",
    "PlannerError",
    "Request",
    "Sensitivity",
    "Target",
    "all_gpus",
    "estimate_scenario",
    "find_gpu",
    "fit",
    "load_model",
    "params",
    "sensitivity",
    "to_dict",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("llm-training-planner")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    module, _, there = _PUBLIC[name].partition(":")
    value = getattr(import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
