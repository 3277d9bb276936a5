"""`planner fit`: does training fit, where does the memory go, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import COUNT, LENGTH, MEMORY, json_option
from planner.cli.output import print_json, warn_of

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer
    from planner.answers.request import Request
    from planner.model.spec import ModelSpec

# The flags of a layout and a recipe: name, aliases, click's settings. Scenario fields have the
# same names.
_Option = Callable[[Any], Any]


def _options(*options: _Option) -> _Option:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


shape_options = _options(
    click.option("-L", "--layers", type=int, help="num_hidden_layers of a model given by fields."),
    click.option("-d", "--hidden-size", type=int, help="hidden_size (d)."),
    click.option("--intermediate-size", "--d-ff", type=int, help="intermediate_size (d_ff)."),
    click.option("--heads", "--n-q", "heads", type=int, help="num_attention_heads (n_q)."),
    click.option("--kv-heads", "--n-kv", "kv_heads", type=int, help="num_key_value_heads (n_kv)."),
    click.option("-V", "--vocab-size", type=int, help="vocab_size (V)."),
)

recipe_options = _options(
    click.option("--sequence-length", "--seq-len", type=LENGTH, help="Tokens of one sequence."),
    click.option("--micro-batch-size", "--mbs", type=int, help="Sequences per GPU and pass."),
    click.option("--global-batch-size", "--gbs", type=int, help="Sequences per optimizer step."),
    click.option("--gradient-accumulation", type=int, help="Passes per optimizer step."),
    click.option("--precision", help="bf16-mixed, bf16-autocast, bf16-pure, fp16-mixed, fp32, ..."),
    click.option(
        "--optimizer", help="adamw, adamw-8bit, sgd, sgd-momentum, adafactor, lion, muon."
    ),
    click.option("--attention", help="flash or eager."),
    click.option("--cross-entropy", help="standard, fused or chunked."),
    click.option("--compile", "compile_", is_flag=True, help="The model is compiled."),
    click.option("--finetune", help="full, lora or qlora."),
    click.option("--lora-rank", type=int),
    click.option("--lora-targets", help="Names of linears, with commas between; or all-linear."),
    click.option("--quantize", help="nf4 or int8, of the frozen weights."),
    click.option("--tokens", type=COUNT, help="Tokens of the whole run, such as 1e12."),
    click.option("--steps", type=COUNT, help="Optimizer steps of the whole run."),
)

layout_options = _options(
    click.option("--gpus", type=int, help="How many; without it the fewest are found."),
    click.option("--gpus-per-node", type=int),
    click.option("--tensor-parallel", "--tp", type=int, default=1),
    click.option("--pipeline-parallel", "--pp", type=int, default=1),
    click.option("--virtual-pipeline", type=int, default=1),
    click.option("--context-parallel", "--cp", type=int, default=1),
    click.option("--expert-parallel", "--ep", type=int, default=1),
    click.option("--sequence-parallel/--no-sequence-parallel", default=None),
    click.option("--sharding", help="none, zero1, zero2, zero3 or hsdp."),
    click.option("--recompute", help="none, selective or full."),
    click.option("--offload", multiple=True, help="optimizer, parameters or activations."),
    click.option("--stack", help="megatron, torchtitan, fsdp2, fsdp, deepspeed or ddp."),
    click.option("--reserve", type=MEMORY, default=0, help="Memory to keep free, such as 10GiB."),
    click.option("--usd-per-gpu-hour", type=float),
)


@click.command()
@click.option("--model", "models", multiple=True, help="config.json, its folder, or a catalog id.")
@shape_options
@click.option("--gpu", "gpu_names", multiple=True, help="Profile id, alias, YAML, live, or any.")
@layout_options
@recipe_options
@json_option
def command(as_json: bool, **flags: Any) -> int:
    """Say whether training fits, where the memory goes, and what would make it fit.

    \b
    Examples:
      planner fit --model llama-3.1-8b --gpu h100
      planner fit --model config.json --gpu h100 --gpus 8 --sharding zero3 --tokens 1e12
      planner fit --model llama-3.2-1b --gpu 4090 --finetune lora --mbs 4
      planner fit --model qwen3-8b --gpu a100 --gpu h100 --gpus 8 --sharding zero3
      planner fit --model llama-3.1-8b --gpu any --gpus 8 --sharding zero3
      planner fit --model llama-3.1-8b --gpu live --json

    Exit status: 0 it fits or is tight, 1 it does not fit, 2 bad input, 3 no GPU to ask.
    """
    answers = answers_for(flags)
    if as_json:
        from planner.report.as_json import answers_json

        print_json(answers_json(answers))
    else:
        from planner.report import terminal

        terminal.print_answers(answers, "Those that fit first, cheapest first")
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
    answers = [fit(model, request, target) for model in models for target in targets]
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


def request_of(flags: dict[str, Any]) -> Request:
    """The flags as a request."""
    from dataclasses import fields

    from planner.answers.request import Request

    names = {field.name for field in fields(Request)}
    values = {name: value for name, value in flags.items() if name in names}
    targets = flags.get("lora_targets")
    values["lora_targets"] = tuple(targets.split(",")) if targets else None
    values["compile"] = flags["compile_"]
    values["offload"] = tuple(flags["offload"])
    return Request(**values)
