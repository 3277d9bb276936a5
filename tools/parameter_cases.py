"""Exact parameter counts of Transformers models built on the meta device.

    python tools/parameter_cases.py write -o CASES.json [--seed 1] [--mutations 4] [MODEL_TYPE ...]
    python tools/parameter_cases.py check CASES.json
    python tools/parameter_cases.py fields -o FIELDS.json [MODEL_TYPE ...]

A case is {name, task, model_type, architecture, kind, config, total, active, tensors}. `config` is
what config.json holds; what it leaves out takes the family's default. `total` counts tied weights
once and buffers not at all; `active` is the total with only the chosen routed experts, null where
the config does not say how many or a tower has experts too; `tensors` groups names with layer
numbers replaced by *: [how many, parameters in all]. `kind` is default, or mutation: a few layers
and one to three changed fields, drawn from the seed. `fields` lists for each model type which
single fields change any tensor ("shapes"), which do not ("free") and which change the class
refuses ("refused").
Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from family_defaults import TASKS, is_excluded, plain
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

AUTO = {
    "causal-lm": transformers.AutoModelForCausalLM,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "image-text": transformers.AutoModelForMultimodalLM,
    "image-class": transformers.AutoModelForImageClassification,
    "speech": transformers.AutoModelForCTC,
    "speech-seq2seq": transformers.AutoModelForSpeechSeq2Seq,
}
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Tensors of routed experts, not what routes them; JetMoE's feed-forward part has another name.
ROUTED = re.compile(
    r"(?<!shared_)experts\.(?!router\.|bias$|\w*norm)|\.mlp\.(input|output)_linear\."
)
# Fields that a family's own defaults leave out and its model cannot be built without.
REQUIRED: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "dots1": {
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "reformer": {"is_decoder": True},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "aya_vision": {"vision_config": {"num_attention_heads": 16, "vision_use_head": False}},
    "cohere_compass": {
        "text_config": {
            "num_hidden_layers": 12,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
            },
        },
    },
    "granite4_vision": {"downsample_rate": "4/8", "deepstack_layer_map": [[3, 0], [9, 6]]},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "qwen3_omni_moe": {
        "talker_config": {
            "spatial_merge_size": 2,
            "text_config": {"shared_expert_intermediate_size": 768, "head_dim": 128},
        },
    },
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "emu3": {"vocabulary_map": {"<image>": 151859}},
    "deepseek_ocr2": {
        "text_config": {
            "num_hidden_layers": 6,
            "num_experts_per_tok": 6,
            "n_group": 1,
            "topk_group": 1,
            "mlp_layer_types": ["dense"] + ["sparse"] * 5,
        },
    },
}
# Parts that the defaults leave out; mutations have them.
WITH_PARTS: dict[str, dict[str, Any]] = {
    name: {"vision_config": {}, "audio_config": {}} for name in ("gemma4", "gemma4_unified")
}

Json = Any


def build(config: transformers.PretrainedConfig, task: str) -> torch.nn.Module:
    """The task's model of a config, without weights."""
    with torch.device("meta"):
        return AUTO[task].from_config(config)


def tensors(model: torch.nn.Module) -> dict[str, list[int]]:
    """Parameter names with layer numbers replaced by *: [how many, parameters in all]."""
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        group = found.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), [0, 0])
        group[0] += 1
        group[1] += parameter.numel()
    return found


def active(config: dict[str, Json], groups: dict[str, list[int]], total: int) -> int | None:
    """The total with only the chosen routed experts; None where the config does not say."""
    routed = sum(number for name, (_, number) in groups.items() if ROUTED.search(name))
    if not routed:
        return total
    if any(re.search(r"(vision|visual|audio)\w*\..*experts\.", name) for name in groups):
        return None  # a tower's experts: they are chosen by numbers of its own, layer by layer
    text = config.get("text_config") or config.get("llm_config") or config
    experts = next((text[name] for name in EXPERTS if text.get(name)), None)
    chosen = text.get("num_experts_per_tok")
    if not experts or not chosen:
        return None
    return total - routed + routed * chosen // experts


def configuration(config: dict[str, Json]) -> transformers.PretrainedConfig:
    """The config object of a config.json's content."""
    fields = {name: value for name, value in config.items() if name != "model_type"}
    return CONFIG_MAPPING[config["model_type"]](**copy.deepcopy(fields))


def count(config: dict[str, Json], task: str) -> dict[str, Json]:
    """What a case records of one config."""
    built = configuration(config)
    model = build(built, task)
    groups = tensors(model)
    total = sum(number for _, number in groups.values())
    return {
        "architecture": type(model).__name__,
        "total": total,
        "active": active(built.to_dict(), groups, total),
        "tensors": groups,
    }


