"""`planner fit`: does training fit, where does the memory go, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import GroupedCommand, json_option, timeline_option
from planner.cli.output import print_json, warn_of
from planner.cli.question import (
    gpu_option,
    hardware_options,
    layout_options,
    model_options,
    pause_options,
    recipe_options,
    request_of,
)

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer
    from planner.model.spec import ModelSpec


@click.command(cls=GroupedCommand)
@model_options
@gpu_option
@hardware_options
@recipe_options
@layout_options
@pause_options
@timeline_option
@click.option("--oom", metavar="MESSAGE", help="Explain PyTorch's out-of-memory message of a run.")
@json_option
def command(as_json: bool, timeline: bool, **flags: Any) -> int:
    """Say whether training fits, where the memory goes, and what would make it fit.

    \b
    Examples:
      planner fit --model llama-3.1-8b --gpu h100
      planner fit --model config.json --gpu h100 --gpus 8 --sharding zero3 --tokens 1e12
      planner fit --model llama-3.2-1b --gpu 4090 --finetune lora --mbs 4
      planner fit --model qwen3-8b --gpu a100 --gpu h100 --gpus 8 --sharding zero3
      planner fit --model llama-3.1-8b --gpu any --gpus 8 --sharding zero3
      planner fit --model qwen3-8b --gpu h100 --gpus 8 --sharding zero3 --timeline
      planner fit --model qwen3-8b --gpu 4090 --oom "CUDA out of memory. Tried to allocate ..."
      planner fit --model llama-3.1-8b --gpu live --json

    Exit status: 0 it fits or is tight, 1 it does not fit, 2 bad input, 3 no GPU to ask.
    """
    answers = answers_for(flags)
    if as_json:
        from planner.report.as_json import answers_json

        print_json(answers_json(answers))
    else:
        from planner.report import terminal

        terminal.print_answers(answers, "Those that fit first, cheapest first", timeline)
    for answer in answers:
        warn_of(answer)
    return 0 if any(a.estimate.verdict != "does_not_fit" for a in answers) else 1


def answers_for(flags: dict[str, Any]) -> list[FitAnswer]:
    """One answer per model and GPU; several are ranked, those that fit first, then by price."""
    from planner.answers.compare import ranked
    from planner.answers.fit import fit
    from planner.answers.targets import targets_for

    models = _models(flags)
    request = request_of(flags)
    if not flags["gpu_names"]:
        raise click.UsageError("--gpu is missing: an id such as h100, a YAML profile, live, or any")
    targets = list(
        targets_for(
            flags["gpu_names"],
            reserve_bytes=int(flags["reserve"]),
            usd_per_gpu_hour=flags["usd_per_gpu_hour"],
            gpus_per_node=flags["gpus_per_node"],
        )
    )
    oom = flags.get("oom")
    answers = [fit(model, request, target, oom=oom) for model in models for target in targets]
    return ranked(answers)


def _models(flags: dict[str, Any]) -> list[ModelSpec]:
    from planner.model.sources import from_mapping, load_model

    shape = {
        "num_hidden_layers": flags["layers"],
        "hidden_size": flags["hidden_size"],
        "intermediate_size": flags["intermediate_size"],
        "num_attention_heads": flags["heads"],
        "num_key_value_heads": flags["kv_heads"],
        "vocab_size": flags["vocab_size"],
    }
    given = {name: value for name, value in shape.items() if value is not None}
    if flags["models"]:
        return [load_model(name, given) for name in flags["models"]]
    if not given:
        raise click.UsageError("--model is missing: a config.json, its folder, or a catalog id")
    return [from_mapping(given, where="command line")]
