"""`planner params`: exact parameter counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.cli.completion import complete_model
from planner.cli.options import LENGTH, json_option
from planner.cli.output import print_json, warn

if TYPE_CHECKING:
    from planner.model.checkpoint import Checkpoint


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--detail", is_flag=True, help="List every tensor with its shape.")
@click.option("--against", help="Compare with a safetensors file or index.")
@click.option("--lora-rank", type=click.IntRange(1), help="Count LoRA adapters of this rank.")
@click.option("--lora-targets", help="Names of linears, with commas between; or all-linear.")
@click.option(
    "--trace",
    "traced",
    is_flag=True,
    help="Build it with PyTorch and Transformers on the meta device instead (extra: torch).",
)
@click.option(
    "--sequence-length",
    "--seq-len",
    type=LENGTH,
    default="4096",
    show_default=True,
    help="For the FLOPs per token.",
)
@json_option
def command(
    model: str,
    detail: bool,
    against: str | None,
    lora_rank: int | None,
    lora_targets: str | None,
    traced: bool,
    sequence_length: int,
    as_json: bool,
) -> int | None:
    """Count the parameters of a model exactly.

    MODEL is a config.json, its folder, a YAML file of its fields, a catalog or hub id; or a
    safetensors file or index, whose tensors are then counted directly.

    \b
    Examples:
      planner params llama-3.1-8b
      planner params ./my-model/config.json --json
      planner params deepseek-v3 --detail
      planner params llama-3.1-8b --lora-rank 16 --lora-targets q_proj,v_proj
      planner params config.json --against model.safetensors.index.json
      planner params config.json --trace

    Exit status: 0 counted (and equal, with --against), 1 --against differs, 2 bad input.
    """
    from planner.model import checkpoint

    if traced:
        _tell_traced(model, detail, as_json)
        return None
    path = Path(model)
    if checkpoint.is_checkpoint(path):
        _tell_checkpoint(checkpoint.read_checkpoint(path), detail, as_json)
        return None
    from planner.answers.params import params
    from planner.report import params_view

    answer = params(
        model,
        sequence_length=sequence_length,
        lora_rank=lora_rank,
        lora_targets=tuple(lora_targets.split(",")) if lora_targets else None,
        against=Path(against) if against else None,
    )
    for message in answer.spec.warnings:
        warn(message)
    if as_json:
        print_json(params_view.as_json(answer, detail=detail))
    else:
        params_view.print_params(answer, detail=detail)
    return 1 if answer.differences else None


def _tell_traced(model: str, detail: bool, as_json: bool) -> None:
    from planner.model.tracing import trace

    found = trace(model)
    told = f"built on the meta device with {found.versions}: not this planner's own count"
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": found.name,
        "architecture": found.architecture,
        "total": found.total,
        "source": told,
    }
    if detail:
        document["tensors"] = [{"name": t.name, "shape": list(t.shape)} for t in found.tensors]
    if as_json:
        print_json(document)
        return
    click.echo(f"{found.name} ({found.architecture}): {found.total:,} parameters, {told}")
    for tensor in found.tensors if detail else ():
        click.echo(f"{tensor.name}  {' x '.join(map(str, tensor.shape))}")


def _tell_checkpoint(found: Checkpoint, detail: bool, as_json: bool) -> None:
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": found.source,
        "total": found.parameters,
        "tensor_count": len(found.tensors),
        "total_bytes": found.total_bytes,
    }
    if detail:
        document["tensors"] = [
            {"name": t.name, "shape": None if t.shape is None else list(t.shape), "dtype": t.dtype}
            for t in found.tensors
        ]
    if as_json:
        print_json(document)
        return
    total = found.parameters
    told = f"{total:,} parameters" if total is not None else "an index without shapes"
    click.echo(f"{found.source}: {told} in {len(found.tensors):,} tensors")
    if found.total_bytes is not None:
        click.echo(f"{found.total_bytes:,} bytes")
    for tensor in found.tensors if detail else ():
        shape = "?" if tensor.shape is None else " x ".join(map(str, tensor.shape))
        click.echo(f"{tensor.name}  {shape}  {tensor.dtype or '?'}")
