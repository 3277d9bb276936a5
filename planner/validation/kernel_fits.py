"""Fits of all measured groups, their errors on held-out shapes, and on GPUs never looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from planner.hardware.kernel_constants import (
    AttentionConstants,
    CollectiveConstants,
    DispatchConstants,
    ExpertLayerConstants,
    MatmulConstants,
    MovementConstants,
    Quality,
)
from planner.numeric import Array
from planner.performance.calibration import (
    attention_fit,
    collective_fit,
    dispatch_fit,
    expert_layer_fit,
    matmul_fit,
    movement_fit,
)
from planner.performance.calibration.table import QUARTER, Split
from planner.validation.expert_tables import layer_bytes
from planner.validation.kernel_tables import PASSES, Group, Points

Constants: TypeAlias = (
    MatmulConstants
    | AttentionConstants
    | MovementConstants
    | CollectiveConstants
    | ExpertLayerConstants
    | DispatchConstants
)
# Fewer points than this are described by the family's fit, moved by a surface of their own.
_FEWEST_FITTED = 2
# Both passes of a memory-bound kernel, in its key.
_WHOLE = "/forward+backward/"


@dataclass(frozen=True)
class Fitted:
    """Constants of one group, with the errors of predictions for points that were held out."""

    group: Group
    constants: Constants
    errors: Array  # |predicted / measured - 1|, held-out points
    plain_errors: Array  # the same of the closed form alone


def family_centres(groups: Iterable[Group]) -> dict[str, Constants]:
    """One fit per family, over all its GPUs: what to lean on, and what serves unmeasured GPUs."""
    families: dict[str, list[Group]] = {}
    kin: dict[str, list[Group]] = {}
    for group in groups:
        if len(group.table):
            families.setdefault(group.family, []).append(group)
            kin.setdefault(group.kin, []).append(group)
    wide = {name: _centre(members, None) for name, members in kin.items() if name}
    return {
        family: _centre(members, wide.get(members[0].kin))
        for family, members in sorted(families.items())
    }


def _centre(members: Sequence[Group], lean_on: Constants | None) -> Constants:
    return _fit(members[0], _pooled([member.points for member in members]), lean_on, {})


def fit_group(
    group: Group, centres: Mapping[str, Constants], local: Mapping[str, Constants]
) -> Constants:
    """Constants of one group with the surface of its residuals.

    local: constants of the same GPU that this group builds on (builds_on_others).
    """
    points = group.points
    centre = centres.get(group.family)
    if isinstance(centre, MovementConstants) and _WHOLE in group.key:
        centre = _added_up(group.key, centre, local)
    constants = _fit(group, points, centre, local)
    if len(group.table) < _FEWEST_FITTED:
        return constants
    return _with_surface(group, constants, points, local)


def _added_up(
    key: str, centre: MovementConstants, local: Mapping[str, Constants]
) -> MovementConstants:
    """What to expect of both passes in one: the same kernels' forward and backward pass."""
    parts = [
        (PASSES[one], found)
        for one in ("forward", "backward")
        if isinstance(found := local.get(key.replace(_WHOLE, f"/{one}/")), MovementConstants)
    ]
    return movement_fit.composed(centre, parts) if len(parts) == 2 else centre


def predicted(group: Group, constants: Constants, local: Mapping[str, Constants]) -> Array:
    """Predicted times of a group's points [s]."""
    points: Any = group.points
    if group.kind == "collectives":
        if group.key.startswith("network/"):
            return np.asarray(points.predicted(_local(group.key, local), constants))
        return np.asarray(points.predicted(constants, replace(constants, surface=None)))
    return np.asarray(points.predicted(constants))


def judge(
    groups: Sequence[Group],
    centres: Mapping[str, Constants] | None = None,
    split: Split = QUARTER,
) -> list[Fitted]:
    """Fit the shapes that the split leaves of each group, predict the others.

    centres: what to lean on; else the fit over the seen shapes of all these groups.
    """
    seen = [group.where(1.0 - group.held_out(split)) for group in groups]
    if centres is None:
        centres = family_centres(seen)
    fitted: list[Fitted] = []
    local: dict[tuple[str, str], Constants] = {}
    for group, part in sorted(zip(groups, seen, strict=True), key=_others_first):
        rest = group.where(group.held_out(split))
        if not len(part.table) and group.family not in centres:
            continue  # every shape of the only group of its kind is held out
        inside = {key: found for (gpu, key), found in local.items() if gpu == group.gpu}
        constants = fit_group(part, centres, inside) if len(part.table) else centres[group.family]
        local[group.gpu, group.key] = constants
        measured = rest.points.seconds if len(rest.table) else np.empty(0)
        plain = replace(constants, surface=None)
        fitted.append(
            Fitted(
                group,
                constants,
                np.abs(predicted(rest, constants, inside) / measured - 1.0)
                if len(rest.table)
                else measured,
                np.abs(predicted(rest, plain, inside) / measured - 1.0)
                if len(rest.table)
                else measured,
            )
        )
    return fitted


