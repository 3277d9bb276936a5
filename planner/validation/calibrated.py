"""From measured tables to a GPU's files of constants: the shipped ones, and a user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.documents import written
from planner.hardware.kernel_constants import KernelConstants, Quality
from planner.hardware.kernel_files import GENERIC, KINDS, as_row, kernel_constants, surfaces_as_data
from planner.hardware.profile import GpuProfile
from planner.performance.calibration.table import Kind, Table
from planner.validation import kernel_fits
from planner.validation.kernel_tables import SHAPES, Group, groups_of

# Kernels that training uses, best first, for each pass and mask: the start of the kernel's name.
ATTENTION_PREFERENCE = (
    "cudnn 92700", "cudnn 92200", "cudnn", "flash_attention", "fa3", "trtllm_mha",
    "vllm_flash_attn_fa2", "vllm",
)  # fmt: skip
# Products that reach the power limit, and how many of them a ratio of times asks for.
LARGE_M, LARGE_NK, LEAST_SHAPES = 4096, 2048, 8

Groups = Sequence[Group]
ByKey = dict[str, Any]


def fitted(found: Groups, centres: Mapping[str, Any]) -> dict[str, ByKey]:
    """Constants of each group with their quality, by GPU and key."""
    judged = {(f.group.gpu, f.group.key): f for f in kernel_fits.judge(found)}
    gpus: dict[str, ByKey] = {}
    for group in sorted(found, key=kernel_fits.builds_on_others):
        own = gpus.setdefault(group.gpu, {})
        constants: Any = kernel_fits.fit_group(group, centres, own)
        source = "; ".join(sorted(set(group.table.columns["source"])))[:120]
        shapes = len(group.table)
        held = judged.get((group.gpu, group.key))
        quality = Quality(shapes=shapes, source=source, evidence="measured")
        if held is not None:
            quality = kernel_fits.quality(held, shapes, source)
        own[group.key] = replace(constants, quality=quality)
    return gpus


def calibrated(board: GpuProfile, tables: Mapping[Kind, Table]) -> KernelConstants:
    """A GPU's constants from its own tables, leaning on the fits over all measured GPUs."""
    gpu = board.id
    generic = kernel_constants(GENERIC)
    kinds: dict[str, ByKey] = {kind: {} for kind in KINDS}
    for kind, table in tables.items():
        found = list(groups_of(kind, table, board))
        centres = {group.family: _centre(generic, group) for group in found}
        centres = {family: centre for family, centre in centres.items() if centre is not None}
        kinds[kind] = fitted(found, centres).get(gpu, {})
        if kind == "matmul":
            _sustain(gpu, found, kinds[kind])
    return KernelConstants(gpu, **kinds)


def _centre(generic: KernelConstants, group: Group) -> Any:
    """The fit over all GPUs of a group's family; None where nothing like it was measured."""
    family = group.family.removesuffix(" burst").removesuffix(" standard")
    known = getattr(generic, group.kind)
    return known.get(family, known.get(group.key.split("/")[0]))


def _sustain(gpu: str, found: Groups, matmul: ByKey) -> None:
    """Write the measured ratio of long work to a burst into the constants of the bursts."""
    for key, constants in matmul.items():
        ratio = None if "/" in key else measured_ratio(found, gpu, key)
        if ratio is not None:
            matmul[key] = replace(constants, sustained_ratio=max(1.0, ratio))


def measured_ratio(found: Groups, gpu: str, dtype: str) -> float | None:
    """Median over large shapes that both tables have, the largest of several; None below 8 shapes.

    bf16 products are cuBLAS's whoever asks for them; narrower ones are each inference server's own,
    so that both tables must be of the same one.
    """
    burst: dict[tuple[str, ...], float] = {}
    library = ""
    sustained: dict[str, dict[tuple[str, ...], float]] = {}
    for group in found:
        if group.gpu != gpu or group.key.split("/")[0] != dtype:
            continue
        shapes = zip(*(group.table.columns[name] for name in SHAPES["matmul"]), strict=True)
        times = dict(zip(shapes, group.points.seconds, strict=True))
        if group.key == dtype:
            burst, library = times, group.table.columns["source"][0].split()[1]
        else:
            sustained[group.key.rsplit(" ", 1)[1]] = times
    ratios = []
    for maker, times in sustained.items():
        both = [
            times[shape] / seconds
            for shape, seconds in burst.items()
            if shape in times
            and int(shape[0]) >= LARGE_M
            and min(int(shape[1]), int(shape[2])) >= LARGE_NK
        ]
        if len(both) >= LEAST_SHAPES and (dtype == "bf16" or maker == library):
            ratios.append(float(np.median(both)))
    return max(ratios) if ratios else None


def write_files(folder: Path, gpu: str, constants: KernelConstants, heading: str) -> Path:
    """<gpu>.yaml and <gpu>.surfaces.json in a folder; the path of the first."""
    text = heading
    used = _used(constants)
    if used["attention"]:
        text += written({"used": used}, flow=False)
    data: dict[str, Any] = {}
    for kind in KINDS:
        rows = getattr(constants, kind)
        if rows:
            data[kind] = {key: as_row(rows[key]) for key in sorted(rows)}
    text += written(data)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{gpu}.yaml"
    surfaces = surfaces_as_data(constants)
    if surfaces["surfaces"]:
        lines = json.dumps(surfaces, separators=(",", ":")).replace('},"', '},\n"')
        (folder / f"{gpu}.surfaces.json").write_text(lines + "\n", encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return path


def _used(constants: KernelConstants) -> dict[str, dict[str, str]]:
    """Short names for the attention kernels that training would use."""
    best: dict[str, tuple[int, str]] = {}
    for key in constants.attention:
        short, kernel = key.rsplit("/", 1)
        rank = next(
            (at for at, start in enumerate(ATTENTION_PREFERENCE) if kernel.startswith(start)), None
        )
        if rank is not None and (short not in best or rank < best[short][0]):
            best[short] = (rank, key)
    return {"attention": {short: key for short, (_, key) in sorted(best.items())}}
