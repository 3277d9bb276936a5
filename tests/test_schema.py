from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import documents, schema
from planner.errors import InputError, MissingPartError
from planner.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


class Kind(enum.Enum):
    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Tuning:
    method: Literal["lora", "qlora"]
    rank: PositiveInt = 16
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    sequence_length: PositiveInt
    tokens: PositiveInt | None = field(
        default=None, metadata={"meaning": "what is trained on", "unit": "tokens"}
    )
    precision: Literal["bf16-mixed", "fp32"] = "bf16-mixed"
    finetune: Tuning | None = None
    rates: Mapping[str, PositiveFloat] = field(default_factory=dict)
    share: Fraction = 0.5

    def __post_init__(self):
        if self.tokens == 13:
            raise ValueError("13 tokens are too few")
        if self.tokens == 14:
            raise MissingPartError("14 tokens need more", "add one")


@dataclass(frozen=True)
class Scenario:
    recipe: Recipe
    name: str = "unnamed"
    layout: Literal["auto"] | dict[str, Any] = "auto"
    gpus: PositiveInt | list[PositiveInt] | None = None
    kind: Kind = Kind.DENSE
    offload: bool = False
    pair: tuple[int, str] = (0, "")
    steps: Sequence[NonNegativeInt] = ()
    id: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", min_length=1)] = "x"


def build(text, cls=Scenario):
    return schema.build(cls, documents.parse(text, "s.yaml", "yaml"))


def test_a_whole_document_becomes_nested_dataclasses():
    built = build("""
name: a
recipe:
  sequence_length: 8192
  tokens: 1.0e12            # a whole number, however it is written
  finetune: {method: lora, targets: [q_proj, v_proj]}
  rates: {bf16: 1, fp8: 2.5}
gpus: [8, 16]
kind: sparse
offload: true
pair: [1, x]
steps: [0, 1]
layout: {tensor_parallel: 2}
""")
    assert built == Scenario(
        name="a",
        recipe=Recipe(
            sequence_length=8192,
            tokens=10**12,
            finetune=Tuning("lora", targets=("q_proj", "v_proj")),
            rates={"bf16": 1.0, "fp8": 2.5},
        ),
        gpus=[8, 16],
        kind=Kind.SPARSE,
        offload=True,
        pair=(1, "x"),
        steps=(0, 1),
        layout={"tensor_parallel": 2},
    )
    assert type(built.recipe.tokens) is int
    assert type(built.recipe.rates["bf16"]) is float


