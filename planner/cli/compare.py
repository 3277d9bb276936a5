"""`planner compare`: models, GPUs or scenarios side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planner.cli.estimate import answers_for as answers_of_scenarios
from planner.cli.fit import answers_for
from planner.cli.options import GroupedCommand, json_option
from planner.cli.output import print_json, warn, warn_of
from planner.cli.question import (
    gpu_option,
    hardware_options,
    layout_options,
    model_options,
    pause_options,
    recipe_options,
)

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer


@click.command(cls=GroupedCommand)
@click.argument("things", nargs=-1, required=True, metavar="A B...")
@model_options
@gpu_option
@hardware_options
@recipe_options
@layout_options
@pause_options
@json_option
def command(things: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Show models, GPUs or scenarios side by side.

    GPUs need --model, and models --gpu; without it, models are compared by what they are:
    parameters, states, activations, FLOPs and cache. The flags are those of `planner fit`, and
    hold for all. The order is that in which they are named.

    \b
    Examples:
      planner compare llama-3.1-8b qwen3-8b gemma-2-9b
      planner compare llama-3.1-8b qwen3-8b --gpu h100 --gpus 8 --sharding zero3
      planner compare a100 h100 b200 --model llama-3.1-8b --gpus 8 --sharding zero3
      planner compare small.yaml large.yaml --json
    """
    from planner.answers.things import same_kind

    if len(things) < 2:
        raise click.UsageError("expected at least two things to compare")
    kind = same_kind(things)
    if kind == "model" and not flags["gpu_names"]:
        _refuse(flags, "without --gpu", allowed=("sequence_length", "micro_batch_size"))
        _show_models(things, flags, as_json)
        return
    answers = _answers(kind, things, flags)
    if as_json:
        from planner.report.as_json import SCHEMA_VERSION, fit_json

        estimates = [fit_json(answer) for answer in answers]
        print_json({"schema_version": SCHEMA_VERSION, "estimates": estimates})
    else:
        from planner.report.terminal import console, print_table
        from planner.report.view import comparison_table

        print_table(console(), comparison_table(answers, "Side by side"))
    for answer in answers:
        warn_of(answer)


def _answers(kind: str, things: tuple[str, ...], flags: dict[str, Any]) -> list[FitAnswer]:
    """One answer per thing and what it is asked with, in the order of the things."""
    if kind == "scenario":
        _refuse(flags, "scenarios say everything themselves:")
        return answers_of_scenarios(things)
    field = "models" if kind == "model" else "gpu_names"
    if flags[field]:
        raise click.UsageError(f"{kind}s are named already: expected no --{kind.lower()}")
    return [one for name in things for one in answers_for({**flags, field: (name,)})]


def _refuse(flags: dict[str, Any], why: str, allowed: tuple[str, ...] = ()) -> None:
    """Flags that would be ignored are named."""
    context = click.get_current_context()
    for name in flags:
        source = context.get_parameter_source(name)
        given = source is click.core.ParameterSource.COMMANDLINE
        if given and name not in allowed:
            flag = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{why} {flag} would change nothing")


def _show_models(models: tuple[str, ...], flags: dict[str, Any], as_json: bool) -> None:
    from planner.answers.request import DEFAULT_SEQUENCE_LENGTH
    from planner.answers.sensitivity import sizes_of_models
    from planner.report import sensitivity_view as view

    sequence_length = flags["sequence_length"] or DEFAULT_SEQUENCE_LENGTH
    sizes = sizes_of_models(models, sequence_length, flags["micro_batch_size"] or 1)
    if as_json:
        print_json(view.models_json(sizes, sequence_length))
        return
    from planner.report.terminal import console, print_table

    print_table(console(), view.models_table(sizes, sequence_length))
    for spec, _ in sizes:
        for message in spec.warnings:
            warn(message)
