"""Why a row's prediction is off: what is known of its source, else what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from planner.documents import load
from planner.resources import package_file
from planner.validation.predict import MEMORY_METRICS, Compared

FILE = "validation/data/reasons.yaml"


@lru_cache(maxsize=1)
def known_reasons() -> Mapping[str, Mapping[str, str]]:
    """By source: what makes its memory and its time hard to predict, each found by looking."""
    data: Mapping[str, Mapping[str, str]] = load(package_file(FILE)).data
    return data


def reason_for(metric: str, row: Compared) -> str:
    kind = "memory" if metric in (*MEMORY_METRICS, "verdict") else "time"
    known = known_reasons().get(row.run.group, {}).get(kind)
    if known:
        return known
    if row.assumptions:
        return f"assumed: {'; '.join(row.assumptions)}"
    return "not found yet"
