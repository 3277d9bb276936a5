"""Fit the constants of the time model on the measured kernels, and say how well they describe them.

    python tools/fit_kernels.py              write planner/hardware/data/kernels/ and the errors
                                             on held-out shapes (about 5 minutes)
    python tools/fit_kernels.py --only dispatch   one kind of kernel anew, the others as they are
    python tools/fit_kernels.py --report     only print: errors on held-out shapes, per group
    python tools/fit_kernels.py --unseen     only print: each GPU predicted from all others

Deterministic: the same tables give the same files. A quarter of the shapes (by a checksum of the
shape, the same on every GPU) is held out for the errors; the written constants use all shapes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner import documents
from planner.hardware.kernel_constants import KernelConstants, Quality
from planner.hardware.kernel_files import GENERIC, KINDS, read_folder
from planner.hardware.power import power_slowdown
from planner.performance.calibration.table import Kind
from planner.resources import package_file
from planner.validation import kernel_errors, kernel_fits
from planner.validation.calibrated import fitted, measured_ratio, write_files
from planner.validation.kernel_tables import FILES, Group, gpu_profile, groups

HEADING = (
    "# Written by tools/fit_kernels.py from planner/validation/data/kernels/. Do not edit.\n"
    "# The formulas stand in planner/performance/; errors are on shapes that were held out.\n"
)
FOLDER = Path(__file__).resolve().parent.parent / "planner" / "hardware" / "data" / "kernels"

# Attention kernels of the same silicon, for passes that were not measured on the GPU itself.
ATTENTION_LENDERS = {
    "h100-sxm-80gb": "h200-sxm-141gb",
    "a100-sxm4-80gb": "a100-pcie-80gb",
    "b200-sxm-180gb": "gb200-186gb",
    "b300-sxm-288gb": "gb300-288gb",
}
# Time under the power limit of long work over that of a cool burst. Measured where a table has
# both (large shapes, random operands). Boards of the same silicon under another power limit: at
# least what that limit makes of the best measured board's; the rest is assumed.
SUSTAINED_KIN = {
    "h100-sxm-80gb": "h200-sxm-141gb",
    "b200-sxm-180gb": "gb200-186gb",
    "b300-sxm-288gb": "gb200-186gb",
    "gb300-288gb": "gb200-186gb",
}
SUSTAINED_ASSUMED = {"a100-sxm4-80gb": 1.03, "l40s": 1.10, "rtx-pro-6000-blackwell": 1.10}


def main() -> None:
    """Write, or print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--report", action="store_true", help="errors on held-out shapes")
    parser.add_argument("--unseen", action="store_true", help="each GPU predicted from the others")
    parser.add_argument("--only", choices=list(FILES), help="one kind of kernel")
    asked = parser.parse_args()
    kinds = [asked.only] if asked.only else list(FILES)
    if asked.report or asked.unseen:
        for kind in kinds:
            found = list(groups(kind))
            judged = (kernel_fits.judge_unmeasured if asked.unseen else kernel_fits.judge)(found)
            print_errors(kind, judged)
        return
    write(kinds)


def print_errors(kind: str, judged: Sequence[kernel_fits.Fitted]) -> None:
    """One line per group with at least 8 points, and one for the table."""
    print(f"\n{kind} ({FILES[kind]}): median / p90 error in %, closed form -> with surface")
    for one in judged:
        if one.errors.size >= 8:
            print(f"  {one.group.gpu:24}{one.group.key:58}{one.errors.size:5d}  {_both(one)}")
    print(f"  {'whole table':82}{sum(one.errors.size for one in judged):5d}  {_all(judged)}")


def write(kinds: Sequence[Kind]) -> None:
    """Fit these kinds on all shapes and write the files; other kinds stay as they are."""
    gpus: dict[str, dict[str, dict[str, Any]]] = {}
    errors: list[dict[str, str]] = []
    for kind in kinds:
        found = list(groups(kind))
        errors += kernel_errors.errors_of(kind, found)
        unseen = kernel_fits.judge_unmeasured(found)
        centres = kernel_fits.family_centres(found)
        for gpu, own in fitted(found, centres).items():
            gpus.setdefault(gpu, {})[kind] = own
        if kind != "grouped":  # where they were not measured, dense products stand for them
            gpus.setdefault(GENERIC, {})[kind] = _generic(kind, found, centres, unseen)
    for gpu, own in gpus.items():
        if gpu != GENERIC:
            _lend_attention(gpu, gpus)
            _sustain(gpu, own.get("matmul", {}))
    if len(kinds) < len(FILES):
        for name in (GENERIC, *(path.name for path in FOLDER.glob("*.surfaces.json"))):
            gpus.setdefault(name.removesuffix(".surfaces.json"), {})
    for gpu, own in gpus.items():
        kept = _as_written(gpu, [kind for kind in FILES if kind not in kinds])
        constants = KernelConstants(gpu, **{kind: {} for kind in KINDS} | kept | own)
        write_files(FOLDER, gpu, constants, HEADING)
    fitted_files = [FILES[kind] for kind in kinds]
    errors += [row for row in kernel_errors.shipped_rows() if row["table"] not in fitted_files]
    errors.sort(key=lambda row: list(FILES.values()).index(row["table"]))
    package_file(kernel_errors.FILE).write_text(kernel_errors.as_text(errors), encoding="utf-8")


def _as_written(gpu: str, kinds: Sequence[Kind]) -> dict[str, dict[str, Any]]:
    """A GPU's constants of these kinds as its files have them, without short names."""
    if not kinds:
        return {}
    rows = documents.load(FOLDER / f"{gpu}.yaml").data
    held = read_folder(FOLDER, gpu)
    return {kind: {key: getattr(held, kind)[key] for key in rows.get(kind, {})} for kind in kinds}


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
        key = family
        for usual in (" burst", " standard", " in a node"):
            key = key.removesuffix(usual)
        # "sustained", "other", "Slingshot", "in a rack": nobody asks for them on an unmeasured GPU.
        many_words = kind in ("movement", "attention", "dispatch")
        if " " not in key or (many_words and not key.endswith(" in a rack")):
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
    """Measured in that dtype or in the nearest in width; never faster than its silicon's kin."""
    found = [1.0]
    kin = SUSTAINED_KIN.get(gpu)
    if kin is not None:
        found.append(_sustained_ratio(kin, dtype) / _clock_ratio(gpu, kin))
    for nearest in dict.fromkeys((dtype, "bf16" if dtype == "bf16" else "fp8", "bf16")):
        ratio = measured_ratio(list(groups("matmul")), gpu, nearest)
        if ratio is not None:
            return max(*found, ratio)
    return max(*found, SUSTAINED_ASSUMED.get(gpu, 1.0))


def _clock_ratio(gpu: str, kin: str) -> float:
    """The clock of a board under its power limit over that of its kin."""
    own, other = _watts(gpu), _watts(kin)
    return power_slowdown(own, max(own, other)) / power_slowdown(other, max(own, other))


def _watts(gpu: str) -> float:
    return gpu_profile(gpu).power_limit_watts or math.nan


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
