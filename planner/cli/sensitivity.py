"""`planner sensitivity`: what each field of a model does."""

from __future__ import annotations

import click

from planner.cli.completion import complete_gpu, complete_model
from planner.cli.options import LENGTH, json_option
from planner.cli.output import print_json


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--sequence-length",
    "--seq-len",
    type=LENGTH,
    default=4096,
    show_default=True,
    help="Tokens of one sequence.",
)
@click.option(
    "--micro-batch-size",
    "--mbs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Sequences per pass.",
)
@click.option("--gpu", shell_complete=complete_gpu, help="Also the time of a step on this GPU.")
@json_option
def command(
    model: str, sequence_length: int, micro_batch_size: int, gpu: str | None, as_json: bool
) -> None:
    """Show what depth, width, heads and vocabulary do to size, memory and work.

    Each field of the config is changed alone, by half, to the double and by the smallest legal
    step; width changes hidden_size (d), intermediate_size (d_ff) and both head counts (n_q, n_kv)
    together. Every number is a ratio, new over old, of models that are really counted. The
    exponent says how parameters grow near here: 1 is linear, 2 quadratic.

    \b
    Examples:
      planner sensitivity llama-3.1-8b
      planner sensitivity llama-3.1-8b --sequence-length 8k --gpu h100
      planner sensitivity ./my-model/config.json --json
    """
    from planner.answers.sensitivity import sensitivity_of

    answer = sensitivity_of(
        model, sequence_length=sequence_length, micro_batch_size=micro_batch_size, gpu=gpu
    )
    from planner.report import sensitivity_view as view

    if as_json:
        print_json(view.as_json(answer))
        return
    from planner.report.terminal import console, print_table

    out = console()
    print_table(out, view.table(answer))
    click.echo()
    for line in view.sentences(answer):
        click.echo(line)
