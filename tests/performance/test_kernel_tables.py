"""The shipped constants against the measured tables, and what unmeasured GPUs get."""

import numpy as np
import pytest

from planner.errors import InputError
from planner.hardware.kernel_files import KINDS, kernel_constants, read_folder
from planner.performance.calibration.table import Kind
from planner.validation import kernel_fits
from planner.validation.kernel_tables import groups

# Median and 90th percentile of |predicted / measured - 1| over a whole table, on the shapes that
# the constants were fitted on; tools/fit_kernels.py --report prints the errors on held-out shapes.
BARS: dict[Kind, tuple[float, float]] = {
    "matmul": (0.04, 0.13),
    "attention": (0.04, 0.13),
    "movement": (0.03, 0.13),
    "collectives": (0.02, 0.10),
    "grouped": (0.06, 0.15),
    "expert_layer": (0.06, 0.25),
    "dispatch": (0.02, 0.06),
}


@pytest.mark.parametrize("kind", list(BARS))
def test_shipped_constants_describe_the_table(kind: Kind) -> None:
    errors = []
    for group in groups(kind):
        own = kernel_constants(group.gpu)
        held = getattr(own, kind)
        predicted = kernel_fits.predicted(group, held[group.key], held)
        errors.append(np.abs(predicted / group.points.seconds - 1.0))
    joined = np.concatenate(errors)
    median, p90 = BARS[kind]
    print(f"{kind}: {joined.size} rows, median {np.median(joined):.1%}")
    assert np.median(joined) < median
    assert np.quantile(joined, 0.9) < p90


def test_the_fit_from_measurements_gives_the_shipped_constants() -> None:
    """`hardware calibrate` runs this code on a user's own measurements."""
    group = next(g for g in groups("matmul") if g.gpu == "h200-sxm-141gb" and g.key == "bf16")
    seen = group.where(1.0 - group.held_out())
    rest = group.where(group.held_out())
    constants = kernel_fits.fit_group(seen, {}, {})
    off = np.abs(kernel_fits.predicted(rest, constants, {}) / rest.points.seconds - 1.0)
    assert np.median(off) < 0.08
    shipped = kernel_constants("h200-sxm-141gb").matmul["bf16"]
    assert constants.efficiency == pytest.approx(shipped.efficiency, rel=0.05)


def test_every_constant_is_in_its_range_and_says_where_it_is_from() -> None:
    for gpu in ("h100-sxm-80gb", "b200-sxm-180gb", "a100-sxm4-80gb", "l40s", "generic"):
        held = kernel_constants(gpu)
        for one in held.matmul.values():
            assert 0.1 < one.efficiency < 1.0
            assert 0.1 < one.memory_efficiency < 1.0
            assert 1.0 <= one.sustained_ratio < 1.5
        for attention in held.attention.values():
            assert all(0.02 < e < 1.2 for e in attention.efficiencies)
        for collective in held.collectives.values():
            assert 0.0 < collective.efficiency < 3.0
        for layer in held.expert_layer.values():
            assert 0.1 < layer.efficiency < 1.0
            assert 0.9 < layer.uneven_ratio < 1.4
        for kind in (getattr(held, name) for name in KINDS):
            assert all(one.quality.source for one in kind.values())


def test_training_kernels_are_found_for_every_kind_of_gpu() -> None:
    expected = {
        "h200-sxm-141gb": "measured",
        "h100-sxm-80gb": "borrowed",  # its silicon was measured with HBM3e
        "h800-sxm-80gb": "borrowed",
        "gb200-186gb": "measured",
        "a GPU of next year": "assumed",
    }
    for gpu, evidence in expected.items():
        held = kernel_constants(gpu)
        assert held.attention["bf16/backward/causal"].quality.evidence == evidence
        assert {"bf16", "fp8"} <= set(held.matmul)
        for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
            assert {operation, f"network/{operation}"} <= set(held.collectives)


def test_a_wrong_file_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("movement: {cast: {efficiency: 0.9, fixd_seconds: 1.0}}\n")
    with pytest.raises(InputError, match="fixd_seconds"):
        read_folder(tmp_path, "mine")
