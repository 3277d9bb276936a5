"""The errors that a user can meet, as one tree.

    PlannerError            exit status 70: never raised itself
    ├── InputError          exit status 2: what was given cannot be right
    └── MissingPartError    exit status 3: a needed part is absent (a driver, an extra, the network)

Every message is one line that says where (file, line, field), what was given, and what would be
right. The command line prints `message` and, if there is one, `hint`; nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlannerError(Exception):
    """Base of all errors that are told to the user as one line."""

    exit_status = 70

    def __init__(self, message: str, hint: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field  # what was wrong, where a caller knows better where that stands

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(PlannerError):
    """A file, a field, a flag or a value that cannot be right."""

    exit_status = 2


class MissingPartError(PlannerError):
    """Something outside the planner that the answer needs and that is not here."""

    exit_status = 3


def near_match(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `name`, or None if none is close.

    >>> near_match("h100-smx", ["h100-sxm-80gb", "a100-sxm4-80gb"])
    'h100-sxm-80gb'
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def unknown(
    kind: str,
    name: object,
    candidates: Iterable[str],
    where: str = "",
    *,
    field: str | None = None,
) -> InputError:
    """The error for a name that is not in a known list, with a near match.

    >>> print(unknown("gpu", "h100-smx", ["h100-sxm-80gb"]))
    unknown gpu 'h100-smx': did you mean h100-sxm-80gb?
    """
    known = sorted(candidates)
    close = near_match(str(name), known)
    if close:
        advice = f"did you mean {close}?"
    elif len(known) <= 12:
        advice = f"known: {', '.join(known)}"
    else:
        advice = f"{len(known)} are known, none is close"
    prefix = f"{where}: " if where else ""
    return InputError(f"{prefix}unknown {kind} {str(name)!r}: {advice}", field=field)
