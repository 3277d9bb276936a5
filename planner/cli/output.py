"""What commands write: the answer to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click


def print_json(answer: Mapping[str, Any]) -> None:
    """The whole answer as one JSON document; unknown is null, never NaN."""
    click.echo(json.dumps(answer, indent=2, allow_nan=False))


def warn(message: str) -> None:
    """A warning, on stderr."""
    click.echo(f"planner: warning: {message}", err=True)
