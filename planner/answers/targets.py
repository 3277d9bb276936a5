"""The GPUs that a question names: profiles by id, alias or path, this machine's, or all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from planner.answers.fit import Target
from planner.errors import InputError
from planner.hardware.library import all_gpus, find, find_gpu
from planner.hardware.profile import GpuProfile, NodeProfile

LIVE = "live"
ANY = "any"


def targets_for(
    names: Iterable[str],
    *,
    reserve_bytes: int = 0,
    usd_per_gpu_hour: float | None = None,
    gpus_per_node: int | None = None,
) -> Iterator[Target]:
    """One target per name; `any` is every profile, `live` is what NVML says of this machine.

    The name of a node type stands for its GPU, with the node's links, network and price.
    """
    if usd_per_gpu_hour is not None and not 0 <= usd_per_gpu_hour < 1e6:
        raise InputError(f"usd_per_gpu_hour {usd_per_gpu_hour}: expected a price from 0 to 1e6")
    if gpus_per_node is not None and gpus_per_node < 1:
        raise InputError(f"gpus_per_node {gpus_per_node}: expected at least 1")
    for name in names:
        if name == LIVE:
            yield _live(reserve_bytes, usd_per_gpu_hour)
            continue
        for gpu, node in ((gpu, None) for gpu in all_gpus()) if name == ANY else (named_gpu(name),):
            yield Target(
                gpu,
                reserve_bytes=reserve_bytes,
                usd_per_gpu_hour=usd_per_gpu_hour,
                gpus_per_node=gpus_per_node,
                node=node,
            )


def named_gpu(name: str) -> tuple[GpuProfile, NodeProfile | None]:
    """The GPU of that name, or the one in nodes of that name, with the node."""
    profile = find(name)
    if isinstance(profile, NodeProfile):
        return find_gpu(profile.gpu), profile
    return profile, None


def _live(reserve_bytes: int, usd_per_gpu_hour: float | None) -> Target:
    from planner.hardware import live

    plan = live.plan_gpu()
    return Target(
        plan.profile,
        reserve_bytes=reserve_bytes,
        free_bytes=plan.free_bytes,
        usd_per_gpu_hour=usd_per_gpu_hour,
        gpus=plan.gpus,
        gpus_per_node=plan.gpus,
        warnings=plan.warnings,
    )