def own_fields(config: transformers.PretrainedConfig) -> dict[str, Json]:
    """A config's fields, and its nested configs' fields, that may shape the model."""
    subs = config.sub_configs_defaults or {}
    found: dict[str, Json] = {}
    for field in dataclasses.fields(config):
        if field.name in subs:
            nested = getattr(config, field.name)
            if nested is not None:
                found[field.name] = own_fields(nested)
        elif not is_excluded(field.name):
            config.allow_global_per_layer_attribute_access = True
            value = plain(getattr(config, field.name))
            if not (isinstance(value, list) and None in value):  # an infinite limit, not JSON
                found[field.name] = value
    return found


def changes(fields: dict[str, Json], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Json]]:
    """Single-field changes: (path to the field, new value)."""
    for name, value in sorted(fields.items()):
        here = (*path, name)
        if isinstance(value, dict) and name.endswith(("_config", "coder")):
            yield from changes(value, here)
        else:
            yield from ((here, new) for new in others(name, value))


def others(name: str, value: Json) -> Iterator[Json]:
    """Other values that a field may have: twice, half, the opposite, a few layers more."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int) and value > 0:
        if name in LAYER_FIELDS:
            yield value + 3
        else:
            yield value * 2
            if value > 1:
                yield value // 2
    elif isinstance(value, float) and name.endswith(("ratio", "multiplier", "coefficient")):
        yield value * 2
    elif isinstance(value, list) and value and all(type(v) is bool for v in value):
        yield [not v for v in value]
    elif isinstance(value, list) and value and all(type(v) is int for v in value):
        yield [v * 2 for v in value]
    elif value is None and name.startswith("num_") and name.endswith("heads"):
        yield 1


def with_change(config: dict[str, Json], path: tuple[str, ...], value: Json) -> dict[str, Json]:
    """A copy of a config with one (nested) field changed."""
    changed = copy.deepcopy(config)
    place = changed
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return changed


def bare(model_type: str) -> dict[str, Json]:
    """The family's defaults, and what it needs besides."""
    return {"model_type": model_type} | copy.deepcopy(REQUIRED.get(model_type, {}))


def small(model_type: str, task: str, layers: int) -> dict[str, Json]:
    """The family's defaults with a few layers where its class takes that, else all of them."""
    config = bare(model_type) | copy.deepcopy(WITH_PARTS.get(model_type, {}))
    fields = own_fields(configuration(config))
    for path, _ in changes(fields):
        if path[-1] in LAYER_FIELDS:
            fewer = with_change(config, path, layers)
            if attempt(fewer, task) is not None:
                config = fewer
    return config


def attempt(config: dict[str, Json], task: str) -> dict[str, Json] | None:
    """`count`, or None where the class or the model refuses the config."""
    try:
        return count(config, task)
    except Exception:  # noqa: BLE001 - a mutation may break any rule that the class checks
        return None


def can_run(config: dict[str, Json]) -> bool:
    """Whether heads divide into groups; classes build models that could not run otherwise."""
    return all(whole_groups(part) for part in parts(configuration(config)))


def parts(config: transformers.PretrainedConfig) -> Iterator[transformers.PretrainedConfig]:
    """A config and those nested in it, whatever their depth."""
    yield config
    for name in config.sub_configs_defaults or {}:
        nested = getattr(config, name, None)
        if nested is not None:
            yield from parts(nested)


def whole_groups(config: transformers.PretrainedConfig) -> bool:
    """Whether as many query heads share each key head."""
    config.allow_global_per_layer_attribute_access = True
    heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None)
    if not isinstance(heads, int) or not isinstance(groups, int):
        return True
    return groups <= heads and heads % groups == 0


def mutations(
    source: random.Random, model_type: str, task: str, wanted: int
) -> Iterator[dict[str, Json]]:
    """Mutated cases of a family: the first changes one field, later ones up to three."""
    base = small(model_type, task, source.randint(3, 7))
    plain_count = attempt(base, task)
    if plain_count is None:
        return
    fields = own_fields(configuration(base))
    singles = list(changes(fields))
    source.shuffle(singles)
    # what the issue names comes first: tying, biases, head sizes, fewer heads, experts, windows
    named = re.compile(r"tie_|bias|head|kv|expert|window|norm|rank|layers")
    singles.sort(key=lambda single: not named.search(single[0][-1]))
    made = 0
    while made < wanted and singles:
        config, used, before = base, [], plain_count
        for _ in range(min(made + 1, 3)):
            while singles:
                path, value = singles.pop(0)
                tried = with_change(config, path, value)
                found = attempt(tried, task)
                if found and found["tensors"] != before["tensors"] and can_run(tried):
                    config, used, before = tried, [*used, ".".join(path)], found
                    break
        if used:
            made += 1
            yield {"name": f"{model_type}-{'-'.join(used)}", "kind": "mutation", "config": config}


