"""A Hugging Face config.json read strictly: what is given, what a family assumes, what is unknown.

A family's piece asks for fields by the name that the configuration class keeps; aliases are
resolved as Transformers resolves them (attribute_map), and a field that is left out takes the
family's own default (families/defaults.json, generated from Transformers). Every field that was
asked for is remembered, so that a switch which the piece does not know is found: a known field of
the family that nobody read, with another value than its default, is refused; a field that is no
field of the family is named in a warning.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import InputError, unknown

DEFAULTS = Path(__file__).parent / "families" / "defaults.json"

# Fields that change no tensor's shape and no FLOP: positions are rotated by another angle, a
# dropout drops more, a loss is weighted, a generation ends elsewhere. Patterns as in a shell.
NEUTRAL = (
    "_*",
    "auto_map",
    "*dropout*",
    "*pdrop",
    "rope_*",
    "rotary_emb_base",
    "rotary_base",
    "partial_rotary_factor",
    "*max_position*",
    "*_position_embedding_base",
    "is_encoder_decoder",
    "is_decoder",
    "bos_token_*",
    "use_return_dict",
    "tokenizer_class",
    "quantization_config",
    "*loss*",
    "scale_*",
    "*_scale",
    "*_multiplier",
    "*scaling*",
    "query_pre_attn_scalar",
    "router_*",
    "norm_topk_prob",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "seq_aux",
    "aux_*",
    "ep_size",
    "model_type",
    "model_max_length",
    "name_or_path",
    "finetuning_task",
    "gradient_checkpointing",
    "use_flash_attn*",
    "use_cache",
    "cache_implementation",
    "attn_implementation",
    "torchscript",
    "pruned_heads",
    "tf_legacy_loss",
    "use_bfloat16",
    "typical_p",
    "*penalty*",
    "temperature",
    "top_k",
    "top_p",
    "num_beams*",
    "num_return_sequences",
    "no_repeat_ngram_size",
    "min_length",
    "max_length",
    "do_sample",
    "early_stopping",
    "diversity_penalty",
    "prefix",
    "unsloth_*",
    "logit_scale",
    "use_mup",
    "num_image_tokens",
)

# A model field beyond this is a slip of the keyboard, not a network.
LARGEST_FIELD = 10**9


@lru_cache(maxsize=1)
def family_table() -> Mapping[str, Any]:
    with DEFAULTS.open(encoding="utf-8") as file:
        table: Mapping[str, Any] = json.load(file)
    return table


class Config:
    """The fields of one (sub-)config, asked for by name."""

    def __init__(
        self,
        given: Mapping[str, Any],
        *,
        where: Callable[[str], str] = str,
        model_type: str | None = None,
        own_defaults: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = model_type or given.get("model_type")
        if not isinstance(chosen, str):
            raise InputError(
                f"{where('model_type')}: model_type is missing: a config.json names its family, "
                "for example model_type: llama"
            )
        self.model_type = chosen
        self.where = where
        entry = family_table()["families"].get(chosen, {})
        self._resolved: Mapping[str, Any] = entry.get("resolved", {})
        self._derived: Mapping[str, Any] = entry.get("derived", {})
        self._aliases: Mapping[str, str] = entry.get("aliases", {})
        defaults = {**entry.get("defaults", {}), **(own_defaults or {})}
        self._defaults: dict[str, Any] = {self._aliases.get(k, k): v for k, v in defaults.items()}
        self.sub_configs: Mapping[str, Any] = entry.get("sub_configs", {})
        self.given: dict[str, Any] = {}
        for name, value in given.items():
            self.given.setdefault(self._aliases.get(name, name), value)
        self._spelled = {self._aliases.get(name, name): name for name in given}
        self._read: set[str] = {"model_type"}
        self.assumed: dict[str, Any] = {}
        self._doubts: list[str] = []

    # ---- asking -------------------------------------------------------------------------------

    def raw(self, name: str) -> Any:
        """The value as given, else the family's default, else None; the field counts as read."""
        name = self._aliases.get(name, name)
        self._read.add(name)
        value = self.given.get(name)
        if value is None:
            value = self._defaults.get(name)
            if value is not None:
                self.assumed[name] = value
        return value

    def is_null(self, name: str) -> bool:
        """Whether the config says null outright: that switches a thing off, default or not."""
        name = self._aliases.get(name, name)
        return name in self.given and self.given[name] is None

    def has(self, name: str) -> bool:
        return self.raw(name) is not None and not self.is_null(name)

    def canonical(self, name: str) -> str:
        """The name under which the family's configuration class keeps a field."""
        return self._aliases.get(name, name)

    def knows(self, name: str) -> bool:
        """Whether the family has such a field at all, or the config gives it."""
        name = self._aliases.get(name, name)
        return name in self.given or name in self._defaults

    def size(self, name: str, otherwise: int | None = None) -> int:
        """A whole number above zero; `otherwise` where it is null or nobody has it."""
        value = self.raw(name)
        if otherwise is not None and self.is_null(name):
            return otherwise
        if value is None:
            if otherwise is None:
                raise self.error(name, None, "a whole number above 0: the family has no default")
            return otherwise
        return self._whole(name, value, 1)

    def count(self, name: str, otherwise: int | None = None) -> int:
        """A whole number that may be zero."""
        value = self.raw(name)
        if otherwise is not None and self.is_null(name):
            return otherwise
        if value is None:
            if otherwise is None:
                raise self.error(name, None, "a whole number: the family has no default")
            return otherwise
        return self._whole(name, value, 0)

    def optional(self, name: str) -> int | None:
        """A whole number above zero, or None where it is null or nobody has it."""
        value = self.raw(name)
        return None if value is None or self.is_null(name) else self._whole(name, value, 1)

    def flag(self, name: str, otherwise: bool = False) -> bool:
        value = self.raw(name)
        if value is None or self.is_null(name):
            return otherwise
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def number(self, name: str, otherwise: float) -> float:
        value = self.raw(name)
        if value is None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, value, "a number")
        return float(value)

    def word(self, name: str, otherwise: str | None = None) -> str:
        value = self.raw(name)
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, str):
            raise self.error(name, value, "a word")
        return value

    def words(self, name: str) -> tuple[str, ...] | None:
        return None if self.raw(name) is None else tuple(self._listed(name, str, "words"))

    def sizes(self, name: str) -> tuple[int, ...] | None:
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.error(name, value, "a list of whole numbers")
        return tuple(self._whole(name, v, 0) for v in value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers, none where nobody has it."""
        found = self._listed(name, int | float, "numbers")
        self.require(not any(isinstance(v, bool) for v in found), name, "a list of numbers")
        return tuple(float(v) for v in found)

    def flags(self, name: str) -> tuple[bool, ...]:
        """A list of true and false, none where nobody has it."""
        return tuple(self._listed(name, bool, "true and false"))

    def _listed(self, name: str, kind: Any, wanted: str) -> Sequence[Any]:
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(v, kind) for v in value):
            raise self.error(name, value, f"a list of {wanted}")
        return value

    def per_layer_sizes(self, name: str, layers: int) -> tuple[int, ...]:
        """One whole number for all layers, or a list with one per layer."""
        value = self.raw(name)
        if not isinstance(value, list | tuple):
            return (self.size(name),) * layers
        self.require(len(value) == layers, name, f"one number, or one per layer ({layers})")
        return tuple(self._whole(name, v, 1) for v in value)

    def per_layer(self, name: str, known: Sequence[str]) -> dict[int, Mapping[str, int]] | None:
        """Sizes that single layers have for themselves: {"05": {"head_dim": 512}}, or None."""
        value = self.raw(name)
        if value is None:
            return None
        made: dict[int, Mapping[str, int]] = {}
        wanted = f"layer numbers, each with sizes of {', '.join(known)}"
        self.require(isinstance(value, Mapping), name, wanted)
        for layer, own in value.items():
            self.require(str(layer).isdecimal() and isinstance(own, Mapping), name, wanted)
            self.require(set(own) <= set(known), name, wanted)
            made[int(layer)] = {k: self._whole(f"{name}.{k}", v, 1) for k, v in own.items()}
        return made

    def modernize(self, names: Mapping[str, str]) -> None:
        """Fields under the names of older configs, which count before today's: older -> today's."""
        for older, name in names.items():
            if self.given.get(older) is not None:
                self.given[self._aliases.get(name, name)] = self.given.pop(older)

    def ignore(self, *names: str) -> None:
        """These fields are known and change neither a shape nor a FLOP of this family.

        A name with * stands for all fields that fit, as in a shell.
        """
        for name in names:
            fitting = fnmatch.filter(self.given, name) if "*" in name else (self.canonical(name),)
            self._read.update(fitting)

    def sub(self, name: str, model_type: str | None = None, *, fill: bool = False) -> Config:
        """A nested config (text_config, vision_config) with its own family's defaults.

        The composite's values for it stand only where it is left out altogether or, with `fill`,
        also where it is given in part. A model_type that it gives counts where the composite does
        not fix one: older checkpoints have the composite's own there.
        """
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(name, value, "a mapping of fields")
        entry = self.sub_configs.get(name, {})
        given = dict(value or {})
        own = entry.get("model_type") or model_type
        kind = own if entry.get("fixed") else given.get("model_type") or own
        return Config(
            given,
            where=lambda field: f"{self.where(name)}.{field}",
            model_type=kind,
            own_defaults=entry.get("defaults") if fill or value is None else None,
        )

    def left_out(self, name: str) -> bool:
        """Whether a nested config is not there that need not be there."""
        return bool(self.sub_configs.get(name, {}).get("optional")) and self.raw(name) is None

    def resolved(self, name: str) -> Any:
        """The value as given, else as the family's configuration class works it out by default."""
        value = self.raw(name)
        return self._resolved.get(self._aliases.get(name, name)) if value is None else value

    def default_pattern(self, name: str) -> tuple[str, ...] | None:
        """The words that the family repeats over its layers where a list is left out."""
        pattern = self._derived.get(name, {}).get("pattern")
        return None if pattern is None else tuple(pattern)

    # ---- checking -----------------------------------------------------------------------------

    def require(self, condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise self.error(name, self.given.get(name, self._defaults.get(name)), wanted)

    def runs_only_if(self, condition: bool, name: str, wanted: str) -> None:
        """Warn of a model that Transformers builds and that stops at its first step."""
        if not condition:
            value = self.given.get(name, self._defaults.get(name))
            fault = self.error(name, value, wanted).message
            self._doubts.append(f"{fault}: its weights are counted, but it cannot run")

    def divides(self, whole: str, part: str) -> int:
        """whole / part of two sizes; an error if it leaves a rest."""
        a, b = self.size(whole), self.size(part)
        self.require(a % b == 0, part, f"a divisor of {whole} = {a}")
        return a // b

    def one_of(self, name: str, values: Sequence[object], otherwise: object = None) -> Any:
        value = self.raw(name)
        value = otherwise if value is None else value
        if value not in values:
            known = ", ".join(map(str, values))
            raise self.error(name, value, f"one of {known}: others are not modelled")
        return value

    def error(self, name: str, value: object, wanted: str) -> InputError:
        shown = "null" if value is None else repr(value)
        spelled = self._spelled.get(name, name)
        return InputError(f"{self.where(spelled)}: {spelled} = {shown}: expected {wanted}")

    def finish(self) -> tuple[str, ...]:
        """Refuse what is known but not modelled; say what is not understood, in sentences."""
        strange = []
        neutral = (*family_table()["excluded"], *NEUTRAL)
        for name, value in self.given.items():
            spellings = {name, self._spelled.get(name, name)}
            if name in self._read or any(fnmatch.filter(spellings, p) for p in neutral):
                continue
            if name in self._defaults or name in self._resolved:
                if value is None or value in (self._defaults.get(name), self._resolved.get(name)):
                    continue
                raise self.error(
                    name,
                    value,
                    f"{self._defaults.get(name)!r}, its default: the planner does "
                    f"not model this switch of {self.model_type} and gives no wrong number",
                )
            strange.append(self._spelled.get(name, name))
        doubts = tuple(dict.fromkeys(self._doubts))
        if not strange:
            return doubts
        named = ", ".join(sorted(strange))
        return (*doubts, f"not understood and left out of account: {named}")

    def _whole(self, name: str, value: object, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, value, "a whole number")
        if value < least:
            raise self.error(name, value, f"at least {least}")
        if value > LARGEST_FIELD:
            raise self.error(name, value, f"at most {LARGEST_FIELD}")
        return value


def unknown_family(model_type: str, families: Sequence[str]) -> InputError:
    return unknown("model_type", model_type, families, field="model_type")
