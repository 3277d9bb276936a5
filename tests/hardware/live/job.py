"""A "training job" for the tests of `planner watch`: the described machine shows its memory.

Arguments: GiB held at each stage, or "fail" to end with status 7. After each stage it waits until
the watcher has asked twice more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

MACHINE = Path(os.environ["FAKE_NVML_MACHINE"])
LOG = Path(os.environ["FAKE_NVML_LOG"])
GIB = 2**30


def asked() -> int:
    return LOG.read_text().count("nvmlInitWithFlags") if LOG.exists() else 0


def show(text: str, held: int) -> None:
    listed = text.replace("process compute 1 1", f"process compute {os.getpid()} {held}")
    beside = MACHINE.with_name("machine-next")
    beside.write_text(listed.replace("used-by-job", str(held)))
    beside.replace(MACHINE)


template = MACHINE.with_name("template").read_text()
print("training")
for stage in sys.argv[1:]:
    if stage == "fail":
        sys.exit(7)
    show(template, int(float(stage) * GIB))
    seen = asked()
    while asked() < seen + 2:
        time.sleep(0.02)
