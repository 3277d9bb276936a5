"""The flags that ask for a model, a recipe and a layout; scenario fields have the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.cli.completion import complete_gpu, complete_model
from planner.cli.options import COUNT, LENGTH, MEMORY, RATE, grouped

if TYPE_CHECKING:
    from planner.answers.request import Request

Decorator = Callable[[Any], Any]


def _all(*options: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_model = grouped("Model")
model_options = _all(
    _model(
        "--model",
        "models",
        multiple=True,
        shell_complete=complete_model,
        help="config.json, its folder, or a catalog id.",
    ),
    _model("-L", "--layers", type=int, help="num_hidden_layers, of a model given by its fields."),
    _model("-d", "--hidden-size", type=int, help="hidden_size (d)."),
    _model("--intermediate-size", "--d-ff", type=int, help="intermediate_size (d_ff)."),
    _model("--heads", "--n-q", "heads", type=int, help="num_attention_heads (n_q)."),
    _model("--kv-heads", "--n-kv", "kv_heads", type=int, help="num_key_value_heads (n_kv)."),
    _model("-V", "--vocab-size", type=int, help="vocab_size (V)."),
)

_hardware = grouped("Hardware")
gpu_option = _hardware(
    "--gpu",
    "gpu_names",
    multiple=True,
    shell_complete=complete_gpu,
    help="GPU or node type: id, alias or YAML profile; live, or any.",
)
hardware_options = _all(
    _hardware("--gpus", type=int, help="How many; without it the fewest are found."),
    _hardware("--gpus-per-node", type=int, help="GPUs that share a node, else the usual."),
    _hardware("--reserve", type=MEMORY, default=0, help="Memory of each to keep free: 2GiB."),
    _hardware("--usd-per-gpu-hour", type=float, help="Price, else the profile's."),
)

_recipe = grouped("Recipe")
_tuning = grouped("Fine-tuning")
recipe_options = _all(
    _recipe("--sequence-length", "--seq-len", type=LENGTH, help="Tokens of a sequence: 8192, 8k."),
    _recipe("--global-batch-size", "--gbs", type=int, help="Sequences per optimizer step."),
    _recipe("--tokens", type=COUNT, help="Tokens of the whole run, such as 1e12."),
    _recipe("--steps", type=COUNT, help="Optimizer steps of the whole run."),
    _recipe(
        "--precision",
        metavar="WORD",
        help="bf16-mixed, bf16-autocast, bf16-pure, fp16-mixed, fp8-mixed, mxfp8-mixed, "
        "nvfp4-mixed or fp32.",
    ),
    _recipe(
        "--optimizer",
        metavar="NAME",
        help="adamw, adamw-8bit, sgd, sgd-momentum, adafactor, lion or muon.",
    ),
    _recipe("--attention", metavar="KERNEL", help="flash or eager."),
    _recipe("--cross-entropy", metavar="KERNEL", help="standard, fused or chunked."),
    _recipe("--compile", "compile_", is_flag=True, help="The model is compiled."),
    _tuning("--finetune", metavar="METHOD", help="full, lora or qlora."),
    _tuning("--lora-rank", type=int, help="Rank of the adapters."),
    _tuning("--lora-targets", help="Linears with adapters, commas between; or all-linear."),
    _tuning("--quantize", metavar="FORMAT", help="Of the frozen weights: nf4 or int8."),
)

_pauses = grouped("Pauses of the run")
pause_options = _all(
    _pauses("--evaluation-every-steps", type=int, help="Steps between two evaluations."),
    _pauses("--evaluation-steps", type=int, help="Batches of an evaluation."),
    _pauses("--checkpoint-every-steps", type=int, help="Steps between two checkpoints."),
    _pauses("--storage-bandwidth", type=RATE, help="Of checkpoints, all GPUs together: 20GB/s."),
)

_layout = grouped("Layout")
layout_options = _all(
    _layout("--micro-batch-size", "--mbs", type=int, help="Sequences per GPU and pass."),
    _layout("--gradient-accumulation", type=int, help="Passes per optimizer step."),
    _layout("--sharding", metavar="STAGE", help="none, zero1, zero2, zero3 or hsdp."),
    _layout("--tensor-parallel", "--tp", type=int, default=1, help="GPUs that split each layer."),
    _layout("--pipeline-parallel", "--pp", type=int, default=1, help="Stages of layers."),
    _layout("--virtual-pipeline", type=int, default=1, help="Chunks of layers per stage."),
    _layout(
        "--pipeline-schedule",
        metavar="NAME",
        help="1f1b, interleaved (what several chunks make), gpipe, zero-bubble or dualpipe.",
    ),
    _layout("--context-parallel", "--cp", type=int, default=1, help="GPUs that split a sequence."),
    _layout("--expert-parallel", "--ep", type=int, default=1, help="GPUs that divide the experts."),
    _layout("--expert-tensor-parallel", type=int, help="GPUs that split each expert."),
    _layout(
        "--sequence-parallel/--no-sequence-parallel",
        default=None,
        help="Norms split along the sequence, among the tensor-parallel GPUs.",
    ),
    _layout(
        "--recompute",
        metavar="WHAT",
        help="none, selective, full, full:N layers of each stage, or modules with commas between.",
    ),
    _layout(
        "--offload",
        multiple=True,
        help="To the host: optimizer, parameters, activations, or activations:N layers.",
    ),
    _layout(
        "--cuda-graph",
        metavar="WHAT",
        help="none, local (layer by layer), full, or te: and modules: te:attn+moe_router.",
    ),
    _layout("--moe-dispatcher", metavar="NAME", help="alltoall, deepep or hybridep (megatron)."),
    _layout(
        "--overlap",
        metavar="WORDS",
        help="Traffic beside compute: none, or dp, dp-reduce, tp, pp, ep with commas between.",
    ),
    _layout("--stack", help="megatron, torchtitan, fsdp2, fsdp, deepspeed or ddp."),
)


def options_named(names: Sequence[str], helps: Mapping[str, str]) -> Decorator:
    """Some of the hardware, recipe and layout options, by the names of their arguments.

    helps: what a command says of those that mean something else there, or take fewer words
    """

    def bare() -> None:
        """Carries the options."""

    parameters: list[Any] = hardware_options(recipe_options(layout_options(bare))).__click_params__
    chosen = [one for one in parameters if one.name in names]
    for one in chosen:
        one.help = helps.get(one.name, one.help)

    def decorate(function: Any) -> Any:
        function.__click_params__ = [*getattr(function, "__click_params__", []), *chosen]
        return function

    return decorate


def request_of(flags: dict[str, Any]) -> Request:
    """The flags as a request."""
    from dataclasses import fields

    from planner.answers.request import Request

    names = {field.name for field in fields(Request)}
    values = {name: value for name, value in flags.items() if name in names}
    targets = flags.get("lora_targets")
    values["lora_targets"] = tuple(targets.split(",")) if targets else None
    values["compile"] = flags.get("compile_", False)
    given = ",".join(flags.get("offload", ())).split(",")
    values["offload"] = tuple(name.strip() for name in given if name.strip())
    return Request(**values)
