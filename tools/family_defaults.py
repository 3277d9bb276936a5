"""Write the families' defaults from Transformers' own configuration classes.

    python tools/family_defaults.py [-o planner/model/families/defaults.json]

Needs torch and transformers (never needed to run the planner). One entry per model type:

architectures  task -> class that the Auto model of that task builds
defaults       field -> value that config.json may leave out (null: derived, see below)
aliases        accepted name -> the name that the class keeps (attribute_map)
sub_configs    field -> {"model_type", "defaults" (what this family sets), "optional", "fixed" (it
               is of that type whatever it says itself)}; the named model type has its own entry
resolved       derived fields at the defaults: field -> value after the class has filled it in
derived        field -> {"from": the fields that move it, "formula" or "pattern" where one fits
               every probe, else "probes": [[changed field, its value, outcome], ...]}

"overrides": true where the class computes the field even if the config gives it.
Long lists in resolved and probes are {"repeat": period, "length"} or {"runs": [[value, times]]};
per_layer_config.NAME is a field that differs by layer, one value per layer. A formula holds where
the config leaves the field out. A pattern is a list that repeats, one value per layer. The probes
change one field at a time; what moves with it is derived from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Models that see and hear, and also speak.
OMNI = ("qwen2_5_omni", "qwen3_omni_moe")
TASKS = {
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image-text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    | {name: modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[name] for name in OMNI},
    "image-class": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "speech": modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES,
    "speech-seq2seq": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
}

# Encoders that people train and that no task's class builds.
BARE = ("dinov3_vit",)

# Fields that never change the shape of a tensor (patterns as in a shell).
EXCLUDED = (
    "*_token_id",
    "*_token_ids",
    "*_token_index",
    "*_token_idx",
    "*token_id_*",
    "initializer_*",
    "*_init_range",
    "*_init_std",
    "init_std",
    "init_xavier_std",
    "*_eps",
    "*_epsilon",
    "id2label",
    "label2id",
    "problem_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "use_cache",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "architectures",
    "chunk_size_feed_forward",
    "router_*_loss_coef",
    "*_loss_coef",
    "*_loss_weight",
    "*_loss_reduction",
    "*jitter_noise",
    "forced_*",
    "suppress_tokens",
    "begin_suppress_tokens",
    "task_specific_params",
    "layerdrop",
    "*_layerdrop",
    "summary_*",
    "classifier_dropout",
    "language_id",
    "lang_id",
    "pretraining_tp",
)

Json = Any


def is_excluded(name: str) -> bool:
    """Whether a field never shapes the model."""
    return name.startswith("_") or any(fnmatch.fnmatchcase(name, p) for p in EXCLUDED)


def plain(value: object) -> Json:
    """A field's value as JSON data; configs become dicts, other objects their text."""
    if isinstance(value, transformers.PretrainedConfig):
        return {k: plain(v) for k, v in sorted(vars(value).items()) if not is_excluded(k)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in sorted(value.items(), key=str)}
    if isinstance(value, list | tuple | range):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) != float("inf") else None
    return str(value)


def raw_defaults(cls: type) -> dict[str, Json]:
    """The class's declared defaults, before anything is derived."""
    found = {}
    subs = getattr(cls, "sub_configs_defaults", None) or {}
    for field in dataclasses.fields(cls):
        if is_excluded(field.name) or field.name in subs:
            continue
        if field.default is not dataclasses.MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = plain(field.default_factory())
    return found


def build(cls: type, **changed: Json) -> dict[str, Json] | None:
    """The fields of a config after its class filled them in; None if it refuses them."""
    try:
        config = cls(**changed)
    except Exception:  # noqa: BLE001 - a probe may break any rule that the class checks
        return None
    subs = getattr(cls, "sub_configs_defaults", None) or {}
    per_layer = None
    if config.is_heterogeneous:  # some layers differ: reading their fields from the whole raises
        per_layer = {
            name: [plain(getattr(layer, name)) for layer in config.per_layer_config]
            for name in sorted(config.per_layer_attributes)
        }
        config.allow_global_per_layer_attribute_access = True
    names = {f.name for f in dataclasses.fields(cls)} | set(vars(config))
    names -= {"allow_global_per_layer_attribute_access"}
    read = {n: getattr(config, n, None) for n in names if not is_excluded(n) and n not in subs}
    found = {name: plain(value) for name, value in read.items() if not callable(value)}
    return (
        found
        if per_layer is None
        else found | {f"per_layer_config.{name}": values for name, values in per_layer.items()}
    )


