"""What all tests share: no network, repeatable draws, and the program as users run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Draws are the same in every run, so that a failure is a finding and not weather.
settings.register_profile("planner", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("planner")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A test that opens a connection beyond this machine fails."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test opened a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def run_planner(tmp_path):
    """Run the installed program in an empty folder: run_planner("fit", "--json", ...)."""

    def run(*arguments, cwd: Path | None = None, **environment):
        return subprocess.run(
            [sys.executable, "-m", "planner", *map(str, arguments)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PLANNER_CONFIG_DIR": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
