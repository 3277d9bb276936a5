"""Write hardware/data/kernels/ready/: the constants that a step's time needs, per GPU.

    python tools/ready_kernels.py

Run it after tools/fit_kernels.py, or after a change of the kernels' YAML files.
"""

from __future__ import annotations

import json
from pathlib import Path

from planner import documents
from planner.hardware.kernel_files import GENERIC, kernel_constants
from planner.hardware.library import all_gpus
from planner.hardware.ready_constants import as_data, file_name

KERNELS = Path(__file__).resolve().parent.parent / "planner" / "hardware" / "data" / "kernels"


def main() -> None:
    folder = KERNELS / "ready"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    measured = {path.stem for path in KERNELS.glob("*.yaml")}
    measured |= set(documents.load(KERNELS / "siblings.yaml").data)
    wanted = [(gpu.id, gpu.link is None) for gpu in all_gpus() if gpu.id in measured]
    for gpu, pcie in [*wanted, (GENERIC, False), (GENERIC, True)]:
        data = as_data(kernel_constants(gpu, pcie=pcie))
        text = json.dumps(data, separators=(",", ":")) + "\n"
        (folder / file_name(gpu, pcie=pcie)).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
