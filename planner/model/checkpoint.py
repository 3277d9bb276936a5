"""Tensors of a checkpoint, read from its headers alone: a safetensors file or an index of several.

A safetensors file begins with 8 bytes, the length of a JSON header that names every tensor with
its dtype and shape (huggingface/safetensors, README). An index (model.safetensors.index.json) says
which file holds which tensor, and the bytes of all; shapes are in the files, if they lie beside it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from planner.documents import load
from planner.errors import InputError

# A header of a checkpoint with a million tensors is about 100 MB; the format allows 100 MB.
LARGEST_HEADER_BYTES = 100_000_000
ITEMSIZES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """shape and dtype are None where only an index was there to read."""

    name: str
    shape: tuple[int, ...] | None
    dtype: str | None

    @property
    def elements(self) -> int | None:
        return None if self.shape is None else prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """total_bytes is what the index claims, else the sum over the tensors."""

    source: str
    tensors: tuple[StoredTensor, ...]
    total_bytes: int | None
    claimed_parameters: int | None = None

    @property
    def parameters(self) -> int | None:
        """Elements of all tensors; None where shapes are not known."""
        counts = [tensor.elements for tensor in self.tensors]
        if any(count is None for count in counts):
            return self.claimed_parameters
        return sum(count for count in counts if count is not None)


def is_checkpoint(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a safetensors file, or of an index and the files beside it."""
    if path.suffix == ".safetensors":
        tensors = read_header(path)
        return Checkpoint(str(path), tensors, sum(_bytes(t) for t in tensors))
    document = load(path, "json")
    data = document.data
    if not isinstance(data, Mapping) or not isinstance(data.get("weight_map"), Mapping):
        raise InputError(f"{path}: no weight_map: not the index of a safetensors checkpoint")
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    files: dict[str, dict[str, StoredTensor]] = {}
    tensors_found = []
    for name, file in data["weight_map"].items():
        if not isinstance(file, str):
            raise document.error(("weight_map", name), "expected the name of a file")
        beside = path.parent / file
        if file not in files and beside.is_file():
            files[file] = {t.name: t for t in read_header(beside)}
        tensors_found.append(files.get(file, {}).get(name, StoredTensor(name, None, None)))
    return Checkpoint(
        str(path),
        tuple(tensors_found),
        _whole(metadata.get("total_size")),
        _whole(metadata.get("total_parameters")),
    )


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """Names, dtypes and shapes of a safetensors file; its data is not read."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise InputError(f"{path}: too short for a safetensors file")
            (length,) = struct.unpack("<Q", start)
            if length > LARGEST_HEADER_BYTES:
                raise InputError(
                    f"{path}: not a safetensors file: its header would be {length} bytes"
                )
            header: Any = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: not a safetensors file: its header is no JSON") from None
    if not isinstance(header, Mapping):
        raise InputError(f"{path}: not a safetensors file: its header is no mapping")
    return tuple(
        _stored(path, name, entry) for name, entry in header.items() if name != "__metadata__"
    )


def _stored(path: Path, name: str, entry: Any) -> StoredTensor:
    shape = entry.get("shape") if isinstance(entry, Mapping) else None
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise InputError(f"{path}: tensor {name}: its header has no shape")
    return StoredTensor(name, tuple(shape), str(entry.get("dtype")))


def _bytes(tensor: StoredTensor) -> int:
    return (tensor.elements or 0) * ITEMSIZES.get(tensor.dtype or "", 2)


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value)


# Names of the same parameters before and after Transformers 5 stacked the experts' matrices.
_EXPERT = re.compile(r"(\.experts)\.\d+\.")
_UP = ("gate_proj", "up_proj", "w1", "w3", "gate_up_proj")
_DOWN = ("down_proj", "w2")


def common_name(name: str) -> str:
    """A tensor's name without layer and expert numbers, experts' matrices by their stacked name.

    >>> common_name("model.layers.3.mlp.experts.17.w1.weight")
    'model.layers.*.mlp.experts.gate_up_proj'
    """
    short = _EXPERT.sub(r"\1.", name)
    head, dot, last = short.rpartition(".experts.")
    if dot:
        word = last.removesuffix(".weight")
        last = "gate_up_proj" if word in _UP else "down_proj" if word in _DOWN else last
        short = head + dot + last
    return re.sub(r"\.\d+(?=\.|$)", ".*", short)


@dataclass(frozen=True)
class Difference:
    """A kind of tensor that the two sides have differently: elements, or None where absent."""

    name: str
    ours: int | None
    theirs: int | None


def differences(
    ours: Iterable[tuple[str, int]], stored: Iterable[StoredTensor]
) -> tuple[Difference, ...]:
    """Kinds of tensors whose elements differ; their presence alone where shapes are unknown."""
    mine: dict[str, int] = {}
    for name, elements in ours:
        key = common_name(name)
        mine[key] = mine.get(key, 0) + elements
    theirs: dict[str, int | None] = {}
    for tensor in stored:
        key = common_name(tensor.name)
        before, more = theirs.get(key, 0), tensor.elements
        theirs[key] = None if before is None or more is None else before + more
    found = []
    for key in sorted({*mine, *theirs}):
        a, b = mine.get(key), theirs.get(key)
        unknown_size = key in theirs and b is None
        if a != b and not (unknown_size and key in mine):
            found.append(Difference(key, a, b))
    return tuple(found)
