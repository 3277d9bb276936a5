"""A "training job" for the tests of `planner watch`: the described machine shows its memory.

Arguments: GiB held at each stage, or "fail" to end with status 7. After each stage it waits until
the watcher has asked twice more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

GIB = 2**30


def main(stages: list[str]) -> None:
    machine, log = Path(os.environ["FAKE_NVML_MACHINE"]), Path(os.environ["FAKE_NVML_LOG"])
    template = machine.with_name("template").read_text()
    print("training")
    for stage in stages:
        if stage == "fail":
            sys.exit(7)
        held = int(float(stage) * GIB)
        listed = template.replace("process compute 1 1", f"process compute {os.getpid()} {held}")
        beside = machine.with_name("machine-next")
        beside.write_text(listed.replace("used-by-job", str(held)))
        beside.replace(machine)
        seen = asked(log)
        while asked(log) < seen + 2:
            time.sleep(0.02)


def asked(log: Path) -> int:
    return log.read_text().count("nvmlInitWithFlags") if log.exists() else 0


if __name__ == "__main__":
    main(sys.argv[1:])
