"""Out-of-memory messages: every wording is read, and leads to the tensor that was asked for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.answers.oom import likeliest
from planner.answers.oom_message import OutOfMemory, read_message, segment_bytes
from planner.errors import InputError
from planner.memory.allocations import allocations

GIB, MIB = 2**30, 2**20
NEW = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.64 GiB. GPU 0 has a total "
    "capacity of 79.20 GiB of which 1.50 GiB is free. Including non-PyTorch memory, this process "
    "has 77.60 GiB memory in use. Of the allocated memory 72.00 GiB is allocated by PyTorch, and "
    "2.00 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large "
    "try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
OLD = (
    "RuntimeError: CUDA out of memory. Tried to allocate 36.00 MiB (GPU 0; 7.93 GiB total "
    "capacity; 130.35 MiB already allocated; 47.06 MiB free; 188.00 MiB reserved in total by "
    "PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb"
)
TYPO = (
    "HIP out of memory. Tried to allocate 20.00 MiB. GPU 3 has a total capacty of 63.98 GiB of "
    "which 0 bytes is free. Of the allocated memory 60.10 GiB is allocated by PyTorch, with 1.25 "
    "GiB allocated in private pools (e.g., CUDA Graphs), and 15.90 MiB is reserved by PyTorch but "
    "unallocated."
)


def test_every_wording_is_read():
    new = read_message(NEW)
    assert new == OutOfMemory(
        4.64 * GIB, 0.005 * GIB, 79.2 * GIB, 1.5 * GIB, 72 * GIB, 2 * GIB, 77.6 * GIB
    )
    assert new.missing == pytest.approx(3.14 * GIB)
    assert new.others == pytest.approx(3.7 * GIB)
    old = read_message(OLD)
    assert (old.tried, old.free) == (36 * MIB, 47.06 * MIB)
    assert old.unallocated == pytest.approx(57.65 * MIB)
    assert old.missing == 0.0
    typo = read_message("a log line\n" + TYPO)
    assert (typo.capacity, typo.free) == (63.98 * GIB, 0.0)
    assert typo.allocated == 60.10 * GIB
    bare = read_message("XPU out of memory. Tried to allocate 2.00 GiB")
    assert (bare.capacity, bare.missing, bare.others) == (None, None, None)


@pytest.mark.parametrize("text", ["", "it broke", "CUDA out of memory.", "Tried to allocate much"])
def test_an_unreadable_message_is_one_error(text):
    with pytest.raises(InputError, match="expected PyTorch's message"):
        read_message(text)


@given(st.floats(1, 1e12))
def test_a_segment_holds_its_tensor_and_little_more(size):
    segment = segment_bytes(size)
    assert segment >= size
    assert segment <= max(size + 512 + 2 * MIB, 20 * MIB)


@pytest.fixture(scope="module")
def estimates():
    settings = (
        {"gpus": 8, "sharding": "zero3", "micro_batch_size": 2},
        {"gpus": 1, "attention": "eager", "sequence_length": 2048},
        {"gpus": 1, "finetune": "lora", "recompute": "full"},
        {"gpus": 8, "stack": "megatron", "tensor_parallel": 4, "sharding": "zero1"},
    )
    return [planner.fit("llama-3.2-1b", gpu="h100", **one).estimate for one in settings]


@pytest.mark.parametrize("number", range(4))
def test_each_large_tensor_is_found_by_its_size_and_its_moment(estimates, number):
    e = estimates[number]
    workspace = e.memory.library_workspace_bytes
    every = list(allocations(e.model, e.recipe, e.layout, e.memory.peak_stage))
    large = {one.tensor: one for one in every if one.bytes > 20 * MIB}
    assert len(large) > 5
    for one in list(large.values())[:: len(large) // 5]:
        message = OutOfMemory(segment_bytes(one.bytes), 0.0, allocated=one.most + workspace)
        found = likeliest(message, e)[0]
        assert segment_bytes(found.allocation.bytes) == message.tried
        assert found.allocated_bytes == pytest.approx(one.most + workspace)


def test_no_moment_asks_for_more_than_the_peak(estimates):
    for e in estimates:
        highest = max(
            one.least + one.bytes
            for one in allocations(e.model, e.recipe, e.layout, e.memory.peak_stage)
        )
        assert highest <= 1.01 * e.memory.peak_allocated_bytes


def flags(*more: str) -> tuple[str, ...]:
    base = ("--model", "qwen3-8b", "--gpu", "h100", "--gpus", "8", "--sharding", "zero3")
    return ("fit", *base, "--seq-len", "4096", "--mbs", "2", *more)


def test_the_command_names_the_tensor_the_cause_and_the_cheapest_change(run_planner):
    done = run_planner(*flags("--oom", NEW))
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert "Out of memory: 4.64 GiB was asked for logits, float32 (forward, head)" in told
    assert "Fragmentation is not the cause" in told
    assert "Cheapest change: " in told
    oom = json.loads(run_planner(*flags("--oom", NEW, "--json")).stdout)["oom"]
    assert oom["tensors"][0]["group"] == "logits"
    assert oom["fragmentation"] is False
    assert oom["change"] == oom["changes"][0]
    assert oom["change"]["peak_bytes"] < 90 * GIB


def test_the_python_api_explains_as_the_command_does():
    answer = planner.fit("qwen3-8b", gpu="h100", gpus=8, sharding="zero3", oom=NEW)
    assert answer.oom is not None
    assert planner.to_dict(answer)["oom"]["tried_bytes"] == round(4.64 * GIB)
    assert planner.fit("llama-3.2-1b", gpu="h100", gpus=1).oom is None


def test_fragmentation_and_a_small_segment_are_said(run_planner):
    pieces = NEW.replace("2.00 GiB is reserved", "5.00 GiB is reserved")
    assert "Fragmentation is the cause" in run_planner(*flags("--oom", pieces)).stdout
    assert "any small tensor takes" in run_planner(*flags("--oom", TYPO)).stdout


def test_a_message_from_another_gpu_is_said_to_be(run_planner):
    other = NEW.replace("79.20 GiB", "14.76 GiB")
    assert "is from a GPU of 14.8 GiB" in run_planner(*flags("--oom", other)).stdout
    assert "is from a GPU" not in run_planner(*flags("--oom", NEW)).stdout


def test_of_several_gpus_each_is_explained(run_planner):
    done = run_planner(*flags("--gpu", "a100", "--oom", NEW))
    assert done.stdout.count("Out of memory: 4.64 GiB was asked for logits") == 2
    assert "qwen3-8b on a100-sxm4-80gb\n" in done.stdout


def test_the_command_refuses_what_is_no_message(run_planner):
    done = run_planner(*flags("--oom", "help"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("planner: oom 'help': expected PyTorch's message")
