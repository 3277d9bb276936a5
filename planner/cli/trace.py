"""`planner trace`: one training step of the actual model on fake tensors, beside its prediction."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import click

from planner.cli.completion import complete_model
from planner.cli.options import GroupedCommand, json_option
from planner.cli.output import print_json
from planner.cli.question import options_named, request_of
from planner.errors import MissingPartError

# The flags of `planner fit` that a trace can follow.
FLAGS = (
    "gpus",
    "sequence_length",
    "precision",
    "optimizer",
    "attention",
    "finetune",
    "lora_rank",
    "lora_targets",
    "micro_batch_size",
    "gradient_accumulation",
    "sharding",
    "tensor_parallel",
    "recompute",
    "stack",
)
# What the tracer runs of them; which words go together its refusals say.
HELPS = {
    "gpus": "How many; without it one, or a node of 8 where they share the parameters.",
    "precision": "bf16-mixed, bf16-autocast, bf16-pure or fp32.",
    "optimizer": "adamw, sgd or sgd-momentum.",
    "finetune": "full, lora or qlora, with stack ddp.",
    "sharding": "none, zero2 or zero3.",
    "tensor_parallel": "GPUs that split each layer, with stack torchtitan.",
    "recompute": "none or full.",
    "stack": "ddp, fsdp2 or torchtitan.",
}
TRACING = "planner.validation.tracing"


@click.command(cls=GroupedCommand)
@click.argument("model", metavar="MODEL", shell_complete=complete_model)
@click.option("--layers", type=int, help="Trace so many of the model's layers.")
@click.option(
    "--dump",
    multiple=True,
    metavar="MOMENT",
    help="List the tensors of a moment: peak, forward, backward, optimizer, after_forward, "
    "after_backward, saved, or an operator such as _log_softmax.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=40, show_default=True, help="Lines per dump."
)
@options_named(FLAGS, HELPS)
@json_option
def command(
    model: str,
    layers: int | None,
    dump: tuple[str, ...],
    limit: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run one step of the actual model on fake tensors, and compare it with the prediction.

    The Transformers model, its optimizer, FSDP2 and DDP are real; the tensors have shapes and no
    contents, so that no GPU is needed and any size takes seconds. Stacks: ddp, fsdp2, torchtitan.
    Needs the extra torch.

    \b
    Examples:
      planner trace llama-3.2-1b --seq-len 2k --precision bf16-pure
      planner trace qwen3-8b --layers 4 --stack fsdp2 --gpus 64 --recompute full
      planner trace llama-3.1-8b --layers 4 --stack torchtitan --tp 4 --gpus 32
      planner trace config.json --finetune lora --lora-rank 16 --dump peak

    Exit status: 0 traced, 2 bad input or what cannot be traced, 3 the extra is missing.
    """
    if as_json and dump:
        raise click.UsageError("--dump lists as text: expected it without --json")
    from planner.validation.trace_request import question_of

    question = question_of(model, request_of(flags), layers)
    summary = tracing_module("summary", finetune=question.case.recipe.finetune is not None)
    step = summary.run(question.case)
    found = summary.traced_step(step)

    from planner.report import trace_view
    from planner.validation.trace_compare import compared

    comparison = compared(step.case, found)
    if as_json:
        print_json(trace_view.as_json(question, comparison, found))
        return
    trace_view.print_trace(question, comparison, found)
    for what in dump:
        click.echo()
        for line in tracing_module("listing").dump(step, what, full=False, limit=limit):
            click.echo(line)


def tracing_module(name: str, finetune: bool = False) -> ModuleType:
    """A module of the tracer; without PyTorch or Transformers an error that names the extra."""
    try:
        if finetune:
            import_module("peft")
        return import_module(f"{TRACING}.{name}")
    except ImportError as error:
        raise MissingPartError(
            f"planner trace needs PyTorch 2.13, Transformers and, for adapters, peft: {error}",
            "pip install 'llm-training-planner[torch]'",
        ) from None
