"""The kernel constants that a step's time needs, ready to use: one small JSON file per GPU.

hardware/data/kernels/ready/<gpu>.json is made from the fitted constants (kernel_files) by
tools/ready_kernels.py: the merged values of the keys below, and of each surface its solved weights,
so that neither YAML is parsed nor a system of equations solved when a question is asked. A test
holds them equal to kernel_files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from planner.hardware.kernel_constants import KernelConstants, Quality
from planner.hardware.kernel_files import GENERIC, KINDS, kernel_constants, own_file
from planner.hardware.surface import Surface
from planner.resources import package_file


def grouped_key(library: str) -> str:
    """Products of experts in bf16 by a library, forward and backward together.

    >>> grouped_key("torch")
    'bf16/forward+backward/torch'
    """
    return f"bf16/forward+backward/{library}"


# Grouped products are there where a GPU's were measured, all others always.
KEYS: Mapping[str, tuple[str, ...]] = {
    "matmul": ("bf16", "fp8", "nvfp4"),
    "attention": tuple(
        f"bf16/{direction}/{mask}"
        for direction in ("forward", "backward")
        for mask in ("causal", "full")
    ),
    "movement": (),
    "collectives": tuple(
        prefix + operation
        for prefix in ("", "network/")
        for operation in (
            "all_reduce",
            "all_gather",
            "reduce_scatter",
            "all_to_all",
            "send_receive",
        )
    ),
    "grouped": (grouped_key("torch"),),
    "expert_layer": (),
    "dispatch": tuple(
        f"{mode}/{operation}"
        for mode in ("deepep/normal", "hybridep/bf16 kernel")
        for operation in ("dispatch", "combine")
    ),
}
_FOLDER = "hardware/data/kernels/ready"


def file_name(gpu: str, *, pcie: bool) -> str:
    return f"{gpu}.pcie.json" if pcie else f"{gpu}.json"


def step_constants(gpu: str, *, pcie: bool = False) -> KernelConstants:
    """As kernel_constants, for the keys that a step needs; an unknown GPU has the generic fit."""
    if own_file(gpu) is not None:
        return kernel_constants(gpu, pcie=pcie)
    return _ready(gpu, pcie)


@cache
def _ready(gpu: str, pcie: bool) -> KernelConstants:
    folder = package_file(_FOLDER)
    path = folder / file_name(gpu, pcie=pcie)
    if not path.is_file():
        path = folder / file_name(GENERIC, pcie=pcie)
    given = json.loads(path.read_text(encoding="utf-8"))
    kinds = {
        kind: {key: _constants(cls, row) for key, row in given[kind].items()}
        for kind, cls in KINDS.items()
    }
    return KernelConstants(gpu=gpu, **kinds)


def _constants(cls: type[Any], row: dict[str, Any]) -> Any:
    surface, quality = row.pop("surface"), row.pop("quality")
    if surface is not None:
        points, weights = (np.array(surface[name], float) for name in ("points", "weights"))
        surface = Surface(points, np.zeros(0), 0.0, solved=weights)
    values = {name: _tuple(value) for name, value in row.items()}
    return cls(**values, surface=surface, quality=Quality(**quality))


def _tuple(value: Any) -> Any:
    return tuple(_tuple(one) for one in value) if isinstance(value, list) else value


def as_data(constants: KernelConstants) -> dict[str, Any]:
    """The ready file of a GPU as plain data."""
    return {
        kind: {key: _row(one) for key in keys if (one := _known(constants, kind, key))}
        for kind, keys in KEYS.items()
    }


def _known(constants: KernelConstants, kind: str, key: str) -> Any:
    found = getattr(constants, kind)
    return found.get(key) if kind == "grouped" else found[key]


def _row(constants: Any) -> dict[str, Any]:
    row = {f.name: getattr(constants, f.name) for f in dataclasses.fields(constants)}
    row["quality"] = dataclasses.asdict(constants.quality)
    surface: Surface | None = constants.surface
    if surface is not None:
        row["surface"] = {
            "points": np.round(surface.points, 4).tolist(),
            "weights": np.round(surface.weights, 7).tolist(),
        }
    return row