def compressed(value: Json) -> Json:
    """A long list as a repeated period or as runs, whichever is shorter."""
    if not isinstance(value, list) or len(value) < 9:
        return value
    period = repeating(value)
    runs = [[v, len(list(same))] for v, same in itertools.groupby(value)]
    if min(len(period), 2 * len(runs)) >= len(value):
        return value
    if len(period) <= 2 * len(runs):
        return {"repeat": period, "length": len(value)}
    return {"runs": runs}


def probes(base: dict[str, Json]) -> Iterator[tuple[str, Any]]:
    """Single-field changes that most families accept."""
    for name, value in sorted(base.items()):
        if isinstance(value, bool):
            yield name, not value
        elif isinstance(value, int) and value > 0:
            yield name, value * 2
            if value > 1:
                yield name, value // 2
            if "layers" in name or name == "n_layer":
                yield name, value + 3
            elif value > 64:
                yield name, value + 1  # tells a rounded-up quotient from a rounded-down one


def candidates(sources: list[str]) -> Iterator[tuple[str, Callable[[dict[str, int]], int]]]:
    """Expressions in the sources, the simplest first, each as text and as a function."""
    for a in sources:
        yield a, lambda s, a=a: s[a]
    for a, b in itertools.permutations(sources, 2):
        yield f"{a} // {b}", lambda s, a=a, b=b: s[a] // s[b]
    for a, b in itertools.combinations(sources, 2):
        yield f"{a} * {b}", lambda s, a=a, b=b: s[a] * s[b]
        yield f"{a} + {b}", lambda s, a=a, b=b: s[a] + s[b]
    for a, k in itertools.product(sources, range(2, 17)):
        yield f"{k} * {a}", lambda s, a=a, k=k: k * s[a]
        yield f"{a} // {k}", lambda s, a=a, k=k: s[a] // k
        yield f"ceil({a} / {k})", lambda s, a=a, k=k: -(-s[a] // k)
    for a, b, c in itertools.permutations(sources, 3):
        if a < b:
            yield f"{a} * {b} // {c}", lambda s, a=a, b=b, c=c: s[a] * s[b] // s[c]


def scalar_formula(samples: list[tuple[dict[str, Json], Json]], sources: list[str]) -> str | None:
    """The simplest expression in the sources that gives every sample's value."""

    def fits(form: Callable[[dict[str, int]], int]) -> bool:
        try:
            return all(form(settings) == value for settings, value in samples)
        except (TypeError, ZeroDivisionError, KeyError):
            return False

    return next((text for text, form in candidates(sources) if fits(form)), None)


def repeating(values: list[Json]) -> list[Json]:
    """The shortest list whose repetition begins with the values."""
    for period in range(1, len(values) + 1):
        if all(v == values[i % period] for i, v in enumerate(values)):
            return values[:period]
    return values


def describe(
    name: str,
    base: dict[str, Json],
    moved: list[tuple[str, Any, dict[str, Json]]],
    outcomes: list[tuple[str, dict[str, Json]]],
) -> dict[str, Json]:
    """How a derived field follows from others; a formula must hold in every outcome."""
    sources = sorted({changed for changed, _, _ in moved})
    entry: dict[str, Json] = {"from": sources}
    value = base[name]
    if isinstance(value, list) and value:
        pattern = repeating(max([value] + [o[name] for _, _, o in moved if o.get(name)], key=len))
        lists = [value] + [o.get(name) or [] for _, _, o in moved]
        if len(pattern) < len(value) and all(
            v == pattern[i % len(pattern)] for values in lists for i, v in enumerate(values)
        ):
            return entry | {"pattern": pattern}
    elif isinstance(value, int) and not isinstance(value, bool):
        samples = [(base, value)] + [(o, o[name]) for changed, o in outcomes if changed != name]
        formula = scalar_formula(samples, sources)
        if formula is not None:
            return entry | {"formula": formula}
    return entry | {"probes": [[changed, to, compressed(o.get(name))] for changed, to, o in moved]}


def derivations(cls: type, raw: dict[str, Json], base: dict[str, Json]) -> dict[str, Json]:
    """Fields that the class computes from other fields."""
    moved: dict[str, list[tuple[str, Any, dict[str, Json]]]] = {}
    aliases = set(cls.attribute_map)
    outcomes: list[tuple[str, dict[str, Json]]] = []
    for changed, to in probes({n: v for n, v in base.items() if n in raw and n not in aliases}):
        outcome = build(cls, **{changed: to})
        if outcome is None or outcome.get(changed) != to:
            continue
        outcomes.append((changed, outcome))
        for name in base:
            if name != changed and name not in aliases and outcome.get(name) != base[name]:
                moved.setdefault(name, []).append((changed, to, outcome))
    entries = {}
    for name, found in sorted(moved.items()):
        entries[name] = describe(name, base, found, outcomes)
        value = base[name]
        if name in raw and isinstance(value, int) and not isinstance(value, bool):
            given = build(cls, **{name: value + 1})
            if given is not None and given[name] == value:
                entries[name]["overrides"] = True
    return entries


def sub_configs(cls: type) -> dict[str, Json]:
    """Nested configs by reference to the model type that describes them.

    One whose class has no model type has its fields' defaults here.
    """
    found = {}
    for name, spec in sorted((cls.sub_configs_defaults or {}).items()):
        own = {} if spec.model_type else raw_defaults(spec.config_class)
        defaults = own | plain(spec.init_kwargs or {})
        fixed = issubclass(spec.config_class, transformers.PretrainedConfig)
        found[name] = {
            "model_type": spec.model_type,
            **({"defaults": defaults} if defaults else {}),
            **({"optional": True} if spec.optional else {}),
            **({"fixed": True} if fixed else {}),
        }
    return found


def family(model_type: str) -> dict[str, Json]:
    """One model type's entry."""
    cls = CONFIG_MAPPING[model_type]
    raw = raw_defaults(cls)
    base = build(cls)
    entry: dict[str, Json] = {}
    tasks = {task: names[model_type] for task, names in TASKS.items() if model_type in names}
    if tasks:
        entry["architectures"] = {
            task: name if isinstance(name, str) else list(name) for task, name in tasks.items()
        }
    if cls.model_type != model_type:
        entry["class_model_type"] = cls.model_type
    entry["defaults"] = raw
    if cls.attribute_map:
        entry["aliases"] = dict(sorted(cls.attribute_map.items()))
    if subs := sub_configs(cls):
        entry["sub_configs"] = subs
    if base is None:
        entry["needs"] = "the class refuses its own defaults"
        return entry
    aliases = set(cls.attribute_map)
    resolved = {
        n: compressed(v) for n, v in sorted(base.items()) if n not in aliases and raw.get(n) != v
    }
    derived = derivations(cls, raw, base)
    for name in [n for n, d in derived.items() if "pattern" in d]:
        resolved.pop(name, None)
    if resolved:
        entry["resolved"] = resolved
    if derived:
        entry["derived"] = derived
    return entry


def wanted() -> list[str]:
    """The model types of the tasks and, below them, those of their nested configs."""
    found: set[str] = set()
    waiting = sorted(set(BARE).union(*TASKS.values()))
    while waiting:
        model_type = waiting.pop()
        if model_type in found or model_type not in CONFIG_MAPPING:
            continue
        found.add(model_type)
        waiting += nested(CONFIG_MAPPING[model_type])
    return sorted(found)


def nested(cls: type) -> Iterator[str]:
    """The model types of a class's nested configs; one without a type is looked into."""
    for spec in (getattr(cls, "sub_configs_defaults", None) or {}).values():
        if spec.model_type:
            yield spec.model_type
        else:
            yield from nested(spec.config_class)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="planner/model/families/defaults.json")
    parser.add_argument("model_types", nargs="*", help="only these (default: all)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    head = {
        "source": f"configuration classes of Transformers {transformers.__version__}",
        "script": "tools/family_defaults.py",
        "excluded": list(EXCLUDED),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    families = []
    for model_type in arguments.model_types or wanted():
        entry = json.dumps(family(model_type), separators=(",", ":"))
        families.append(f"{json.dumps(model_type)}:{entry}")
    text = "{\n" + ",\n".join(lines) + ',\n"families": {\n' + ",\n".join(families) + "\n}}\n"
    Path(arguments.output).write_text(text)


if __name__ == "__main__":
    main()
