"""The scripts that made the traced data still reproduce it, where PyTorch and Transformers are.

They are no dependency of the planner or of its tests: without them these tests are skipped.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "peft")),
    reason="needs PyTorch, Transformers and peft",
)


def run_tool(name: str, *arguments: str) -> str:
    """A script of tools/ as a maintainer runs it: its stdout, when it ends well."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def few(path: Path, into: Path, key: str, names: tuple[str, ...]) -> str:
    """A file with some cases of a list."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        cases = [case for case in json.load(file) if case[key] in names]
    assert len(cases) == len(names)
    into.write_text(json.dumps(cases))
    return str(into)


def test_single_gpu_traces_reproduce_to_the_byte(tmp_path):
    names = ("trace-025", "trace-044", "trace-056")
    cases = few(DATA / "memory_visible.json", tmp_path / "cases.json", "id", names)
    assert "3 of 3 cases the same" in run_tool("trace_memory.py", "--check", cases)


def test_sharded_traces_reproduce_to_the_byte(tmp_path):
    names = ("sharded-038", "sharded-091")
    source = DATA / "memory_sharded_visible.json"
    cases = few(source, tmp_path / "cases.json", "id", names)
    assert "2 of 2 peaks within 0.00%" in run_tool("trace_memory.py", "--check", cases)


def test_parameter_counts_reproduce(tmp_path):
    names = ("qwen3-next-80b-a3b", "opt-30b", "llama4-default-causal-lm")
    cases = few(DATA / "params_visible.json.gz", tmp_path / "cases.json", "name", names)
    assert "3 of 3 the same" in run_tool("parameter_cases.py", "check", cases)


def test_a_dump_adds_up_to_the_peak():
    cases = str(DATA / "memory_small.json")
    flags = ("--dump", "peak", "--full", "--limit", "10000")
    first = json.loads(Path(cases).read_text())[0]["id"]
    text = run_tool("trace_memory.py", "--cases", cases, "--case", first, *flags)
    result, dump = text.split("\n\n")
    rows = [line.split()[1] for line in dump.splitlines()[3:]]
    assert sum(map(int, rows)) == json.loads(result)["peak"]["Total"]


def test_the_defaults_of_a_family_are_what_its_class_declares(tmp_path):
    output = tmp_path / "defaults.json"
    run_tool("family_defaults.py", "-o", str(output), "llama", "jamba")
    written = json.loads(output.read_text())["families"]
    shipped = json.loads((ROOT / "planner" / "model" / "families" / "defaults.json").read_text())[
        "families"
    ]
    assert written == {name: shipped[name] for name in ("llama", "jamba")}
