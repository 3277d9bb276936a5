from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planner import documents
from planner.documents import yaml_text
from planner.errors import InputError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"])),
)
KEYS = st.text("abcdefgh_", min_size=1, max_size=8)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


def read(text):
    return documents.parse(text, "f.yaml", "yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e12", 1e12),
        ("1.0e12", 1e12),
        ("1E9", 1e9),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("010", 10),
        ("0o10", 8),
        ("0xFF", 255),
        ("+7", 7),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("TRUE", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("'1e12'", "1e12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ("! 12", "12"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_stay_as_they_are_written():
    assert read("on: 1\n8: 2\ntrue: 3\n'4': 5") == {"on": 1, "8": 2, "true": 3, "4": 5}


@given(DATA)
def test_what_is_dumped_is_read_back(data):
    found = read(yaml.safe_dump({"root": data}, allow_unicode=True))["root"]
    assert found == data


def test_both_parsers_of_pyyaml_give_the_same(monkeypatch):
    text = "a: &x {p: 1e3, q: [1, 'b']}\nb: {<<: *x, q: on}\nc: !!str 1\n"
    with_libyaml = documents.parse(text, "f", "yaml")
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    without = documents.parse(text, "f", "yaml")
    assert without.data == with_libyaml.data
    assert without.lines == with_libyaml.lines


def test_merge_keys_fill_in_and_never_override():
    text = """
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
one: {<<: *base, b: 9}
both: {b: 8, <<: [*base, *more]}
quoted: {"<<": 5}
"""
    data = read(text)
    assert data["one"] == {"a": 1, "b": 9}
    assert data["both"] == {"a": 1, "b": 8, "c": 4}
    assert data["quoted"] == {"<<": 5}


def test_every_part_has_its_line():
    text = "a: 1\nlist:\n  - x\n  - {k: 2,\n     m: 3}\nuse: &u\n  deep: 1\nagain: *u\n"
    lines = documents.parse(text, "f", "yaml").lines
    assert lines[()] == 1
    assert lines[("list", 0)] == 3
    assert lines[("list", 1, "m")] == 5
    assert lines[("again",)] == 8
    assert lines[("again", "deep")] == 7  # where it stands


BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: duplicate key 'a', first on line 1"),
        ("{<<: {a: 1}, <<: {b: 1}}", "f.yaml:1: duplicate key '<<', first on line 1"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", "f.yaml:2: tag !!python/object/apply"),
        ("a: !mine 1", "f.yaml:1: tag !mine is not allowed"),
        ("!!set {a}", "tag !!set is not allowed"),
        ("a: !!binary aGk=", "tag !!binary is not allowed"),
        ("a: !!int x", "'x' is not what its tag !!int says"),
        ("a: .inf", "got .inf, expected a finite number"),
        ("a: .NaN", "got .NaN, expected a finite number"),
        ("a: 1e999", "the number 1e999 is too large"),
        ("a: " + "9" * 5000, "is too large"),
        ("a: [1\nb: 2", "f.yaml:2: is not valid YAML"),
        ("a: b: c", "f.yaml:1: is not valid YAML"),
        ("a: \x07", "f.yaml:1: is not valid YAML"),
        ("a: *nothing", "alias *nothing has no anchor before it"),
        ("&a [*a]", "alias *a contains itself"),
        ("? [1]\n: 2", "a key must be text"),
        ("a: 1\n---\nb: 2", "f.yaml:2: a second document begins"),
        ("<<: 5", "a merge key (<<) takes a mapping"),
        ("<<: [{a: 1}, 2]", "a merge key (<<) takes a mapping"),
        ("# nothing", "has no content"),
        ("", "is empty"),
        ("[" * 100 + "]" * 100, "nested deeper than 64 levels"),
        ("- " * 100 + "1", "nested deeper than 64 levels"),
        ("[" * 100_000, "f.yaml:1: "),
        (BOMB, "more than 200,000 parts"),
        ("a: \ud800", "is not UTF-8 text"),
    ],
)
def test_what_is_refused_names_its_line(text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    found = str(caught.value)
    assert message in found
    assert "\n" not in found
    assert len(found) < 200


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        data = read(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert_plain(data)


@given(st.text("[]{}:,-&*!<'\"#|>%@ \n01ae.", max_size=60))
def test_any_punctuation_is_read_or_refused_in_one_line(text):
    test_any_text_is_read_or_refused_in_one_line.hypothesis.inner_test(text)


def assert_plain(data):
    if isinstance(data, dict):
        for key, value in data.items():
            assert isinstance(key, str)
            assert_plain(value)
    elif isinstance(data, list):
        for value in data:
            assert_plain(value)
    else:
        assert data is None or isinstance(data, (str, bool, int, float))
        assert not isinstance(data, float) or math.isfinite(data)


def test_sharing_within_the_bound_is_allowed():
    wide = "a: &a [" + ",".join(["1"] * 1000) + "]\nb: [" + ",".join(["*a"] * 100) + "]"
    assert sum(len(one) for one in read(wide)["b"]) == 100_000 < yaml_text.MAX_PARTS
