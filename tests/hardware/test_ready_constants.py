"""The ready files say what the fitted constants say."""

from __future__ import annotations

import json

import pytest

from planner.hardware.kernel_files import kernel_constants
from planner.hardware.ready_constants import KEYS, as_data, step_constants
from planner.hardware.surface import correction

GPUS = ("h100-sxm-80gb", "a100-pcie-80gb", "b200-sxm-180gb", "l40s", "mi300x-192gb")


def _pcie(gpu: str) -> bool:
    return gpu in ("l40s",)


@pytest.mark.parametrize("gpu", GPUS)
def test_ready_files_equal_the_fits(gpu: str) -> None:
    ready = step_constants(gpu, pcie=_pcie(gpu))
    fitted = kernel_constants(gpu, pcie=_pcie(gpu))
    for kind, keys in KEYS.items():
        assert set(getattr(ready, kind)) == set(keys) & set(getattr(fitted, kind))
        for key in getattr(ready, kind):
            one, other = getattr(ready, kind)[key], getattr(fitted, kind)[key]
            for name in vars(other):
                if name not in ("surface", "quality"):
                    assert getattr(one, name) == getattr(other, name), (kind, key, name)
            assert one.quality.evidence == other.quality.evidence
            if other.surface is None:
                assert one.surface is None
                continue
            for point in other.surface.points[::40]:
                at = [float(x) for x in point]
                assert correction(one.surface, at) == pytest.approx(
                    correction(other.surface, at), rel=1e-3
                )


def test_an_unknown_gpu_has_the_generic_fit() -> None:
    unknown = step_constants("a-gpu-of-tomorrow")
    assert unknown.matmul["bf16"] == kernel_constants("a-gpu-of-tomorrow").matmul["bf16"]


def test_ready_data_is_plain_json() -> None:
    assert json.loads(json.dumps(as_data(kernel_constants("a100-pcie-80gb"))))
