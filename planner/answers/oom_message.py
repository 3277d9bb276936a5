"""What PyTorch says when memory runs out, as numbers.

The wordings are those of the caching allocators of CUDA, HIP and XPU, releases 1.4 to 2.13
(c10/cuda/CUDACachingAllocator.cpp). A size is printed with two decimals in its largest unit, so
that it is known to half of its last digit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.errors import InputError
from planner.units import BYTES_PER_GIB, BYTES_PER_KIB, BYTES_PER_MIB

_UNITS = {"bytes": 1, "KiB": BYTES_PER_KIB, "MiB": BYTES_PER_MIB, "GiB": BYTES_PER_GIB}
_SIZE = rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})"
_DIGITS = 0.005  # half of the last of two decimals
_TRIED = re.compile(rf"tried to allocate {_SIZE}", re.IGNORECASE)
_OUT = re.compile(r"out of memory", re.IGNORECASE)
# Each figure in the old wording and in the new (2.1 wrote "capacty").
_FIGURES = {
    "capacity": (rf"total capaci?ty of {_SIZE}", rf"{_SIZE} total capaci?ty"),
    "free": (rf"of which {_SIZE} is free", rf"{_SIZE} free"),
    "allocated": (rf"{_SIZE} is allocated by PyTorch", rf"{_SIZE} already allocated"),
    "reserved": (rf"{_SIZE} reserved in total by PyTorch",),
    "unallocated": (rf"{_SIZE} is reserved by PyTorch but unallocated",),
    "process": (rf"this process has {_SIZE} memory in use",),
}


@dataclass(frozen=True)
class OutOfMemory:
    """The message's figures [bytes]; None: not said.

    tried        what the allocator asked the device for; tolerance: how far its digits are
    unallocated  reserved by PyTorch and in no tensor's use: fragments, since what was free as a
                 whole has been given back before the message
    others       in use on the GPU beside this process's tensors and reserve
    """

    tried: float
    tolerance: float
    capacity: float | None = None
    free: float | None = None
    allocated: float | None = None
    unallocated: float | None = None
    process: float | None = None

    @property
    def missing(self) -> float | None:
        """How much more would have had to be free on the device."""
        return None if self.free is None else max(self.tried - self.free, 0.0)

    @property
    def others(self) -> float | None:
        known = (self.capacity, self.free, self.allocated, self.unallocated)
        if None in known:
            return None
        capacity, free, allocated, unallocated = (value or 0.0 for value in known)
        return max(capacity - free - allocated - unallocated, 0.0)


def read_message(text: str) -> OutOfMemory:
    """The figures of a message; the text around it does not matter.

    >>> read_message("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity "
    ...     "of 79.20 GiB of which 1.50 GiB is free.").missing / 2**30
    0.5
    """
    joined = " ".join(text.split())
    tried = _TRIED.search(joined)
    if tried is None or not _OUT.search(joined):
        shown = joined if len(joined) <= 60 else f"{joined[:57]}..."
        raise InputError(
            f"oom {shown!r}: expected PyTorch's message, with 'out of memory' and 'Tried to "
            "allocate 2.00 GiB'",
            field="oom",
        )
    joined = joined[tried.start() :]
    found = {name: _first(patterns, joined) for name, patterns in _FIGURES.items()}
    reserved = found.pop("reserved")
    if found["unallocated"] is None and reserved is not None and found["allocated"] is not None:
        found["unallocated"] = max(reserved - found["allocated"], 0.0)
    number, unit = tried.groups()
    exact = unit == "bytes"
    return OutOfMemory(
        float(number) * _UNITS[unit], 0.0 if exact else _DIGITS * _UNITS[unit], **found
    )


def _first(patterns: tuple[str, ...], text: str) -> float | None:
    for pattern in patterns:
        found = re.search(pattern, text)
        if found:
            return float(found[1]) * _UNITS[found[2]]
    return None


# What the allocator asks the device for (kMinBlockSize, kSmallSize, kSmallBuffer, kMinLargeAlloc,
# kLargeBuffer and kRoundLarge of c10/core/AllocatorConfig.h): blocks of 512 bytes; one of at most
# 1 MiB takes a segment of 2 MiB, one below 10 MiB a segment of 20 MiB, a larger one its own size in
# steps of 2 MiB.
BLOCK_BYTES = 512
SMALL_BYTES, SMALL_SEGMENT_BYTES = BYTES_PER_MIB, 2 * BYTES_PER_MIB
MIDDLE_BYTES, MIDDLE_SEGMENT_BYTES = 10 * BYTES_PER_MIB, 20 * BYTES_PER_MIB
LARGE_STEP_BYTES = 2 * BYTES_PER_MIB


def segment_bytes(tensor_bytes: float) -> float:
    """What "Tried to allocate" says of a tensor of this size.

    >>> segment_bytes(3 * 2**20) / 2**20, segment_bytes(33.1 * 2**20) / 2**20
    (20.0, 34.0)
    """
    block = -(-tensor_bytes // BLOCK_BYTES) * BLOCK_BYTES
    if block <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block < MIDDLE_BYTES:
        return MIDDLE_SEGMENT_BYTES
    return -(-block // LARGE_STEP_BYTES) * LARGE_STEP_BYTES
