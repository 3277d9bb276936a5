"""Run the commands that README.md shows and write what they print below them.

    python tools/readme_examples.py           rewrite README.md
    python tools/readme_examples.py --check   only say whether it is true; status 1 if not

A block of README.md that begins with "$ planner" is one command and its whole output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ (planner [^\n]*)\n(.*?)```", re.DOTALL)


def output_of(command: str) -> str:
    """What a command prints for a person who pipes it: no colour, a fixed width."""
    arguments = command.split()[1:]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "110"}
    done = subprocess.run(
        [sys.executable, "-m", "planner", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def refreshed(text: str) -> str:
    def block(match: re.Match[str]) -> str:
        return f"```console\n$ {match[1]}\n{output_of(match[1])}```"

    return BLOCK.sub(block, text)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    new = refreshed(text)
    if "--check" in sys.argv:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
