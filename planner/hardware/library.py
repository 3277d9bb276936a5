"""Find profiles: by path, by id, by alias, or by what the driver calls the device.

Search order: a path that is given; the folders of PLANNER_HARDWARE_PATH; the user's config folder;
what is shipped (`planner.resources`). The first that knows a name wins, so a user's profile may
replace a shipped one. A folder holds gpus/ and nodes/, or the files of either side by side.

A name costs one or two small files: a shipped profile is found by its file's name, its other names
stand in hardware_profiles/names.yaml. Only the users' own files are read to see what they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from planner.documents import Document, load
from planner.errors import InputError, near_match, unknown
from planner.hardware.gpu_file import read_gpu
from planner.hardware.node_file import read_node
from planner.hardware.profile import GpuProfile, NodeProfile
from planner.resources import HARDWARE_PROFILES, Folder, hardware_folders, shipped_folder

Profile = TypeVar("Profile", GpuProfile, NodeProfile)

SHIPPED = "shipped"  # the origin of the planner's own folder
_SUFFIXES = (".yaml", ".yml", ".json")
# Longer than any device's name, shorter than any file system's limit.
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Kind(Generic[Profile]):
    """What is looked for: how it is called, where it lies, how it is read."""

    word: str
    folder: str
    read: Callable[[Document], Profile]


GPU: Kind[GpuProfile] = Kind("gpu", "gpus", read_gpu)
NODE: Kind[NodeProfile] = Kind("node", "nodes", read_node)


@dataclass(frozen=True)
class Listed(Generic[Profile]):
    """One file of the library: its profile, or why it has none."""

    id: str
    path: str
    origin: str  # PLANNER_HARDWARE_PATH, "user" or "shipped"
    profile: Profile | None
    problem: str | None = None
    replaced_by: str | None = None  # the path of the file that wins


def find_gpu(name: str, environment: Mapping[str, str] | None = None) -> GpuProfile:
    """The GPU of this path, id, alias or driver's name; case and spaces do not matter."""
    return _find(GPU, name, environment)


def find_node(name: str, environment: Mapping[str, str] | None = None) -> NodeProfile:
    """The node type of this path or id."""
    return _find(NODE, name, environment)


def find(name: str, environment: Mapping[str, str] | None = None) -> GpuProfile | NodeProfile:
    """The GPU or the node type of this name, or of this path."""
    if _is_path(name):
        path = _path(name)
        if _looks_like(NODE.word, load(path).data):
            return _read(NODE, path, "path")
        return _read(GPU, path, "path")
    found = _search(GPU, name, environment) or _search(NODE, name, environment)
    if found is None:
        raise _unknown((GPU, NODE), name, environment)
    return found


def all_gpus(environment: Mapping[str, str] | None = None) -> tuple[GpuProfile, ...]:
    """Every GPU that can be found, the winners only; a file that is wrong is an error."""
    return _all(GPU, environment)


def all_nodes(environment: Mapping[str, str] | None = None) -> tuple[NodeProfile, ...]:
    """Every node type that can be found, the winners only; a file that is wrong is an error."""
    return _all(NODE, environment)


def list_files(
    kind: Kind[Profile], environment: Mapping[str, str] | None = None
) -> list[Listed[Profile]]:
    """Every file of a kind in search order, also those that are wrong or replaced."""
    found: list[Listed[Profile]] = []
    winners: dict[str, str] = {}
    for folder in hardware_folders(environment):
        for path in _files(kind, folder):
            try:
                profile = _read(kind, path, folder.origin)
            except InputError as error:
                found.append(Listed(path.stem, str(path), folder.origin, None, str(error)))
                continue
            won = winners.setdefault(profile.id, str(path))
            replaced_by = None if won == str(path) else won
            found.append(
                Listed(profile.id, str(path), folder.origin, profile, replaced_by=replaced_by)
            )
    return found


def reference_titles() -> dict[str, str]:
    """What the references of the shipped profiles stand for."""
    data = load(shipped_folder(HARDWARE_PROFILES) / "sources.yaml").data
    return {key: str(title) for key, title in data.items()}


def _find(kind: Kind[Profile], name: str, environment: Mapping[str, str] | None) -> Profile:
    if _is_path(name):
        return _read(kind, _path(name), "path")
    found = _search(kind, name, environment)
    if found is None:
        raise _unknown((kind,), name, environment)
    return found


