"""Counting from a checkpoint's headers, and comparing a config with them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from planner.answers.params import params
from planner.errors import InputError
from planner.model.checkpoint import common_name, read_checkpoint
from planner.model.parameters import tensors
from planner.model.sources import load_model

MODEL = "qwen3-0.6b"


def _write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header = {
        name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def _shapes() -> dict[str, tuple[int, ...]]:
    return {name: weight.shape for name, weight in tensors(load_model(MODEL))}


def test_a_header_is_counted(tmp_path: Path) -> None:
    _write(tmp_path / "model.safetensors", _shapes())
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert found.parameters == 596_049_920  # Qwen3-0.6B, tied: the catalog's published count
    assert found.total_bytes == 2 * 596_049_920


def test_an_index_takes_shapes_from_the_files_beside_it(tmp_path: Path) -> None:
    shapes = _shapes()
    names = list(shapes)
    half = len(names) // 2
    files = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, members in files.items():
        _write(tmp_path / file, {name: shapes[name] for name in members})
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: file for file, members in files.items() for name in members}
    index.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}))
    assert read_checkpoint(index).parameters == 596_049_920
    assert params(MODEL, against=index).differences == ()


def test_a_different_checkpoint_is_told_by_tensor(tmp_path: Path) -> None:
    shapes = _shapes()
    shapes["model.norm.weight"] = (7,)
    del shapes["model.layers.0.mlp.up_proj.weight"]
    _write(tmp_path / "model.safetensors", shapes)
    found = params(MODEL, against=tmp_path / "model.safetensors").differences
    assert found is not None
    assert [d.name for d in found] == [
        "model.layers.*.mlp.up_proj.weight",
        "model.norm.weight",
    ]
    assert found[1].ours == 1024
    assert found[1].theirs == 7


def test_experts_have_one_name_however_they_are_stored() -> None:
    stacked = common_name("model.layers.1.mlp.experts.gate_up_proj")
    assert common_name("model.layers.9.mlp.experts.3.gate_proj.weight") == stacked
    assert common_name("model.layers.9.block_sparse_moe.experts.3.w2.weight") == (
        "model.layers.*.block_sparse_moe.experts.down_proj"
    )


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, struct.pack("<Q", 4) + b"nope"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="safetensors"):
        read_checkpoint(path)
