"""Write hardware_profiles/names.yaml anew: run it after an alias or a driver's name has changed."""

from __future__ import annotations

from pathlib import Path

from planner.documents import load
from planner.hardware.gpu_file import read_gpu

FOLDER = Path(__file__).resolve().parent.parent / "hardware_profiles"
HEAD = """\
# Every other name of the shipped GPUs: their aliases, and what the driver calls them. It saves
# reading all profiles to find one; a test holds it equal to them.
# Written by tools/index_hardware.py.
"""


def quoted(name: str) -> str:
    return name if name[0].isalpha() and "," not in name else f'"{name}"'


def main() -> None:
    lines = []
    for path in sorted((FOLDER / "gpus").glob("*.yaml")):
        profile = read_gpu(load(path))
        names = [*profile.aliases, *profile.nvml_names]
        lines.append(f"{profile.id}: [{', '.join(map(quoted, names))}]\n")
    (FOLDER / "names.yaml").write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