def judge_unmeasured(groups: Sequence[Group]) -> list[Fitted]:
    """Predict each GPU from the fit over all other GPUs of the same family."""
    fitted = []
    for group in groups:
        others = [g for g in groups if g.gpu != group.gpu and g.family == group.family]
        if not others or group.key.startswith("network/"):
            continue
        constants = family_centres(others)[group.family]
        off = np.abs(predicted(group, constants, {}) / group.points.seconds - 1.0)
        fitted.append(Fitted(group, constants, off, off))
    return fitted


def quality(fitted: Fitted, shapes: int, source: str) -> Quality:
    """What the data file says of a group's constants."""
    enough = fitted.errors.size > 0
    return Quality(
        median_error=float(np.median(fitted.errors)) if enough else None,
        p90_error=float(np.quantile(fitted.errors, 0.9)) if enough else None,
        shapes=shapes,
        held_out=int(fitted.errors.size),
        source=source,
        evidence="measured",
    )


def builds_on_others(group: Group) -> bool:
    """Whether a group is fitted after others of its GPU: networks after domains, sums of passes."""
    return group.key.startswith("network/") or _WHOLE in group.key


def _others_first(pair: tuple[Group, Group]) -> bool:
    return builds_on_others(pair[0])


def _pooled(points: Sequence[Points]) -> Points:
    """Points of several GPUs as one: arrays are joined, what is one value must agree."""
    first: Any = points[0]
    joined = {
        name: np.concatenate([getattr(one, name) for one in points])
        for name, value in vars(first).items()
        if isinstance(value, np.ndarray)
    }
    pooled: Points = replace(first, **joined)
    return pooled


def _fit(group: Group, points: Points, centre: Any, local: Mapping[str, Constants]) -> Constants:
    if isinstance(points, matmul_fit.MatmulPoints):
        return matmul_fit.fit_matmul(
            points,
            dtype=group.key.split("/")[0],
            tile_set=_tile_set(group.gpu),
            # a burst's clock falls; products that were timed for long are at the long clock already
            burst=group.kind == "matmul" and "sustained" not in group.key,
            centre=centre,
        )
    if isinstance(points, attention_fit.AttentionPoints):
        element_bytes = 2.0 if group.key.startswith(("bf16", "fp16")) else 1.0
        return attention_fit.fit_attention(points, element_bytes=element_bytes, centre=centre)
    if isinstance(points, movement_fit.MovementPoints):
        return movement_fit.fit_movement(points, centre=centre)
    if isinstance(points, expert_layer_fit.ExpertLayerPoints):
        return expert_layer_fit.fit_expert_layer(
            points,
            operand_bytes=layer_bytes(group.key.split("/")[0]),
            tile_set=_tile_set(group.gpu),
            centre=centre,
        )
    if isinstance(points, dispatch_fit.DispatchPoints):
        return dispatch_fit.fit_dispatch(points, centre=centre)
    if group.key.startswith("network/"):
        return collective_fit.fit_network(points, _local(group.key, local), centre=centre)
    return collective_fit.fit_domain(points, centre=centre)


def _with_surface(
    group: Group, constants: Any, points: Points, local: Mapping[str, Constants]
) -> Constants:
    if isinstance(points, matmul_fit.MatmulPoints):
        return matmul_fit.with_surface(constants, points)
    if isinstance(points, attention_fit.AttentionPoints):
        return attention_fit.with_surface(constants, points)
    if isinstance(points, movement_fit.MovementPoints):
        return movement_fit.with_surface(constants, points)
    if isinstance(points, expert_layer_fit.ExpertLayerPoints):
        return expert_layer_fit.with_surface(constants, points)
    if isinstance(points, dispatch_fit.DispatchPoints):
        return dispatch_fit.with_surface(constants, points)
    if group.key.startswith("network/"):
        inside = _local(group.key, local)
        return collective_fit.with_network_surface(constants, points, inside)
    return collective_fit.with_domain_surface(constants, points)


def _tile_set(gpu: str) -> str:
    """Datacentre Blackwell has the larger tiles; the workstation cards do not."""
    return "to 256x256" if gpu.startswith(("b2", "b3", "gb")) else "to 128x256"


# The domain's pace where nothing inside it was measured: fast, so that the network decides.
_FAST_DOMAIN = CollectiveConstants(
    fixed_seconds=10e-6,
    seconds_per_doubling=2e-6,
    root_seconds=0.15e-6,
    efficiency=0.8,
    rank_exponent=0.0,
)


def _local(key: str, local: Mapping[str, Constants]) -> CollectiveConstants:
    """The constants inside a domain that go with those between domains of `key`."""
    found = local.get(key.split("/")[1], _FAST_DOMAIN)
    return found if isinstance(found, CollectiveConstants) else _FAST_DOMAIN