def record(case: dict[str, Json], task: str) -> dict[str, Json]:
    """A case with its counts."""
    found = count(case["config"], task)
    return {
        "name": f"{case['name']}-{task}",
        "task": task,
        "model_type": case["config"]["model_type"],
        "architecture": found.pop("architecture"),
        "kind": case["kind"],
        "config": case["config"],
        **found,
    }


def default_case(model_type: str) -> dict[str, Json]:
    """The family with every default written out, as save_pretrained would."""
    config = {"model_type": model_type} | own_fields(configuration(bare(model_type)))
    return {"name": f"{model_type}-default", "kind": "default", "config": config}


def write(arguments: argparse.Namespace) -> int:
    """Write the cases of the chosen types."""
    lines, failed = [], []
    names = arguments.model_types or TASKS[arguments.task]
    for model_type in sorted(names):
        source = random.Random(f"{arguments.seed} {model_type}")
        try:
            cases = [
                {
                    "name": f"{model_type}-bare",
                    "kind": "default",
                    "config": bare(model_type),
                }
            ]
            cases += [default_case(model_type)] if arguments.full else []
            cases += mutations(source, model_type, arguments.task, arguments.mutations)
            lines += [json.dumps(record(case, arguments.task)) for case in cases]
        except Exception as error:  # noqa: BLE001 - one family must not stop the others
            failed.append(model_type)
            print(model_type, "left out:", type(error).__name__, str(error)[:200], flush=True)
            continue
        print(model_type, len(cases), flush=True)
        Path(arguments.output).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} cases, Transformers {transformers.__version__}; left out: {failed}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Build every case again and compare."""
    wrong = 0
    cases = json.loads(Path(arguments.cases).read_text())
    for case in cases:
        try:
            found = count(case["config"], case["task"])
        except Exception as error:  # noqa: BLE001 - reported, and counted as different
            found = {"error": str(error)[:200]}
        names = ("architecture", "total", "active", "tensors")
        different = [name for name in names if found.get(name) != case[name]]
        wrong += bool(different)
        if different:
            values = [f"{n}: {found.get(n)} for {case[n]}" for n in different if n != "tensors"]
            print(case["name"], different, values, found.get("error", ""), flush=True)
    print(f"{len(cases) - wrong} of {len(cases)} the same")
    return int(wrong > 0)


def write_fields(arguments: argparse.Namespace) -> int:
    """Which single fields change a tensor."""
    lines = []
    for model_type in sorted(arguments.model_types or TASKS[arguments.task]):
        found: dict[str, dict[str, None]] = {"shapes": {}, "free": {}, "refused": {}}
        try:
            base = small(model_type, arguments.task, 4)
            plain_count = count(base, arguments.task)
            singles = list(changes(own_fields(configuration(base))))
        except Exception as error:  # noqa: BLE001 - one family must not stop the others
            print(model_type, "left out:", type(error).__name__, str(error)[:200], flush=True)
            continue
        for path, value in singles:
            counted = attempt(with_change(base, path, value), arguments.task)
            if counted is None:
                kind = "refused"
            else:
                kind = "free" if counted["tensors"] == plain_count["tensors"] else "shapes"
            found[kind][".".join(path)] = None
        for name in found["shapes"]:
            found["free"].pop(name, None)
            found["refused"].pop(name, None)
        for name in found["free"]:
            found["refused"].pop(name, None)
        entry = {kind: list(names) for kind, names in found.items()}
        lines.append(f"{json.dumps(model_type)}: {json.dumps(entry)}")
        print(model_type, len(found["shapes"]), flush=True)
        Path(arguments.output).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("write", write), ("fields", write_fields)):
        command = commands.add_parser(name)
        command.add_argument("-o", "--output", required=True)
        command.add_argument("--task", choices=sorted(AUTO), default="causal-lm")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--mutations", type=int, default=4)
        command.add_argument("--full", action="store_true", help="also with defaults written out")
        command.add_argument("model_types", nargs="*")
        command.set_defaults(function=function)
    command = commands.add_parser("check")
    command.add_argument("cases")
    command.set_defaults(function=check)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    return arguments.function(arguments)


if __name__ == "__main__":
    sys.exit(main())
