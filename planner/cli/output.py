"""What commands write: the answer to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer


def print_json(answer: Mapping[str, Any]) -> None:
    """The whole answer as one JSON document; unknown is null, never NaN."""
    click.echo(json.dumps(answer, indent=2, allow_nan=False))


def warn(message: str) -> None:
    """A warning, on stderr."""
    click.echo(f"planner: warning: {message}", err=True)


def warn_of(answer: FitAnswer) -> None:
    """What an answer warns of."""
    for message in answer.estimate.warnings:
        warn(message)
    if answer.estimate.verdict == "tight":
        warn(
            f"{answer.estimate.name} on {answer.estimate.cluster.known_as}: tight: what is "
            "available lies within the uncertainty of the peak"
        )


def write_file(path: Path, content: bytes, *, force: bool) -> None:
    """Write beside the file and rename, so that nobody reads half of it.

    force: whether a file that is there may be replaced
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if path.exists() and not force:
        raise InputError(f"{path}: exists already", "--force replaces it")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
