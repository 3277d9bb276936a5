"""What NVML's statuses mean, and what to do: one clear line each."""

from __future__ import annotations

from pathlib import Path

from planner.errors import MissingPartError

_NO_DRIVER_HINT = "install the NVIDIA driver; in a container, start it with --gpus all"
_SEE_SMI = "nvidia-smi shows whether the driver works; see dmesg for NVRM and Xid lines"
LIBRARY_NOT_FOUND = 12
AMD_DEVICE = Path("/dev/kfd")  # AMD's compute driver is loaded
# nvmlReturn_t -> what it means, what to do. *Source:* the comments of nvml.h; causes as seen in
# practice.
MEANINGS: dict[int, tuple[str, str]] = {
    1: ("NVML is not initialised", _SEE_SMI),
    2: ("NVML calls an argument invalid", "update the driver or nvidia-ml-py"),
    3: ("not supported by this GPU or driver", _SEE_SMI),
    4: (
        "no permission to ask the NVIDIA driver",
        "the user or container needs access to /dev/nvidia* and /dev/nvidiactl",
    ),
    8: ("a GPU lacks external power", "check the power cables of the GPUs"),
    9: (
        "the NVIDIA driver is not loaded",
        "load it with: modprobe nvidia; after a kernel update it may have to be built anew",
    ),
    10: ("a call timed out in the driver", _SEE_SMI),
    11: ("the driver has an interrupt problem with a GPU", _SEE_SMI),
    12: ("no NVIDIA driver: libnvidia-ml.so.1 was not found or cannot be loaded", _NO_DRIVER_HINT),
    13: ("the driver's library lacks a function that is needed", "update the NVIDIA driver"),
    14: ("a GPU's infoROM is corrupted", "the board may need service"),
    15: ("fallen off the bus", "see dmesg for Xid 79; a reboot or reseating the board may help"),
    16: ("needs a reset", "reset it with nvidia-smi --gpu-reset, or reboot"),
    17: ("the operating system or its control groups block the request", "allow /dev/nvidia*"),
    18: (
        "the NVIDIA driver and its library have different versions",
        "the driver was updated while it ran: reboot, or reload the nvidia kernel modules",
    ),
    19: ("a GPU is in use", "wait, or see nvidia-smi for who uses it"),
    20: ("the driver has too little memory", _SEE_SMI),
    23: ("the driver lacks resources", _SEE_SMI),
    27: ("a GPU or the driver is not ready yet", "wait a moment and ask again"),
    28: ("the GPU was not found", _SEE_SMI),
    29: ("a GPU or the driver is in a wrong state", _SEE_SMI),
    999: ("an unknown error inside the driver", _SEE_SMI),
}


def meaning(status: int, text: str) -> str:
    """One phrase for a status; the binding's own text where the status is not known here.

    >>> meaning(15, "GPU is lost")
    'fallen off the bus'
    """
    if status in MEANINGS:
        return MEANINGS[status][0]
    return f"NVML status {status} ({text})" if text else f"NVML status {status}"


def failure(call: str, status: int, text: str) -> MissingPartError:
    """The error for an NVML that as a whole cannot be asked."""
    if status == LIBRARY_NOT_FOUND and AMD_DEVICE.exists():
        return MissingPartError(
            "no NVIDIA driver here, and AMD GPUs cannot be read (the amdsmi package is unofficial)",
            "name their profile instead, such as --gpu mi300x-192gb: planner hardware list",
        )
    if status in MEANINGS:
        what, hint = MEANINGS[status]
        return MissingPartError(what, hint)
    return MissingPartError(
        f"NVML answered {call} with status {status}, which has no name here ({text})",
        "nvidia-smi shows whether the driver works; a newer nvidia-ml-py may know the status",
    )


def no_gpu() -> MissingPartError:
    """NVML works and lists nothing."""
    return MissingPartError(
        "the NVIDIA driver works but there is no NVIDIA GPU in this machine",
        "in a container, start it with --gpus all",
    )
