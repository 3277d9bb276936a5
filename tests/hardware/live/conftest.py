"""The fake NVML library, built once per driver branch, and the installed command run against it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nvml_machines import Machine

SOURCES = Path(__file__).with_name("fake_nvml")
COMPILER = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
# More than the command may take; the test of that bound is in test_failures.
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Ran:
    """What the command did."""

    status: int
    stdout: str
    stderr: str
    calls: tuple[str, ...]  # "function uuid" of every NVML call

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout)

    def line(self) -> str:
        """The one line of a failure."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0]


Library = Callable[[int], Path]
Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The folder of a library that exports what this driver branch exports."""
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc or clang): the fake NVML library cannot be built")
    built: dict[int, Path] = {}

    def build(branch: int) -> Path:
        if branch not in built:
            folder = tmp_path_factory.mktemp(f"nvml-{branch}")
            command = [COMPILER, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
            command += [f"-DNVML_DRIVER={branch}", "-o", str(folder / "libnvidia-ml.so.1")]
            command += [str(path) for path in sorted(SOURCES.glob("*.c"))]
            subprocess.run(command, check=True)
            built[branch] = folder
        return built[branch]

    return build


@pytest.fixture
def environment(library: Library, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment in which a described machine is "this machine"."""

    def make(machine: Machine, **variables: str) -> dict[str, str]:
        described = tmp_path / "machine"
        described.write_text(machine.text(), encoding="utf-8")
        hidden = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PLANNER_HARDWARE_PATH")
        return {
            **{name: value for name, value in os.environ.items() if name not in hidden},
            "LD_LIBRARY_PATH": str(library(machine.branch)),
            "FAKE_NVML_MACHINE": str(described),
            "FAKE_NVML_LOG": str(tmp_path / "calls"),
            "PLANNER_CONFIG_DIR": str(tmp_path / "config"),
            "COLUMNS": "160",
            **variables,
        }

    return make


@pytest.fixture
def planner(environment: Callable[..., dict[str, str]], tmp_path: Path) -> Run:
    """The installed program on a described machine: planner(machine, arguments, VARIABLE=...)."""
    program = Path(sys.executable).with_name("planner")

    def run(machine: Machine, *arguments: str, **variables: str) -> Ran:
        log = tmp_path / "calls"
        log.write_text("")
        done = subprocess.run(
            [str(program), *arguments],
            env=environment(machine, **variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr, tuple(log.read_text().splitlines()))

    return run


@pytest.fixture
def live(planner: Run) -> Run:
    """`planner hardware live --json` on a described machine."""

    def run(machine: Machine, **variables: str) -> Ran:
        return planner(machine, "hardware", "live", "--json", **variables)

    return run
