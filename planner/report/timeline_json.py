"""A timeline as plain data."""

from __future__ import annotations

from typing import Any

from planner.memory.rows import GROUPS, Row
from planner.memory.timeline import Timeline


def timeline_json(timeline: Timeline) -> dict[str, Any]:
    """Every moment with its bytes, part by part; the parts add up."""
    moments = [_moment_json(timeline, moment) for moment in timeline.moments]
    return {
        "stage": timeline.stage,
        "peak_index": timeline.moments.index(timeline.peak),
        "library_workspace_bytes": round(timeline.library_workspace_bytes),
        "moments": moments,
    }


def _moment_json(timeline: Timeline, moment: Row) -> dict[str, Any]:
    parts = {group: round(float(moment.parts.get(group, 0))) for group in GROUPS}
    total = round(timeline.allocated_bytes(moment))
    parts["temporaries"] += round(timeline.library_workspace_bytes)
    largest = max(parts, key=lambda group: parts[group])
    parts[largest] += total - sum(parts.values())  # rounding is settled in the largest
    return {
        "phase": moment.phase,
        "where": moment.where,
        "layer": moment.layer,
        "allocated_bytes": total,
        "bytes": {group: size for group, size in parts.items() if size},
    }
