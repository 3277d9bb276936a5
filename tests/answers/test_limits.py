"""The table by micro-batch and the limits answer the question that was asked, batch and all."""

from __future__ import annotations

import pytest

import planner

PIPELINE = {"gpus": 8, "stack": "megatron", "pipeline_parallel": 4, "global_batch_size": 32}
ASKED = (
    {"gpus": 8, "sharding": "zero3", "global_batch_size": 64},
    {"gpus": 8, "sharding": "zero2", "global_batch_size": 24, "tensor_parallel": 2},
    PIPELINE,
    {**PIPELINE, "pipeline_schedule": "gpipe"},
)


@pytest.mark.parametrize("asked", ASKED)
def test_a_row_of_the_table_is_what_that_micro_batch_gives(asked):
    rows = {
        row.micro_batch_size: row for row in planner.fit("llama-3.2-1b", gpu="h100", **asked).table
    }
    assert 1 in rows
    for size in (1, 2):
        direct = planner.fit("llama-3.2-1b", gpu="h100", micro_batch_size=size, **asked).estimate
        assert rows[size].peak_bytes == direct.memory.peak_bytes
        assert rows[size].verdict == direct.verdict


def test_fewest_gpus_fit_when_they_are_asked_for():
    asked = {**PIPELINE, "global_batch_size": 64, "sequence_length": 16384, "sharding": "zero1"}
    fewest = planner.fit("llama-3.2-1b", gpu="h100", **asked).limits.fewest_gpus
    assert fewest is not None
    again = planner.fit("llama-3.2-1b", gpu="h100", **{**asked, "gpus": fewest}).estimate
    assert again.verdict in ("fits", "tight")


def test_the_fewest_that_are_found_divide_the_global_batch():
    e = planner.fit("llama-3.1-8b", gpu="h100", sharding="zero3", global_batch_size=64).estimate
    assert e.verdict in ("fits", "tight")
    assert 64 % e.layout.gpus == 0
