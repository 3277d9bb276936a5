"""Reading and writing fitted constants: hardware/data/kernels/<gpu>.yaml and .surfaces.json.

The YAML is for people: constants, evidence, held-out error and source of each group. The JSON holds
the measured residuals (surface.py) of the same keys: coordinates in thousandths of a length scale,
log ratios in thousandths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from planner import documents
from planner.errors import InputError
from planner.hardware.kernel_constants import (
    AttentionConstants,
    CollectiveConstants,
    DispatchConstants,
    ExpertLayerConstants,
    KernelConstants,
    MatmulConstants,
    MovementConstants,
    Quality,
)
from planner.hardware.surface import Surface
from planner.resources import own_kernels_folder, package_file

GENERIC = "generic"  # the file of GPUs that were never measured
KINDS: Mapping[str, type[Any]] = {
    "matmul": MatmulConstants,
    "attention": AttentionConstants,
    "movement": MovementConstants,
    "collectives": CollectiveConstants,
    "grouped": MatmulConstants,
    "expert_layer": ExpertLayerConstants,
    "dispatch": DispatchConstants,
}
_THOUSANDTHS = 1000.0


def kernel_constants(gpu: str, *, pcie: bool = False) -> KernelConstants:
    """The constants of a GPU, each kind of kernel from the first place that has it.

    The user's measurements of it; the shipped ones; those of a GPU with the same silicon
    (siblings.yaml; evidence "borrowed"); the fit over all GPUs (evidence "assumed"), for
    collectives of boxes without NVLink the fit over
    those (pcie). An unknown id is not an error: it is a GPU that nobody measured.
    """
    return _merged(gpu, pcie, own_file(gpu))


def own_file(gpu: str) -> Path | None:
    """The user's own measurements of a GPU, if there are any."""
    path = own_kernels_folder() / f"{gpu}.yaml"
    return path if path.is_file() else None


@cache
def _merged(gpu: str, pcie: bool, own: Path | None) -> KernelConstants:
    generic = _generic(pcie)
    sibling = documents.load(_shipped() / "siblings.yaml").data.get(gpu)
    places = [generic]
    if sibling is not None:
        places.append(_borrowed(read_folder(_shipped(), sibling), shares_links=not pcie))
    if (_shipped() / f"{gpu}.yaml").is_file():
        places.append(read_folder(_shipped(), gpu))
    if own is not None:
        places.append(read_folder(own.parent, gpu))
    merged: dict[str, dict[str, Any]] = {
        kind: {key: one for place in places for key, one in getattr(place, kind).items()}
        for kind in KINDS
    }
    return KernelConstants(gpu=gpu, **merged)


def _generic(pcie: bool) -> KernelConstants:
    """The fits over all GPUs; `pcie`: collectives are those of boxes without NVLink."""
    generic = read_folder(_shipped(), GENERIC)
    collectives = {k: v for k, v in generic.collectives.items() if not k.startswith("pcie/")}
    if pcie:
        collectives |= {
            k.removeprefix("pcie/"): v
            for k, v in generic.collectives.items()
            if k.startswith("pcie/")
        }
    return dataclasses.replace(generic, collectives=collectives)


def _borrowed(constants: KernelConstants, *, shares_links: bool) -> KernelConstants:
    """Another GPU's constants, marked as such; without collectives if the links are others."""
    kinds = {
        kind: {
            key: dataclasses.replace(
                one,
                quality=dataclasses.replace(
                    one.quality,
                    evidence="borrowed",
                    source=f"{constants.gpu}: {one.quality.source}",
                ),
            )
            for key, one in getattr(constants, kind).items()
            if kind != "collectives" or shares_links
        }
        for kind in KINDS
    }
    return KernelConstants(gpu=constants.gpu, **kinds)


def read_folder(folder: Path, gpu: str) -> KernelConstants:
    """The constants in one folder's files of one GPU."""
    path = folder / f"{gpu}.yaml"
    given = documents.load(path).data
    surfaces = _read_surfaces(folder / f"{gpu}.surfaces.json")
    groups = {
        kind: {
            key: _constants(cls, row, surfaces.get(f"{kind}:{key}"), f"{path}: {kind}: {key}")
            for key, row in given.get(kind, {}).items()
        }
        for kind, cls in KINDS.items()
    }
    for kind, aliases in given.get("used", {}).items():
        for short, key in aliases.items():
            if key not in groups[kind]:
                raise InputError(f"{path}: used: {kind}: {short}: no constants {key!r}")
            groups[kind][short] = groups[kind][key]
    return KernelConstants(gpu=gpu, **groups)


def as_row(constants: Any) -> dict[str, Any]:
    """Constants as plain data, rounded to what the measurements can tell."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(constants):
        value = getattr(constants, field.name)
        if field.name == "surface" or _rounded(value) == field.default:
            continue
        if isinstance(value, Quality):
            row[field.name] = {
                name: _rounded(one) for name, one in vars(value).items() if one is not None
            }
        elif isinstance(value, tuple):
            row[field.name] = [_rounded(one) for one in value]
        else:
            row[field.name] = _rounded(value)
    return row


def surfaces_as_data(constants: KernelConstants) -> dict[str, Any]:
    """The surfaces of a GPU as plain data; equal sets of points are written once."""
    points: dict[bytes, int] = {}
    sets: list[Any] = []
    surfaces: dict[str, Any] = {}
    for kind in KINDS:
        for key, one in sorted(getattr(constants, kind).items()):
            if one.surface is None:
                continue
            whole = np.round(one.surface.points * _THOUSANDTHS).astype(int)
            at = points.setdefault(whole.tobytes(), len(sets))
            if at == len(sets):
                sets.append(whole.tolist())
            surfaces[f"{kind}:{key}"] = {
                "points": at,
                "noise_variance": one.surface.noise_variance,
                "log_ratios": np.round(one.surface.log_ratios * _THOUSANDTHS).astype(int).tolist(),
            }
    return {"points": sets, "surfaces": surfaces}


def _shipped() -> Path:
    return package_file("hardware") / "data" / "kernels"


def _read_surfaces(path: Path) -> dict[str, Surface]:
    if not path.is_file():
        return {}
    given = documents.load(path).data
    points = [np.array(one, float) / _THOUSANDTHS for one in given["points"]]
    return {
        key: Surface(
            points[row["points"]],
            np.array(row["log_ratios"], float) / _THOUSANDTHS,
            row["noise_variance"],
        )
        for key, row in given["surfaces"].items()
    }


def _constants(cls: type[Any], row: Mapping[str, Any], surface: Surface | None, where: str) -> Any:
    values = dict(row)
    if "quality" in values:
        values["quality"] = Quality(**values["quality"])
    for name in ("head_dims", "efficiencies"):
        if name in values:
            values[name] = tuple(values[name])
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise InputError(f"{where}: unknown constant {unknown[0]!r}")
    return cls(**values, surface=surface)


def _rounded(value: Any) -> Any:
    """Four significant digits: more than any fit can tell."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
