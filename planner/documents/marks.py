"""Lines of a document's parts, as a tree that anchors may share.

A YAML anchor used a hundred times is stored once; only `flatten` writes it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass
class Marks:
    """Where one part stands, where its parts stand, and how many parts it has in all."""

    line: int
    size: int = 1  # itself and everything below, with every alias written out
    # key -> (line of the key, marks of the value)
    parts: dict[str | int, tuple[int, Marks]] = field(default_factory=dict)

    def add(self, key: str | int, line: int, marks: Marks) -> None:
        """Put a part below this one."""
        self.parts[key] = (line, marks)
        self.size += marks.size


def flatten(marks: Marks) -> dict[KeyPath, int]:
    """The line of every path."""
    lines: dict[KeyPath, int] = {(): marks.line}
    waiting: list[tuple[KeyPath, Marks]] = [((), marks)]
    while waiting:
        path, below = waiting.pop()
        for key, (line, part) in below.parts.items():
            below_path = (*path, key)
            lines[below_path] = line
            waiting.append((below_path, part))
    return lines
