"""Start-up against the imports that nobody can avoid: prints medians and ratios.

    python benchmarks/start_up.py

Bounds: `planner --help` at most 1.5 times `python -c "import click"`; `planner fit --json` at most
2.5 times `python -c "import click, numpy, yaml"`. Measure an installed planner on a quiet machine:
with PYTHONDONTWRITEBYTECODE set, a checkout is compiled anew at every start.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
PLANNER = [sys.executable, "-m", "planner"]
FIT = ["fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--sharding", "zero3"]
PAIRS = {
    "planner --help": ([*PLANNER, "--help"], "import click", 1.5),
    "planner fit --json": ([*PLANNER, *FIT, "--json"], "import click, numpy, yaml", 2.5),
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    for name, (command, imports, bound) in PAIRS.items():
        base = [sys.executable, "-c", imports]
        pairs = [(seconds(command), seconds(base)) for _ in range(RUNS)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name}: {ours:.3f} s, {imports!r}: {theirs:.3f} s, ratio {ratio:.2f} (<= {bound})")


if __name__ == "__main__":
    main()
