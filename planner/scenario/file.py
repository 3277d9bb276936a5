"""A scenario file as it was read: its fields, and where each stands, so that errors can say it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from planner.documents import Document, KeyPath, load
from planner.errors import PlannerError
from planner.resources import SCENARIOS, shipped_folder
from planner.scenario.fields import Scenario
from planner.schema import build


@dataclass(frozen=True)
class ScenarioFile:
    """path: as the user named it."""

    path: Path
    scenario: Scenario
    document: Document
    text: str = field(repr=False)  # as it stands in the file

    @property
    def name(self) -> str:
        """The scenario's name, or else its file's."""
        return self.scenario.name or self.path.stem

    def beside(self, name: str) -> str:
        """A path that the scenario gives, seen from here; what is no such file stays a name."""
        path = Path(name).expanduser()
        found = path if path.is_absolute() else self.path.parent / path
        return str(found) if found.exists() or _is_path(name) else name

    @contextmanager
    def placed(self, *otherwise: str) -> Iterator[None]:
        """Errors inside name the file, the line and the field that they are about.

        otherwise: the field's path where the error does not say which one it is about
        """
        try:
            yield
        except PlannerError as error:
            if error.message.startswith(f"{self.document.source}:"):
                raise
            path = self._path_of(error.field) or otherwise
            message = error.message
            if path and error.field:  # "layout.sharding: zero1", not "...: sharding zero1"
                message = message.removeprefix(f"{error.field} ").removeprefix(f"{error.field}: ")
            told = self.document.error(path, message, error.hint)
            raise type(error)(told.message, told.hint) from None

    def _path_of(self, field: str | None) -> KeyPath | None:
        """Where a field of a request stands in this file, if it does."""
        if field is None:
            return None
        path = _PATHS.get(field, ())
        found = [p for p in (*path, *_everywhere(field)) if self._has(p)]
        return found[0] if found else None

    def _has(self, path: KeyPath) -> bool:
        data = self.document.data
        for key in path:
            if not isinstance(data, dict) or key not in data:
                return False
            data = data[key]
        return True


# Fields of a request that have another name or place here.
_PATHS: dict[str, tuple[KeyPath, ...]] = {
    "finetune": (("recipe", "finetune", "method"), ("recipe", "finetune")),
    "lora_rank": (("recipe", "finetune", "rank"),),
    "lora_targets": (("recipe", "finetune", "targets"), ("recipe", "finetune")),
    "quantize": (("recipe", "finetune", "quantize"),),
    "gradient_accumulation": (("layout", "gradient_accumulation_steps"),),
}


def _everywhere(field: str) -> tuple[KeyPath, ...]:
    return ((field,), *((part, field) for part in ("recipe", "layout", "hardware", "budget")))


def _is_path(name: str) -> bool:
    """A suffix or a leading dot makes it a path, also where no file is there to be found."""
    return name.lower().endswith((".json", ".yaml", ".yml")) or name.startswith((".", "~"))


def read_scenario(path: str | Path) -> ScenarioFile:
    """Read a scenario file strictly; an error names the file, the line and the field.

    The worked scenarios that are shipped are also found by their names alone.
    """
    path = worked_scenarios().get(str(path), path)
    document = load(path)
    scenario = build(Scenario, document)
    text = Path(path).read_text(encoding="utf-8-sig")  # `load` has shown that it can be read
    return ScenarioFile(Path(path), scenario, document, text)


def worked_scenarios() -> dict[str, Path]:
    """The scenarios that are shipped, by name."""
    return {path.stem: path for path in sorted(shipped_folder(SCENARIOS).glob("*.yaml"))}
