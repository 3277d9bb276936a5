"""Plain data and a frozen dataclass become an instance, or one error that names the line.

The dataclass is the schema: its annotations say the types, its defaults what may be left out.
What is checked, in this order: fields that the class does not have (with a near match, or the
place where such a field belongs), fields that are missing, then each value. Values are strict: a
boolean is no number, text is no number, and every number is finite. A whole number written as
1.0e12 is a whole number.

Understood annotations: bool, int, float, str, None, Any, Literal, Enum (by value), lists and
tuples, mappings with text keys, dataclasses, unions of these, and Annotated with msgspec.Meta
bounds, of which the usual ones have names here.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import math
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as _get_type_hints

import msgspec

from planner.documents import Document, KeyPath
from planner.errors import InputError, PlannerError, near_match, unknown

T = TypeVar("T")

PositiveInt: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
PositiveFloat: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
NonNegativeInt: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
NonNegativeFloat: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]

_UNIONS = (Union, types.UnionType)
_LISTS = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)
_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}
_LONGEST_SHOWN = 60


def build(cls: type[T], source: Document | Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls` from a document, or from plain data that `where` names.

    What the class itself raises in `__post_init__`, a PlannerError or a ValueError, comes out with
    the place added (and a ValueError as an InputError).
    """
    document = source if isinstance(source, Document) else Document(source, where)
    instance: T = _value(_Place(document, (), cls), cls, document.data)
    return instance


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """The JSON Schema of `cls`, for editors; field metadata "meaning" and "unit" describe it."""
    schema = msgspec.json.schema(cls)
    for known in _dataclasses(cls):
        definition = schema["$defs"][known.__name__]
        definition["additionalProperties"] = False
        for field in dataclasses.fields(known):
            words = [field.metadata.get("meaning"), field.metadata.get("unit")]
            if any(words) and field.name in definition["properties"]:
                definition["properties"][field.name]["description"] = ", in ".join(
                    filter(None, words)
                )
    return schema


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in the document a value stands, and the class of the whole."""

    document: Document
    path: KeyPath
    root: type[Any]

    def __truediv__(self, key: str | int) -> _Place:
        return dataclasses.replace(self, path=(*self.path, key))

    def refuse(self, value: object, annotation: Any, advice: str = "") -> InputError:
        message = f"got {_shown(value)}, expected {_expected(annotation)}"
        return self.document.error(self.path, message + advice)


def _value(place: _Place, annotation: Any, value: Any) -> Any:
    origin = get_origin(annotation) or annotation
    if annotation is Any:
        return value
    if origin in _UNIONS:
        return _one_of(place, annotation, value)
    if dataclasses.is_dataclass(origin):
        return _instance(place, origin, value)
    if origin in _LISTS:
        return _items(place, annotation, value)
    if origin in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise place.refuse(value, annotation)
        _, of = get_args(annotation) or (str, Any)
        return {key: _value(place / key, of, below) for key, below in value.items()}
    return _leaf(place, annotation, value)


def _instance(place: _Place, cls: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise place.refuse(value, cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in value:
        if name not in fields:
            raise _unknown_field(place, str(name), fields)
    missing = [name for name, field in fields.items() if name not in value and _required(field)]
    hints = _hints(cls)
    if missing:
        told = ", ".join(f"{name!r} ({_expected(hints[name])})" for name in missing)
        raise place.document.error(
            place.path, f"missing field{'s' if len(missing) > 1 else ''} {told}"
        )
    given = {name: _value(place / name, hints[name], value[name]) for name in value}
    try:
        return cls(**given)
    except PlannerError as error:
        placed = place.document.error(place.path, error.message, error.hint)
        raise type(error)(placed.message, placed.hint) from None
    except ValueError as error:
        raise place.document.error(place.path, str(error)) from None


def _unknown_field(place: _Place, name: str, known: Mapping[str, Any]) -> InputError:
    where = place.document.where(place.path, line_of=(*place.path, name))
    if near_match(name, known) is None:
        right = next(_places_of(name, place.root, ()), None)
        if right is not None:
            told = ".".join(right) if len(right) > 1 else "the top level"
            prefix = f"{where}: " if where else ""
            return InputError(f"{prefix}field {name!r} is misplaced: it belongs at {told}")
    return unknown("field", name, known, where)


def _places_of(name: str, annotation: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths in a class that end in a field `name`."""
    if dataclasses.is_dataclass(annotation):
        for field, below in _hints(annotation).items():
            if field == name:
                yield (*path, field)
            if field not in path:  # a class may contain itself
                yield from _places_of(name, below, (*path, field))
    elif get_origin(annotation) in (*_UNIONS, Annotated):
        for member in get_args(annotation):
            yield from _places_of(name, member, path)


