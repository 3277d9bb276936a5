"""Rewrites a block as a code base with fused layers runs it: the same weights, fewer operations.

Linears that read the same tensor become one whose result is split (queries, keys and values; gate
and up), and a gate's activation with its product becomes one operation on the joint tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from planner.model.adapters import is_adapted
from planner.model.operations import Block, Operation, Tensor
from planner.model.spec import ModelSpec, Placed


def fused_model(spec: ModelSpec, adapted: tuple[str, ...] = ()) -> ModelSpec:
    """The model with every distinct block fused once. adapted: last names of the linears with
    adapters; where one of several has none of its own, they stay apart."""
    done: dict[int, Block] = {}

    def fused(place: Placed) -> Placed:
        key = id(place.block)
        if key not in done:
            done[key] = fused_block(place.block, adapted)
        return replace(place, block=done[key])

    return replace(spec, layers=tuple(fused(place) for place in spec.layers))


def fused_block(block: Block, adapted: tuple[str, ...] = ()) -> Block:
    operations = _contiguous_values(_gates(_joined(list(block.operations), adapted)))
    return replace(block, operations=tuple(operations))


def _contiguous_values(operations: list[Operation]) -> list[Operation]:
    """Latent attention's values, a part of the up projection's result, are copied out of it."""
    number = _unused(operations)
    result: list[Operation] = []
    for op in operations:
        latent = op.kind == "attention" and op.fact("value_head_dim") != op.fact("head_dim")
        if not latent:
            result.append(op)
            continue
        q, k, v = op.inputs
        copy = Tensor(number, v.width, v.split)
        number += 1
        result.append(Operation("copy", "contiguous", op.group, (v,), (copy,)))
        result.append(replace(op, inputs=(q, k, copy)))
    return result


def _unused(operations: list[Operation]) -> int:
    """A tensor number that no operation has."""
    return 1 + max((x.number for op in operations for x in op.outputs), default=0)


def _joined(operations: list[Operation], adapted: tuple[str, ...]) -> list[Operation]:
    """Column-split linears of one input as one linear and a split, where the first of them was."""
    readers: dict[int, list[Operation]] = {}
    for op in operations:
        if op.kind == "linear" and op.outputs[0].split == "tensor":
            readers.setdefault(op.inputs[0].number, []).append(op)
    number = _unused(operations)
    result: list[Operation] = []
    for op in operations:
        together = readers.get(op.inputs[0].number, []) if op.inputs else []
        with_adapters = {is_adapted(x, adapted) for x in together}
        if op not in together or len(together) == 1 or len(with_adapters) == 2:
            result.append(op)
        elif op is together[0]:
            result += _one_linear(together, number)
            number += 1
    return result


def _one_linear(linears: list[Operation], number: int) -> Iterable[Operation]:
    first = linears[0]
    outputs = tuple(op.outputs[0] for op in linears)
    whole = Tensor(number, sum(x.width for x in outputs), "tensor")
    yield replace(
        first,
        outputs=(whole,),
        weights=tuple(w for op in linears for w in op.weights),
        flops_per_token=sum(op.flops_per_token for op in linears),
    )
    yield Operation("split", "split", first.group, (whole,), outputs)


def _gates(operations: list[Operation]) -> list[Operation]:
    """split, activation of one half, product with the other: one operation on the whole."""
    result: list[Operation] = []
    skipped: set[int] = set()
    for index, op in enumerate(operations):
        if index in skipped:
            continue
        gate = _gate(operations, index) if op.kind == "split" else None
        if gate is None:
            result.append(op)
            continue
        activation, product = gate
        skipped |= {activation, product}
        result.append(
            Operation(
                "gated_activation",
                operations[activation].name,
                op.group,
                op.inputs,
                operations[product].outputs,
                facts=operations[activation].facts,
            )
        )
    return result


def _gate(operations: list[Operation], index: int) -> tuple[int, int] | None:
    """Where a split's halves are activated and multiplied, if they are."""
    halves = {x.number for x in operations[index].outputs}
    if len(halves) != 2:
        return None
    for i, op in enumerate(operations[index:], index):
        if op.kind == "activation" and op.inputs[0].number in halves:
            other = halves - {op.inputs[0].number}
            wanted = other | {op.outputs[0].number}
            for j, later in enumerate(operations[i:], i):
                if later.kind == "multiply" and {x.number for x in later.inputs} == wanted:
                    return i, j
    return None
