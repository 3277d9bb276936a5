"""The moments of one micro-batch's cycle, every layer told, in the order of a step.

The same moments of which the peak is the largest (memory/replicated.py, memory/gathered.py): there
only the layers at which it can be are looked at, here all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.memory.peak import stage_moments
from planner.memory.rows import Row
from planner.model.spec import ModelSpec
from planner.training.layout import Layout
from planner.training.recipe import Recipe


@dataclass(frozen=True)
class Timeline:
    """stage: the pipeline stage whose GPU this is; library_workspace_bytes: held throughout."""

    stage: str
    moments: tuple[Row, ...]
    library_workspace_bytes: float

    @property
    def peak(self) -> Row:
        return max(self.moments, key=lambda row: row.total)

    def allocated_bytes(self, moment: Row) -> float:
        """What torch.cuda.memory_allocated reports then."""
        return float(moment.total) + self.library_workspace_bytes


def timeline_of(
    spec: ModelSpec, recipe: Recipe, layout: Layout, stage: str, library_workspace_bytes: float
) -> Timeline:
    """The timeline of a stage of one layout (one value a field)."""
    rows = stage_moments(spec, recipe, layout, stage).rows
    return Timeline(stage, tuple(rows), library_workspace_bytes)
