"""Trace the training steps of case files again: bytes, and what they are.

    python tools/trace_memory.py --check CASES.json [--tolerance 0] [ID ...]
    python tools/trace_memory.py --cases CASES.json --case trace-001 --dump saved

Cases are the planner's memory cases, of one device or of one GPU of many (tests/data/README.md);
`planner trace` makes one from flags. --dump as there. Needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import transformers

from planner.validation.traced import case_of
from planner.validation.tracing.listing import dump
from planner.validation.tracing.result import record_of
from planner.validation.tracing.step import StepTrace

Record = dict[str, Any]


def differences(expected: Record, found: Record, path: str = "") -> list[str]:
    """The figures that differ, as lines."""
    lines = []
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, dict):
            lines += differences(value, other or {}, f"{path}{name}.")
        elif value != other:
            lines.append(f"{path}{name}: traced {other}, recorded {value}")
    return lines


def check(records: list[Record], tolerance: float) -> int:
    """Trace cases again and compare; the number whose peak is off by more than the tolerance."""
    wrong = same = 0
    for record in records:
        expected = record["result"]
        try:
            found = record_of(StepTrace(case_of(record)))
        except Exception as error:  # noqa: BLE001 - one case must not stop the others
            print(record["id"], "failed:", type(error).__name__, str(error)[:300], flush=True)
            wrong += 1
            continue
        lines = differences(expected, found)
        off = found["peak"]["Total"] / expected["peak"]["Total"] - 1
        wrong += abs(off) > tolerance
        same += not lines
        text = "same" if not lines else f"peak off by {off:+.4%}: " + "; ".join(lines)
        print(record["id"], record["config"]["model_type"], text, flush=True)
    print(f"{len(records) - wrong} of {len(records)} peaks within {tolerance:.2%}")
    print(f"{same} of {len(records)} cases the same to the byte")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", metavar="CASES")
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--cases")
    parser.add_argument("--case")
    parser.add_argument("--dump", action="append", default=[], metavar="MOMENT")
    parser.add_argument("--full", action="store_true", help="one line per storage")
    parser.add_argument("--limit", type=int, default=60, help="lines per dump")
    parser.add_argument("ids", nargs="*", help="with --check: only these")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if arguments.check:
        records = json.loads(Path(arguments.check).read_text())
        chosen = [r for r in records if not arguments.ids or r["id"] in arguments.ids]
        return int(check(chosen, arguments.tolerance) > 0)
    records = json.loads(Path(arguments.cases).read_text())
    traced = StepTrace(case_of(next(r for r in records if r["id"] == arguments.case)))
    print(json.dumps(record_of(traced)))
    for what in arguments.dump:
        print("", *dump(traced, what, arguments.full, arguments.limit), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
