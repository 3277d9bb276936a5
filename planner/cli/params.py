"""`planner params`: exact parameter counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import LENGTH, json_option
from planner.cli.output import print_json, warn

if TYPE_CHECKING:
    from planner.model.parameters import ParameterCount
    from planner.model.spec import ModelSpec


@click.command()
@click.argument("model")
@click.option("--detail", is_flag=True, help="List every tensor with its shape.")
@click.option("--sequence-length", "--seq-len", type=LENGTH, default=4096, show_default=True)
@json_option
def command(model: str, detail: bool, sequence_length: int, as_json: bool) -> None:
    """Count the parameters of a model exactly.

    MODEL is a config.json, its folder, a YAML file of its fields, or a catalog id.

    \b
    Examples:
      planner params llama-3.1-8b
      planner params ./my-model/config.json --json
      planner params deepseek-v3 --detail
    """
    from planner.model.parameters import count_parameters
    from planner.model.sources import load_model

    spec = load_model(model)
    count = count_parameters(spec)
    for message in spec.warnings:
        warn(message)
    if as_json:
        print_json(as_document(spec, count, detail=detail, sequence_length=sequence_length))
    else:
        _print(spec, count, detail, sequence_length)


def as_document(
    spec: ModelSpec, count: ParameterCount, *, detail: bool, sequence_length: int
) -> dict[str, Any]:
    from planner.model.flops import model_flops
    from planner.model.parameters import tensors

    flops = model_flops(spec, sequence_length)
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": spec.name,
        "total": count.total,
        "active": count.active,
        "trainable": count.total,
        "by_group": count.by_group,
        "layers": [
            {"count": run.count, "block": run.block, "parameters": run.parameters}
            for run in count.layers
        ],
        "sequence_length": sequence_length,
        "flops_per_token": {
            "forward": flops.forward,
            "training": flops.training,
            "six_n": 6 * count.active,
        },
        "warnings": list(spec.warnings),
    }
    if detail:
        document["tensors"] = [
            {"name": name, "shape": list(weight.shape)} for name, weight in tensors(spec)
        ]
    return document


def _print(spec: ModelSpec, count: ParameterCount, detail: bool, sequence_length: int) -> None:
    from rich.table import Table

    from planner.model.flops import model_flops
    from planner.model.parameters import tensors
    from planner.report.terminal import console

    out = console()
    out.print(f"{spec.name} ({spec.model_type}): {count.total:,} parameters", style="bold")
    if count.active != count.total:
        out.print(f"{count.active:,} active per token")
    table = Table(box=None)
    table.add_column("group")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    for name, parameters in count.by_group.items():
        if parameters:
            share = 100 * parameters / count.total
            table.add_row(name.replace("_", " "), f"{parameters:,}", f"{share:.2f} %")
    out.print(table)
    layers = Table(box=None)
    layers.add_column("blocks", justify="right")
    layers.add_column("kind")
    layers.add_column("parameters each", justify="right")
    for run in count.layers:
        layers.add_row(str(run.count), run.block, f"{run.parameters:,}")
    out.print(layers)
    flops = model_flops(spec, sequence_length)
    rule = 6 * count.active / flops.training - 1
    out.print(
        f"{flops.training / 1e9:.2f} GFLOP per token to train at sequence {sequence_length} "
        f"(causal half); the 6N rule says {100 * rule:+.1f} %"
    )
    if detail:
        listing = Table(box=None)
        listing.add_column("tensor")
        listing.add_column("shape")
        listing.add_column("parameters", justify="right")
        for name, weight in tensors(spec):
            listing.add_row(name, " x ".join(map(str, weight.shape)), f"{weight.elements:,}")
        out.print(listing)
