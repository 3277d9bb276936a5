"""NVML structures that the binding has wrong or not at all, declared from the public header.

- The fabric structures of nvidia-ml-py are wrong in many releases (the state is one byte, the
  cluster UUID is binary); both calls take a pointer, and a structure by value kills the process.
- Drivers before 450 know only process lists without a version, with a smaller structure, which no
  release since 11.450 can read.

*Source:* nvml.h of the CUDA toolkit: nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t,
nvmlProcessInfo_v1_t.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import uuid
from typing import Any

import pynvml

INSUFFICIENT_SIZE = 7
NOT_AVAILABLE = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE
PR_SET_PDEATHSIG = 1  # prctl(2)


class FabricInfoV1(ctypes.Structure):
    """nvmlGpuFabricInfo_t"""

    _fields_ = (
        ("clusterUuid", ctypes.c_ubyte * 16),
        ("status", ctypes.c_int),
        ("cliqueId", ctypes.c_uint),
        ("state", ctypes.c_ubyte),
    )


class FabricInfoV2(ctypes.Structure):
    """nvmlGpuFabricInfo_v2_t"""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("clusterUuid", ctypes.c_ubyte * 16),
        ("status", ctypes.c_int),
        ("cliqueId", ctypes.c_uint),
        ("state", ctypes.c_ubyte),
        ("healthMask", ctypes.c_uint),
    )


class ProcessInfoV1(ctypes.Structure):
    """nvmlProcessInfo_v1_t"""

    _fields_ = (("pid", ctypes.c_uint), ("usedGpuMemory", ctypes.c_ulonglong))


def fabric_v2(handle: Any) -> dict[str, Any]:
    """The fabric by the versioned call (drivers since 550)."""
    info = FabricInfoV2(version=ctypes.sizeof(FabricInfoV2) | 2 << 24)
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    return {**_plain_fabric(info), "health_mask": int(info.healthMask)}


def fabric_v1(handle: Any) -> dict[str, Any]:
    """The fabric by the call without a version."""
    info = FabricInfoV1()
    pynvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    return {**_plain_fabric(info), "health_mask": None}


def _plain_fabric(info: FabricInfoV1 | FabricInfoV2) -> dict[str, Any]:
    return {
        "state": int(info.state),
        "status": int(info.status),
        "clique": int(info.cliqueId),
        "cluster_uuid": str(uuid.UUID(bytes=bytes(info.clusterUuid))),
    }


def processes_v1(function: str, handle: Any) -> list[ProcessInfoV1]:
    """A process list of a driver before 450, by NVML's two-step protocol."""
    library_function = getattr(pynvml.nvmlLib, function)
    count = ctypes.c_uint(0)
    status = library_function(handle, ctypes.byref(count), None)
    if status == 0:
        return []
    if status != INSUFFICIENT_SIZE:
        raise pynvml.NVMLError(status)
    room = 2 * count.value + 8  # more may have started in between
    found = (ProcessInfoV1 * room)()
    count.value = room
    status = library_function(handle, ctypes.byref(count), found)
    if status != 0:
        raise pynvml.NVMLError(status)
    return list(found[: count.value])


def known_bytes(used: int | None) -> int | None:
    """Memory of a process; None where NVML says that it is not available."""
    return None if used is None or int(used) == NOT_AVAILABLE else int(used)


def kill_with_parent() -> None:
    """prctl(PR_SET_PDEATHSIG, SIGKILL): on Linux the kernel ends this process with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