def _items(place: _Place, annotation: Any, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise place.refuse(value, annotation)
    origin, of = get_origin(annotation) or annotation, get_args(annotation) or (Any,)
    if origin is tuple and len(of) > 0 and of[-1] is not Ellipsis:
        if len(of) != len(value):
            message = f"got a list of {len(value)}, expected a list of {len(of)}"
            raise place.document.error(place.path, message)
        kinds = of
    else:
        kinds = (of[0],) * len(value)
    items = [
        _value(place / i, kind, item)
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _one_of(place: _Place, annotation: Any, value: Any) -> Any:
    """The member of a union that has the shape of the value; scalars are tried in turn."""
    members = get_args(annotation)
    if value is None and type(None) in members:
        return None
    shape = _shape(value)
    fitting = [member for member in members if _annotation_shape(member) == shape]
    if len(fitting) == 1 and shape != "scalar":
        return _value(place, fitting[0], value)
    for member in fitting:
        try:
            return _value(place, member, value)
        except InputError:
            continue
    raise place.refuse(value, annotation, _near_literal(annotation, value))


def _leaf(place: _Place, annotation: Any, value: Any) -> Any:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(value, float):
        if not math.isfinite(value):
            raise place.refuse(value, annotation)
        if bare is int and value.is_integer():
            value = int(value)
    if bare is float and type(value) is int and abs(value) > 10**300:
        raise place.refuse(value, annotation)
    try:
        return msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError:
        raise place.refuse(value, annotation, _near_literal(annotation, value)) from None


def _near_literal(annotation: Any, value: object) -> str:
    close = near_match(value, _words_of(annotation)) if isinstance(value, str) else None
    return f"; did you mean {close}?" if close else ""


def _words_of(annotation: Any) -> list[str]:
    """The words that an annotation allows, where it allows only some."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [str(word) for word in get_args(annotation)]
    if origin in _UNIONS:
        return [word for member in get_args(annotation) for word in _words_of(member)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    return []


def _shape(value: object) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, (list, tuple)) else "scalar"


def _annotation_shape(annotation: Any) -> str:
    origin = get_origin(annotation) or annotation
    if dataclasses.is_dataclass(origin) or origin in _MAPPINGS:
        return "mapping"
    return "list" if origin in _LISTS else "scalar"


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _hints(cls: Any) -> Mapping[str, Any]:
    return _cached_hints(cls)


@cache
def _cached_hints(cls: type[Any]) -> Mapping[str, Any]:
    return _get_type_hints(cls, include_extras=True)


def _dataclasses(annotation: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(annotation):
        yield annotation
        for below in _hints(annotation).values():
            yield from _dataclasses(below)
    for argument in get_args(annotation):
        yield from _dataclasses(argument)


def _expected(annotation: Any) -> str:
    """An annotation in words."""
    origin = get_origin(annotation) or annotation
    if origin in _UNIONS:
        return " or ".join(_expected(member) for member in get_args(annotation))
    if origin is Annotated:
        bare, *bounds = get_args(annotation)
        return _expected(bare) + "".join(_bounds(one) for one in bounds)
    words = _words_of(annotation)
    if words:
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    shape = _annotation_shape(annotation)
    if shape != "scalar":
        return f"a {shape}"
    return _WORDS.get(annotation, "another value")


def _bounds(meta: Any) -> str:
    told = [
        (getattr(meta, "gt", None), "above"),
        (getattr(meta, "ge", None), "of at least"),
        (getattr(meta, "lt", None), "below"),
        (getattr(meta, "le", None), "of at most"),
    ]
    parts = [f"{word} {bound:g}" for bound, word in told if bound is not None]
    if getattr(meta, "min_length", None):
        parts.append(
            "that is not empty" if meta.min_length == 1 else f"of {meta.min_length} or more"
        )
    if getattr(meta, "max_length", None):
        parts.append(f"no longer than {meta.max_length}")
    if getattr(meta, "pattern", None):
        parts.append(f"that matches {meta.pattern}")
    return f" {' and '.join(parts)}" if parts else ""


def _shown(value: object) -> str:
    """A value as its file has it, cut short."""
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {_shape(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