def _search(
    kind: Kind[Profile], name: str, environment: Mapping[str, str] | None
) -> Profile | None:
    wanted = _key(name[:_LONGEST_NAME])
    for folder in hardware_folders(environment):
        if folder.origin == SHIPPED:
            shipped = _shipped_id(kind, wanted)
            if shipped is not None:
                return _read(kind, folder.path / kind.folder / f"{shipped}.yaml", SHIPPED)
            continue
        for path in _files(kind, folder):
            if wanted in _names_in(path):
                return _read(kind, path, folder.origin)
    return None


def _all(kind: Kind[Profile], environment: Mapping[str, str] | None) -> tuple[Profile, ...]:
    profiles = []
    for listed in list_files(kind, environment):
        if listed.problem is not None:
            raise InputError(listed.problem)
        if listed.profile is not None and listed.replaced_by is None:
            profiles.append(listed.profile)
    return tuple(profiles)


def _read(kind: Kind[Profile], path: Path, origin: str) -> Profile:
    document = load(path)
    other = NODE if kind.word == GPU.word else GPU
    if _looks_like(other.word, document.data):
        raise InputError(
            f"{path}: is the profile of a {other.word}, expected that of a {kind.word}"
        )
    return replace(kind.read(document), origin=origin)


def _files(kind: Kind[Profile], folder: Folder) -> Iterator[Path]:
    """The files of a kind in a folder, by name."""
    for suffix in _SUFFIXES:
        yield from sorted((folder.path / kind.folder).glob(f"*{suffix}"))
    if folder.origin != SHIPPED:
        other = NODE.word if kind.word == GPU.word else GPU.word
        for path in sorted(folder.path.iterdir()):
            if path.suffix in _SUFFIXES and not _looks_like(other, _data_or_none(path)):
                yield path


def _names_in(path: Path) -> list[str]:
    """The names that a user's file answers to; a broken file answers to its file name only."""
    data = _data_or_none(path)
    if not isinstance(data, dict):
        return [_key(path.stem)]
    names = [data.get("id")]
    for field in ("aliases", "nvml_names"):
        listed = data.get(field)
        names += listed if isinstance(listed, list) else []
    return [_key(name) for name in names if isinstance(name, str)] or [_key(path.stem)]


def _data_or_none(path: Path) -> object:
    try:
        return load(path).data
    except InputError:
        return None


def _looks_like(word: str, data: object) -> bool:
    """Whether the data is clearly that of the other kind of file."""
    if not isinstance(data, dict):
        return False
    if word == NODE.word:
        return "gpu" in data and "peak" not in data
    return "peak" in data and "gpu" not in data


def _shipped_id(kind: Kind[Profile], wanted: str) -> str | None:
    folder = shipped_folder(HARDWARE_PROFILES) / kind.folder
    if (folder / f"{wanted}.yaml").is_file():
        return wanted
    return _shipped_names().get(wanted) if kind.word == GPU.word else None


@cache
def _shipped_names() -> Mapping[str, str]:
    """Every other name of a shipped GPU -> its id."""
    data = load(shipped_folder(HARDWARE_PROFILES) / "names.yaml").data
    return {_key(name): gpu for gpu, names in data.items() for name in names}


def _unknown(
    kinds: Sequence[Kind[Any]], name: str, environment: Mapping[str, str] | None
) -> InputError:
    names: dict[str, str] = {}  # every name -> what to call it
    for kind in kinds:
        names.update(_shipped_names() if kind.word == GPU.word else {})
        for folder in hardware_folders(environment):
            for path in _files(kind, folder):
                known = [path.stem] if folder.origin == SHIPPED else _names_in(path)
                names.update(dict.fromkeys(known, known[0]))
    word = kinds[0].word
    shown = name[:_LONGEST_NAME]
    close = near_match(_key(shown), names)
    if close is None:
        message = unknown(word, shown, set(names.values())).message
        return InputError(message, "planner hardware list shows them")
    return InputError(f"unknown {word} {shown!r}: did you mean {names[close]}?")


def _is_path(name: str) -> bool:
    """A file's suffix says so, or a separator does ("AMD Instinct MI250X/MI250" is a name)."""
    if name.lower().endswith(_SUFFIXES) or name.startswith((".", "~")):
        return True
    return (os.sep in name or "/" in name) and _key(name) not in _shipped_names()


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # "~somebody" who is not known here
        return Path(name)


def _key(name: str) -> str:
    """How names are compared.

    >>> _key("NVIDIA GeForce RTX 4090"), _key("H100_SXM")
    ('nvidia-geforce-rtx-4090', 'h100-sxm')
    """
    return "-".join(name.casefold().replace("_", " ").split())
