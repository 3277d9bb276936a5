"""What a scenario leaves open: the fewest changes of the plain defaults after which it fits."""

from __future__ import annotations

import pytest

from planner.answers.auto import AXES, arranged
from planner.answers.fit import Target, fit
from planner.answers.request import Request
from planner.hardware.library import find_gpu
from planner.model.sources import load_model

ALL = frozenset(AXES)


@pytest.fixture(scope="module")
def llama():
    return load_model("llama-3.1-8b")


def asked(**fields):
    return Request(**{"sequence_length": 4096, "stack": "fsdp2", **fields})


def changed(before, after):
    return {name for name in AXES if getattr(before, name) != getattr(after, name)}


def test_what_fits_is_left_as_it_is():
    model, target = load_model("llama-3.2-1b"), Target(find_gpu("h100"))
    request = asked(gpus=1)
    assert arranged(model, request, target, ALL) == (request, ())


def test_one_change_where_one_is_enough(llama):
    request, target = asked(gpus=8), Target(find_gpu("h100"))
    found, notes = arranged(llama, request, target, ALL)
    assert changed(request, found) == {"sharding"}
    assert "the fewest changes of the plain defaults that fit" in notes[0]
    assert fit(llama, found, target).estimate.verdict == "fits"


def test_two_changes_only_where_no_single_one_fits(llama):
    request, target = asked(gpus=8, sequence_length=32768), Target(find_gpu("h100"))
    found, _ = arranged(llama, request, target, frozenset({"sharding", "recompute"}))
    assert changed(request, found) == {"sharding", "recompute"}
    assert fit(llama, found, target).estimate.verdict == "fits"
    singles = [{"sharding": "zero2"}, {"sharding": "zero3"}, {"recompute": "selective"}]
    for single in (*singles, {"recompute": "full"}):
        alone = asked(gpus=8, sequence_length=32768, **single)
        assert fit(llama, alone, target).estimate.verdict != "fits"


def test_what_is_written_down_stays(llama):
    request = asked(gpus=8, sharding="zero2")
    found, _ = arranged(llama, request, Target(find_gpu("h100")), ALL - {"sharding"})
    assert found.sharding == "zero2"


def test_what_cannot_fit_is_said(llama):
    request, target = asked(gpus=1), Target(find_gpu("t4"))
    found, notes = arranged(llama, request, target, ALL)
    assert found == request
    assert notes == (
        "the plain defaults: no change of recompute, sharding, tensor_parallel makes it fit",
    )


def test_tensor_parallelism_stays_within_a_node(llama):
    target = Target(find_gpu("t4"), gpus_per_node=2)
    found, _ = arranged(llama, asked(gpus=16), target, frozenset({"tensor_parallel"}))
    assert found.tensor_parallel <= 2
