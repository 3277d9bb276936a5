"""Trace one training step as one of many GPUs sees it: FSDP2, tensor parallel, DDP, autocast, LoRA.

    python tools/trace_sharded.py --cases CASES.json --case sharded-001 --dump peak
    python tools/trace_sharded.py --check CASES.json [--tolerance 0] [ID ...]
    python tools/trace_sharded.py --json '{"config": {...}, "seq": 2048, ...}' --dump backward

Cases have the fields of the planner's sharded memory cases. Tensors are fake and the process group
is PyTorch's fake one, so world sizes and models of any size take seconds. Tensors lie on the CPU
device, since a CPU build of PyTorch knows no other; what a GPU does differently (autocast's
float32 list, the embedding's scratch, which counters lie in host memory) is done here by hand.
--dump as in trace_memory.py. Needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import transformers
from trace_layout import Record
from trace_memory import differences, print_rows
from trace_step import ShardedTrace


def check(records: list[Record], tolerance: float) -> int:
    """Trace cases again and compare; the number whose peak is off by more than the tolerance."""
    wrong = 0
    for record in records:
        expected = record["result"]
        try:
            found = ShardedTrace(record).result
        except Exception as error:  # noqa: BLE001 - one case must not stop the others
            print(record["id"], "failed:", type(error).__name__, str(error)[:300], flush=True)
            wrong += 1
            continue
        lines = differences(expected, found)
        off = found["peak"]["Total"] / expected["peak"]["Total"] - 1
        wrong += abs(off) > tolerance
        kind = f"{record['stack']} {record['code']} {record['precision']}"
        text = "same" if not lines else f"peak off by {off:+.4%}: " + "; ".join(lines)
        print(record["id"], kind, text, flush=True)
    print(f"{len(records) - wrong} of {len(records)} peaks within {tolerance:.2%}")
    return wrong


def dump(traced: ShardedTrace, what: str, full: bool, limit: int) -> None:
    """Print the storages of one moment."""
    tracker = traced.tracker
    if what == "saved" and traced.saved:
        print("held by autograd at the end of the first forward pass:")
        print_rows(traced.saved, full, limit)
        return
    what = "after_forward" if what == "saved" else what
    if what in tracker.marks:
        moment = tracker.marks[what]
    elif what == "peak":
        moment = tracker.peak_moment()
    elif what in ("forward", "backward", "optimizer"):
        moment = tracker.peak_moment(phase=what)
    else:
        moment = tracker.peak_moment(operator=what)
    print(f"{moment.total} bytes after {moment.phase}: {moment.operator}; {moment.module or '-'}")
    print_rows(tracker.live(moment), full, limit)


DEFAULTS = {
    "code": "transformers",
    "world": 1,
    "tensor_parallel": 1,
    "stack": "ddp",
    "sharding": "none",
    "gradient_as_bucket_view": False,
    "precision": "bf16-pure",
    "optimizer": "adamw",
    "implementation": "foreach",
    "attention": "flash",
    "checkpointing": False,
    "gradient_accumulation": 1,
    "finetune": None,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", metavar="CASES")
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--cases")
    parser.add_argument("--case")
    parser.add_argument("--json", help="a case as JSON; left out fields: one GPU, bf16-pure, AdamW")
    parser.add_argument("--dump", action="append", default=[], metavar="MOMENT")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("ids", nargs="*", help="with --check: only these")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if arguments.check:
        records = json.loads(Path(arguments.check).read_text())
        chosen = [r for r in records if not arguments.ids or r["id"] in arguments.ids]
        return int(check(chosen, arguments.tolerance) > 0)
    if arguments.json:
        case = DEFAULTS | json.loads(arguments.json)
        case.setdefault("layers", case["config"].get("num_hidden_layers"))
    else:
        records = json.loads(Path(arguments.cases).read_text())
        case = next(r for r in records if r["id"] == arguments.case)
    traced = ShardedTrace(DEFAULTS | case)
    print(json.dumps(traced.result))
    for what in arguments.dump:
        print()
        dump(traced, what, arguments.full, arguments.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
