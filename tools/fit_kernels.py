"""Fit the constants of the time model on the measured kernels, and say how well they describe them.

    python tools/fit_kernels.py              write planner/hardware/data/kernels/ (about 2 minutes)
    python tools/fit_kernels.py --report     only print: errors on held-out shapes, per group
    python tools/fit_kernels.py --unseen     only print: each GPU predicted from all others

Deterministic: the same tables give the same files. A quarter of the shapes (by a checksum of the
shape, the same on every GPU) is held out for the errors; the written constants use all shapes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from planner.hardware.kernel_constants import KernelConstants, Quality
from planner.hardware.kernel_files import GENERIC, KINDS, as_row, surfaces_as_data
from planner.hardware.power import power_slowdown
from planner.validation import kernel_fits
from planner.validation.kernel_tables import FILES, SHAPES, Group, gpu_profile, groups

FOLDER = Path(__file__).resolve().parent.parent / "planner" / "hardware" / "data" / "kernels"

# Kernels that training uses, best first, for each pass and mask: the start of the kernel's name.
ATTENTION_PREFERENCE = (
    "cudnn 92700", "cudnn 92200", "cudnn", "flash_attention", "fa3", "trtllm_mha",
    "vllm_flash_attn_fa2", "vllm",
)  # fmt: skip
# Attention kernels of the same silicon, for passes that were not measured on the GPU itself.
ATTENTION_LENDERS = {
    "h100-sxm-80gb": "h200-sxm-141gb",
    "a100-sxm4-80gb": "a100-pcie-80gb",
    "b200-sxm-180gb": "gb200-186gb",
    "b300-sxm-288gb": "gb300-288gb",
}
# Time under the power limit of long work over that of a cool burst. Measured where a table has
# both (large shapes, random operands). Boards of the same silicon under another power limit: by
# what the limit leaves of the clock; the rest is assumed, near the smallest measured.
SUSTAINED_KIN = {
    "h100-sxm-80gb": "h200-sxm-141gb",
    "b300-sxm-288gb": "b200-sxm-180gb",
    "gb300-288gb": "gb200-186gb",
}
SUSTAINED_ASSUMED = {"a100-sxm4-80gb": 1.03, "l40s": 1.10, "rtx-pro-6000-blackwell": 1.10}
LARGE_M, LARGE_NK, LEAST_SHAPES = 4096, 2048, 8


def main() -> None:
    """Write, or print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--report", action="store_true", help="errors on held-out shapes")
    parser.add_argument("--unseen", action="store_true", help="each GPU predicted from the others")
    asked = parser.parse_args()
    if asked.report or asked.unseen:
        for kind in FILES:
            found = list(groups(kind))
            judged = (kernel_fits.judge_unmeasured if asked.unseen else kernel_fits.judge)(found)
            print_errors(kind, judged)
        return
    write()


def print_errors(kind: str, judged: Sequence[kernel_fits.Fitted]) -> None:
    """One line per group with at least 8 points, and one for the table."""
    print(f"\n{kind} ({FILES[kind]}): median / p90 error in %, closed form -> with surface")
    for one in judged:
        if one.errors.size >= 8:
            print(f"  {one.group.gpu:24}{one.group.key:58}{one.errors.size:5d}  {_both(one)}")
    print(f"  {'whole table':82}{sum(one.errors.size for one in judged):5d}  {_all(judged)}")


def write() -> None:
    """Fit everything on all shapes and write the files."""
    gpus: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in FILES:
        found = list(groups(kind))
        judged = {(f.group.gpu, f.group.key): f for f in kernel_fits.judge(found)}
        unseen = kernel_fits.judge_unmeasured(found)
        centres = kernel_fits.family_centres(found)
        for group in sorted(found, key=lambda g: g.key.startswith("network/")):
            constants: Any = kernel_fits.fit_group(
                group, centres, gpus.get(group.gpu, {}).get(kind, {})
            )
            source = "; ".join(sorted(set(group.table.columns["source"])))[:120]
            held = judged.get((group.gpu, group.key))
            quality = (
                kernel_fits.quality(held, _shapes(group), source)
                if held
                else Quality(shapes=_shapes(group), source=source, evidence="measured")
            )
            gpus.setdefault(group.gpu, {}).setdefault(kind, {})[group.key] = replace(
                constants, quality=quality
            )
        gpus.setdefault(GENERIC, {})[kind] = _generic(kind, found, centres, unseen)
    for gpu, kinds in gpus.items():
        if gpu != GENERIC:
            _lend_attention(gpu, gpus)
            _sustain(gpu, kinds.get("matmul", {}))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for gpu, kinds in gpus.items():
        _write_files(gpu, KernelConstants(gpu, **{kind: kinds.get(kind, {}) for kind in KINDS}))


def _generic(
    kind: str,
    found: Sequence[Group],
    centres: dict[str, Any],
    unseen: Sequence[kernel_fits.Fitted],
) -> dict[str, Any]:
    """The fits over all GPUs, under the keys that a planner asks for."""
    constants = {}
    for family, centre in centres.items():
        off = [one.errors for one in unseen if one.group.family == family]
        members = sorted({group.gpu for group in found if group.family == family})
        quality = Quality(source="all of " + ", ".join(members), evidence="assumed")
        if off:
            joined = np.concatenate(off)
            quality = replace(
                quality,
                median_error=float(np.median(joined)),
                p90_error=float(np.quantile(joined, 0.9)),
                held_out=joined.size,
            )
        key = family.removesuffix(" burst").removesuffix(" standard")
        # "sustained", "other", "Slingshot": variants that nobody asks for on an unmeasured GPU.
        if kind in ("movement", "attention") or " " not in key:
            constants[key] = replace(centre, quality=quality)
    return constants


