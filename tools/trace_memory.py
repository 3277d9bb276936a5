"""Trace one training step of a Transformers model with fake tensors: bytes, and what they are.

    python tools/trace_memory.py --model-type llama --set hidden_size=1024 --layers 2 --seq 512 \\
        --batch 1 --attention flash --dtype bfloat16 --optimizer adamw --dump peak
    python tools/trace_memory.py --check CASES.json          # reproduce traced cases to the byte
    python tools/trace_memory.py --cases CASES.json --case trace-001 --dump saved

--dump peak | forward | backward | optimizer | OPERATOR lists the live storages at the highest
moment of the step, of a phase, of an operator such as _log_softmax; after_forward and
after_backward those at these moments; saved what autograd holds after the forward pass and which
operators saved it (with checkpointing: after_forward). Equal storages of equal layers are one line,
times their number; --full gives one line each. Needs torch and transformers (the planner does not).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from trace_model import Case, Trace, trace
from trace_recorder import Storage


def case_from_record(record: dict[str, Any]) -> Case:
    """A case of a JSON list of traced cases."""
    names = ("config", "seq", "batch", "attention", "checkpointing", "dtype", "optimizer")
    return Case(**{name: record[name] for name in names})


def differences(expected: dict[str, Any], found: dict[str, Any], path: str = "") -> list[str]:
    """The figures that differ, as lines."""
    lines = []
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, dict):
            lines += differences(value, other or {}, f"{path}{name}.")
        elif value != other:
            lines.append(f"{path}{name}: traced {other}, recorded {value}")
    return lines


def check(records: list[dict[str, Any]]) -> int:
    """Trace every case again and compare; the number of cases that differ."""
    wrong = 0
    for record in records:
        lines = differences(record["result"], trace(case_from_record(record)).result)
        wrong += bool(lines)
        print(record["id"], record["config"]["model_type"], "; ".join(lines) or "same", flush=True)
    print(f"{len(records) - wrong} of {len(records)} cases the same to the byte")
    return wrong


def rows(storages: Iterable[Storage], full: bool) -> list[tuple[int, int, Storage]]:
    """(times, bytes in all, one of them), largest first; equal ones merged unless `full`."""
    groups: dict[object, list[Storage]] = {}
    for number, storage in enumerate(storages):
        groups.setdefault(number if full else storage.key(), []).append(storage)
    merged = [(len(group), sum(s.bytes for s in group), group[0]) for group in groups.values()]
    return sorted(merged, key=lambda row: -row[1])


def print_rows(storages: list[Storage], full: bool, limit: int) -> None:
    """The table of a dump."""
    total = sum(s.bytes for s in storages)
    print(f"{len(storages)} storages, {total} bytes ({total / 2**30:.3f} GiB)")
    print("times          bytes  category    dtype     shape; made by; module; saved by")
    for times, size, one in rows(storages, full)[:limit]:
        shape = "x".join(map(str, one.shape)) or "?"
        savers = f"; saved by {', '.join(one.savers)}" if one.savers else ""
        made = f"{one.phase}: {one.operator or 'before the step'}; {one.module or '-'}"
        print(f"{times:5d} {size:14d}  {one.category:10s}  {one.dtype:8s}  {shape}; {made}{savers}")


def dump(traced: Trace, what: str, full: bool, limit: int) -> None:
    """Print the storages of one moment."""
    if what == "saved" and traced.saved:
        print("held by autograd at the end of the forward pass:")
        print_rows(traced.saved, full, limit)
        return
    recorder = traced.recorder
    what = "after_forward" if what == "saved" else what
    if what in recorder.marks:
        moment = recorder.marks[what]
    elif what == "peak":
        moment = recorder.peak_moment()
    elif what in ("forward", "backward", "optimizer"):
        moment = recorder.peak_moment(phase=what)
    else:
        moment = recorder.peak_moment(operator=what)
    print(f"{moment.total} bytes after {moment.phase}: {moment.operator}; {moment.module or '-'}")
    print_rows(recorder.live(moment), full, limit)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON where it can be, else text."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise SystemExit(f"--set {setting}: expected NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def case_from_flags(arguments: argparse.Namespace) -> Case:
    """The case that the command line describes."""
    config: dict[str, Any] = {}
    if arguments.config:
        config = json.loads(Path(arguments.config).read_text())
    if arguments.model_type:
        config["model_type"] = arguments.model_type
    config |= parse_settings(arguments.set)
    if arguments.layers:
        built = transformers.CONFIG_MAPPING[config["model_type"]]
        config[built.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = arguments.layers
    names = ("seq", "batch", "attention", "checkpointing", "dtype", "optimizer")
    return Case(config=config, **{name: getattr(arguments, name) for name in names})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model-type")
    made.add_argument("--config", help="a config.json to start from")
    made.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", action="extend")
    made.add_argument("--layers", type=int)
    made.add_argument("--seq", type=int, default=512)
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--attention", choices=("flash", "eager"), default="flash")
    made.add_argument("--checkpointing", action="store_true")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    made.add_argument("--optimizer", choices=("adamw", "sgd", "sgd-momentum"), default="adamw")
    made.add_argument("--check", metavar="CASES", help="trace a list of cases again and compare")
    made.add_argument("--cases", help="a list of cases, of which --case picks one")
    made.add_argument("--case")
    made.add_argument("--dump", action="append", default=[], metavar="MOMENT")
    made.add_argument("--full", action="store_true", help="one line per storage")
    made.add_argument("--limit", type=int, default=60, help="lines per dump")
    return made


def main() -> int:
    arguments = parser().parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    if arguments.check:
        return int(check(json.loads(Path(arguments.check).read_text())) > 0)
    if arguments.cases:
        records = json.loads(Path(arguments.cases).read_text())
        case = case_from_record(next(r for r in records if r["id"] == arguments.case))
    else:
        case = case_from_flags(arguments)
    traced = trace(case)
    print(json.dumps(traced.result))
    for what in arguments.dump:
        print()
        dump(traced, what, arguments.full, arguments.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
