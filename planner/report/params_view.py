"""Parameter counts as JSON and for a person."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from planner.answers.params import ParamsAnswer
from planner.model.parameters import tensors
from planner.report.terminal import console


def as_json(answer: ParamsAnswer, *, detail: bool) -> dict[str, Any]:
    count, flops = answer.count, answer.flops
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": answer.spec.name,
        "total": count.total,
        "active": count.active,
        "trainable": answer.trainable,
        "non_embedding": count.total - count.by_group["embedding"],
        "by_group": count.by_group,
        "layers": [
            {"count": run.count, "block": run.block, "parameters": run.parameters}
            for run in count.layers
        ],
        "flops_per_token": {
            "sequence_length": answer.sequence_length,
            "forward": flops.forward,
            "backward": flops.training - flops.forward,
            "six_n": 6 * count.active,
            "six_n_error": answer.rule_error,
        },
        "assumed": dict(answer.spec.assumed),
        "warnings": list(answer.spec.warnings),
    }
    if answer.differences is not None:
        document["differences"] = [
            {"name": d.name, "ours": d.ours, "theirs": d.theirs} for d in answer.differences
        ]
    if detail:
        document["tensors"] = [
            {"name": name, "shape": list(weight.shape), "parameters": weight.elements}
            for name, weight in tensors(answer.spec)
        ]
    return document


def print_params(answer: ParamsAnswer, *, detail: bool) -> None:
    out = console()
    count = answer.count
    out.print(
        f"{answer.spec.name} ({answer.spec.model_type}): {count.total:,} parameters", style="bold"
    )
    if count.active != count.total:
        out.print(f"{count.active:,} active per token")
    if answer.trainable != count.total:
        out.print(f"{answer.trainable:,} trainable")
    out.print(_groups(answer))
    out.print(_layers(answer))
    out.print(
        f"{answer.flops.training / 1e9:.2f} GFLOP per token to train at sequence "
        f"{answer.sequence_length} (causal half); the 6N rule is off by "
        f"{100 * answer.rule_error:+.1f} %"
    )
    if answer.differences is not None:
        out.print(_differences(answer))
    if detail:
        out.print(_tensors(answer))


def _groups(answer: ParamsAnswer) -> Table:
    table = Table(box=None)
    table.add_column("group")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    for name, parameters in answer.count.by_group.items():
        if parameters:
            share = f"{100 * parameters / answer.count.total:.2f} %"
            table.add_row(name.replace("_", " "), f"{parameters:,}", share)
    return table


def _layers(answer: ParamsAnswer) -> Table:
    table = Table(box=None)
    table.add_column("blocks", justify="right")
    table.add_column("kind")
    table.add_column("parameters each", justify="right")
    for run in answer.count.layers:
        table.add_row(str(run.count), run.block.replace("_", " "), f"{run.parameters:,}")
    return table


def _differences(answer: ParamsAnswer) -> Table | str:
    if not answer.differences:
        return "The checkpoint has the same tensors."
    table = Table(title="The checkpoint differs", title_justify="left", box=None)
    table.add_column("tensor")
    table.add_column("config", justify="right")
    table.add_column("checkpoint", justify="right")
    for one in answer.differences:
        ours = "-" if one.ours is None else f"{one.ours:,}"
        theirs = "-" if one.theirs is None else f"{one.theirs:,}"
        table.add_row(one.name, ours, theirs)
    return table


def _tensors(answer: ParamsAnswer) -> Table:
    table = Table(box=None)
    table.add_column("tensor")
    table.add_column("shape")
    table.add_column("parameters", justify="right")
    for name, weight in tensors(answer.spec):
        table.add_row(name, " x ".join(map(str, weight.shape)), f"{weight.elements:,}")
    return table