def _lend_attention(gpu: str, gpus: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Passes and masks that only a GPU of the same silicon was measured in."""
    own = gpus[gpu].get("attention")
    lender = ATTENTION_LENDERS.get(gpu)
    if own is None or lender is None:
        return
    have = {key.rsplit("/", 1)[0] for key in own if not _served(key)}
    for key, constants in gpus[lender]["attention"].items():
        if key.rsplit("/", 1)[0] not in have and not _served(key):
            quality = replace(constants.quality, evidence="borrowed", source=f"{lender}, {key}")
            own[f"{key} ({lender})"] = replace(constants, quality=quality)


def _served(key: str) -> bool:
    """Kernels of inference servers: prompts with a paged cache, vision encoders."""
    return not key.rsplit("/", 1)[1].startswith(("cudnn", "flash_attention"))


def _sustain(gpu: str, matmul: dict[str, Any]) -> None:
    """Write the ratio of sustained to burst time into the burst constants of a GPU."""
    for key, constants in matmul.items():
        if "/" not in key:
            matmul[key] = replace(constants, sustained_ratio=_sustained_ratio(gpu, key))


def _sustained_ratio(gpu: str, dtype: str) -> float:
    """Measured in that dtype; else of its nearest kin in width; else of the same silicon."""
    kin = SUSTAINED_KIN.get(gpu)
    if kin is not None:
        clock = power_slowdown(_watts(kin), _watts(gpu))
        return max(1.0, _sustained_ratio(kin, dtype) * clock)
    for nearest in dict.fromkeys((dtype, "bf16" if dtype == "bf16" else "fp8", "bf16")):
        ratio = _measured_ratio(gpu, nearest)
        if ratio is not None:
            return max(1.0, ratio)
    return SUSTAINED_ASSUMED.get(gpu, 1.0)


def _watts(gpu: str) -> float:
    return gpu_profile(gpu).power_limit_watts or math.nan


def _measured_ratio(gpu: str, dtype: str) -> float | None:
    """Median over large shapes that both tables have, the largest of several; None below 8 shapes.

    bf16 products are cuBLAS's whoever asks for them; narrower ones are each inference server's own,
    so that both tables must be of the same one.
    """
    burst: dict[tuple[str, ...], float] = {}
    library = ""
    sustained: dict[str, dict[tuple[str, ...], float]] = {}
    for group in groups("matmul"):
        if group.gpu != gpu or group.key.split("/")[0] != dtype:
            continue
        shapes = zip(*(group.table.columns[name] for name in SHAPES["matmul"]), strict=True)
        times = dict(zip(shapes, group.points.seconds, strict=True))
        if group.key == dtype:
            burst, library = times, group.table.columns["source"][0].split()[1]
        else:
            sustained[group.key.rsplit(" ", 1)[1]] = times
    found = []
    for maker, times in sustained.items():
        both = [
            times[shape] / seconds
            for shape, seconds in burst.items()
            if shape in times
            and int(shape[0]) >= LARGE_M
            and min(int(shape[1]), int(shape[2])) >= LARGE_NK
        ]
        if len(both) >= LEAST_SHAPES and (dtype == "bf16" or maker == library):
            found.append(float(np.median(both)))
    return max(found) if found else None


def _used(kinds: KernelConstants) -> dict[str, dict[str, str]]:
    """Short names for the attention kernels that training would use."""
    best: dict[str, tuple[int, str]] = {}
    for key in kinds.attention:
        short, kernel = key.rsplit("/", 1)
        rank = next(
            (at for at, start in enumerate(ATTENTION_PREFERENCE) if kernel.startswith(start)), None
        )
        if rank is not None and (short not in best or rank < best[short][0]):
            best[short] = (rank, key)
    return {"attention": {short: key for short, (_, key) in sorted(best.items())}}


def _write_files(gpu: str, constants: KernelConstants) -> None:
    text = (
        "# Written by tools/fit_kernels.py from planner/validation/data/kernels/. Do not edit.\n"
        "# The formulas stand in planner/performance/; errors are on shapes that were held out.\n"
    )
    used = _used(constants)
    if used["attention"]:
        text += yaml.safe_dump({"used": used}, default_flow_style=False, width=200)
    data: dict[str, Any] = {}
    for kind in KINDS:
        rows = getattr(constants, kind)
        if rows:
            data[kind] = {key: as_row(rows[key]) for key in sorted(rows)}
    text += yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=200)
    (FOLDER / f"{gpu}.yaml").write_text(text, encoding="utf-8")
    surfaces = surfaces_as_data(constants)
    if surfaces["surfaces"]:
        lines = json.dumps(surfaces, separators=(",", ":")).replace('},"', '},\n"')
        (FOLDER / f"{gpu}.surfaces.json").write_text(lines + "\n", encoding="utf-8")


def _shapes(group: Group) -> int:
    return len(group.table)


def _both(one: kernel_fits.Fitted) -> str:
    return f"{_percent(one.plain_errors)} -> {_percent(one.errors)}"


def _all(judged: Iterable[kernel_fits.Fitted]) -> str:
    judged = list(judged)
    plain = np.concatenate([one.plain_errors for one in judged])
    return f"{_percent(plain)} -> {_percent(np.concatenate([one.errors for one in judged]))}"


def _percent(errors: Any) -> str:
    return f"{100 * np.median(errors):5.1f} / {100 * np.quantile(errors, 0.9):5.1f}"


if __name__ == "__main__":
    main()
