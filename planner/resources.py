"""Where files lie: those that the planner ships, and those that a user adds.

Shipped folders are at the top of a checkout (hardware_profiles/, scenarios/) and in planner/data/
of an installed wheel; nothing else in the package needs to know. A user's own profiles are found
before the shipped ones, in this order:

1. each folder of the environment variable PLANNER_HARDWARE_PATH (os.pathsep between them);
2. hardware_profiles/ in the planner's config folder: PLANNER_CONFIG_DIR, else the platform's own
   (on Linux ~/.config/planner).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import InputError, MissingPartError

HARDWARE_PROFILES = "hardware_profiles"
SCENARIOS = "scenarios"

HARDWARE_PATH_VARIABLE = "PLANNER_HARDWARE_PATH"
CONFIG_FOLDER_VARIABLE = "PLANNER_CONFIG_DIR"

# Wheels are always unpacked, so the package is a folder; importlib.resources would say the same
# and cost 10 ms of start-up.
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Folder:
    """A folder that is searched, and why."""

    path: Path
    origin: str  # the environment variable's name, "user" or "shipped"


def package_file(name: str) -> Path:
    """A data file inside the package, such as "model/catalog.yaml"."""
    return _PACKAGE / name


def shipped_folder(kind: str) -> Path:
    """The shipped folder HARDWARE_PROFILES or SCENARIOS, in a wheel or in a checkout."""
    in_wheel = _PACKAGE / "data" / kind
    if in_wheel.is_dir():
        return in_wheel
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    raise MissingPartError(
        f"this installation has no {kind} folder", "install the planner again from its wheel"
    )


def config_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of the user's own files; it need not exist."""
    chosen = (os.environ if environment is None else environment).get(CONFIG_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # here, because few commands need it

    return platformdirs.user_config_path("planner", appauthor=False)


def own_kernels_folder() -> Path:
    """The folder of constants that the user measured (`planner hardware calibrate`)."""
    return config_folder() / "kernels"


def hardware_folders(environment: Mapping[str, str] | None = None) -> tuple[Folder, ...]:
    """The folders of hardware profiles, in the order in which they are searched."""
    environment = os.environ if environment is None else environment
    found = []
    for name in environment.get(HARDWARE_PATH_VARIABLE, "").split(os.pathsep):
        if not name.strip():
            continue
        path = Path(name).expanduser()
        if not path.is_dir():
            raise InputError(f"{HARDWARE_PATH_VARIABLE}: no folder {name!r}")
        found.append(Folder(path, HARDWARE_PATH_VARIABLE))
    own = config_folder(environment) / HARDWARE_PROFILES
    if own.is_dir():
        found.append(Folder(own, "user"))
    return (*found, Folder(shipped_folder(HARDWARE_PROFILES), "shipped"))
