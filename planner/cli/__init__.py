"""The command line: one lazy group, one module per command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the exit status."""
    sys.stderr.write("planner: no commands yet\n")
    return 2
