"""CUDA_VISIBLE_DEVICES as CUDA reads it: which GPUs and MIG instances a program may use.

Entries are separated by commas and may be mixed. An entry names
- a GPU by its number: leading blanks and a sign are allowed and what follows the digits does not
  count ("1gpu" is 1), as C's strtol reads it;
- a GPU by its UUID or any beginning of it that only one GPU has ("GPU-8932f937");
- a MIG instance by its UUID or an unambiguous beginning of it ("MIG-4f1e..."), or in the form of
  drivers before 470 ("MIG-GPU-<uuid>/<GPU instance>/<compute instance>").
The first entry that names nothing ends the list. A device named twice hides all of them.

*Source:* CUDA C++ Programming Guide, "CUDA Environment Variables"; NVIDIA MIG User Guide, "CUDA
Visible Devices"; reading of numbers and repetition as PyTorch observed it (torch/cuda/__init__.py,
`_parse_visible_devices`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

VARIABLE = "CUDA_VISIBLE_DEVICES"

_NUMBER = re.compile(r"\s*([+-]?\d+)")


@dataclass(frozen=True)
class Choice:
    """A GPU that is visible, by NVML's number; with `instance`, only that MIG instance of it."""

    gpu: int
    instance: str | None = None


@dataclass(frozen=True)
class Visible:
    """What an entry list leaves visible, in its own order."""

    chosen: tuple[Choice, ...]
    # the first entry that names nothing, and what stands behind it; empty if every entry counts
    ignored: tuple[str, ...] = ()
    # the entry that names a device for the second time: CUDA then hides all
    repeated: str | None = None


def all_visible(gpus: int) -> Visible:
    """Without the variable every GPU is visible."""
    return Visible(tuple(Choice(gpu) for gpu in range(gpus)))


def select(
    text: str,
    uuids: Sequence[str | None],
    find_instance: Callable[[str], Choice | None],
) -> Visible:
    """The devices that `text` leaves visible.

    `uuids`: of the GPUs in NVML's order, None where a GPU does not tell it. `find_instance` is
    asked only for entries that begin with "MIG-", so that no GPU is asked about MIG in vain.

    >>> select("1,GPU-aa,7,0", ["GPU-aa11", "GPU-bb22"], lambda entry: None)
    Visible(chosen=(Choice(gpu=1, instance=None), Choice(gpu=0, instance=None)), \
ignored=('7', '0'), repeated=None)
    """
    entries = text.split(",")
    chosen: list[Choice] = []
    for position, entry in enumerate(entries):
        choice = _choice(entry, uuids, find_instance)
        if choice is None:
            ignored = tuple(one.strip() for one in entries[position:])
            # A comma or a -1 at the very end takes nothing away.
            return Visible(tuple(chosen), () if ignored in (("",), ("-1",)) else ignored)
        if choice in chosen:
            return Visible((), (), repeated=entry.strip())
        chosen.append(choice)
    return Visible(tuple(chosen))


def _choice(
    entry: str,
    uuids: Sequence[str | None],
    find_instance: Callable[[str], Choice | None],
) -> Choice | None:
    name = entry.strip()
    if name.startswith("MIG-"):
        return find_instance(name)
    if name.startswith("GPU-"):
        found = unique_beginning(name, uuids)
        return None if found is None else Choice(found)
    number = _NUMBER.match(entry)
    if number and 0 <= int(number.group(1)) < len(uuids):
        return Choice(int(number.group(1)))
    return None


def unique_beginning(beginning: str, names: Sequence[str | None]) -> int | None:
    """The place of the only name that begins so; a whole name wins over longer ones.

    >>> unique_beginning("GPU-a", ["GPU-ab", "GPU-ac"]) is None
    True
    """
    if beginning in names:
        return names.index(beginning)
    found = [place for place, name in enumerate(names) if name and name.startswith(beginning)]
    return found[0] if len(found) == 1 else None