def test_what_is_left_out_takes_its_default():
    assert build("recipe: {sequence_length: 1}") == Scenario(Recipe(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "recipe:\n  sequence_lenght: 1",
            "s.yaml:2: recipe: unknown field 'sequence_lenght': did you mean sequence_length?",
        ),
        (
            "recipe: {sequence_length: 1}\ntokens: 5",
            "s.yaml:2: field 'tokens' is misplaced: it belongs at recipe.tokens",
        ),
        (
            "recipe:\n  sequence_length: 1\n  gpus: 5",
            "s.yaml:3: recipe: field 'gpus' is misplaced: it belongs at the top level",
        ),
        ("name: x", "s.yaml:1: missing field 'recipe' (a mapping)"),
        (
            "recipe: {sequence_length: 1, finetune: {}}",
            "s.yaml:1: recipe.finetune: missing field 'method' (one of lora, qlora)",
        ),
        ("[1]", "s.yaml:1: got a list, expected a mapping"),
        ("recipe: 5", "s.yaml:1: recipe: got 5, expected a mapping"),
        ("recipe: {sequence_length: true}", "got true, expected a whole number of at least 1"),
        ("recipe: {sequence_length: '1'}", "got '1', expected a whole number of at least 1"),
        ("recipe: {sequence_length: 1.5}", "got 1.5, expected a whole number of at least 1"),
        ("recipe: {sequence_length: 0}", "got 0, expected a whole number of at least 1"),
        ("recipe: {sequence_length: null}", "got null, expected a whole number of at least 1"),
        (
            "recipe: {sequence_length: 1, precision: bf16-mixd}",
            "expected one of bf16-mixed, fp32; did you mean bf16-mixed?",
        ),
        (
            "recipe: {sequence_length: 1,\n rates: {bf16: 1,\n  fp8: -1}}",
            "s.yaml:3: recipe.rates.fp8: got -1, expected a number above 0",
        ),
        (
            "recipe: {sequence_length: 1, rates: {fp8: true}}",
            "recipe.rates.fp8: got true, expected a number above 0",
        ),
        (
            "recipe: {sequence_length: 1, share: 1.5}",
            "got 1.5, expected a number of at least 0 and of at most 1",
        ),
        (
            "recipe: {sequence_length: 1, finetune: {method: lora, targets: q}}",
            "recipe.finetune.targets: got 'q', expected a list",
        ),
        (
            "recipe: {sequence_length: 1, finetune: {method: lora, targets: [q, 1]}}",
            "recipe.finetune.targets[1]: got 1, expected text",
        ),
        (
            "recipe: {sequence_length: 1}\ngpus: 1.5",
            "s.yaml:2: gpus: got 1.5, expected a whole number of at least 1 or a list or null",
        ),
        ("recipe: {sequence_length: 1}\ngpus: [1, 0]", "s.yaml:2: gpus[1]: got 0, expected"),
        (
            "recipe: {sequence_length: 1}\nlayout: aut",
            "layout: got 'aut', expected auto or a mapping; did you mean auto?",
        ),
        (
            "recipe: {sequence_length: 1}\nkind: dens",
            "kind: got 'dens', expected one of dense, sparse; did you mean dense?",
        ),
        ("recipe: {sequence_length: 1}\noffload: on", "got 'on', expected true or false"),
        ("recipe: {sequence_length: 1}\noffload: 1", "got 1, expected true or false"),
        ("recipe: {sequence_length: 1}\npair: [1]", "pair: got a list of 1, expected a list of 2"),
        ("recipe: {sequence_length: 1}\npair: [1, 2]", "pair[1]: got 2, expected text"),
        (
            "recipe: {sequence_length: 1}\nid: A1",
            "id: got 'A1', expected text that is not empty and that matches ^[a-z]+$",
        ),
        ("recipe: {sequence_length: 1, tokens: 13}", "s.yaml:1: recipe: 13 tokens are too few"),
        (
            "recipe: {sequence_length: 1, rates: {a: 1" + "0" * 350 + "}}",
            "recipe.rates.a: got 1000",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(text, message):
    with pytest.raises(InputError) as caught:
        build(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_classes_own_refusal_keeps_its_exit_status_and_hint():
    with pytest.raises(MissingPartError) as caught:
        build("recipe: {sequence_length: 1, tokens: 14}")
    assert str(caught.value) == "s.yaml:1: recipe: 14 tokens need more (add one)"


def test_plain_data_is_named_by_its_caller():
    with pytest.raises(InputError, match=r"^--model: sequence_length: got 'x', expected"):
        schema.build(Recipe, {"sequence_length": "x"}, "--model")
    with pytest.raises(InputError, match=r"^sequence_length: got inf, expected"):
        schema.build(Recipe, {"sequence_length": float("inf")})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["recipe", "gpus", "tokens", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_data_is_built_or_refused_in_one_line(data):
    try:
        schema.build(Scenario, {"recipe": {"sequence_length": 1}, "gpus": data})
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert data is None or isinstance(data, (int, float, list))


def test_the_json_schema_says_what_build_accepts():
    exported = schema.json_schema(Scenario)
    recipe = exported["$defs"]["Recipe"]
    assert recipe["required"] == ["sequence_length"]
    assert recipe["additionalProperties"] is False
    assert recipe["properties"]["sequence_length"] == {"type": "integer", "minimum": 1}
    assert recipe["properties"]["tokens"]["description"] == "what is trained on, in tokens"
    assert exported["$defs"]["Kind"]["enum"] == ["dense", "sparse"]
    assert msgspec.json.encode(exported)
