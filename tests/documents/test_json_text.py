from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import documents
from planner.errors import InputError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inner, max_size=4),
    ),
    max_leaves=20,
)


def read(text, **options):
    return documents.parse(text, "config.json", "json", **options).data


def every_path(data, path=()):
    yield path
    items = data if isinstance(data, dict) else dict(enumerate(data if type(data) is list else ()))
    for key, value in items.items():
        yield from every_path(value, (*path, key))


@given(DATA, st.sampled_from([None, 0, 2]))
def test_what_is_dumped_is_read_back_with_a_line_for_every_part(data, indent):
    text = json.dumps(data, indent=indent)
    document = documents.parse(text, "f", "json")
    assert document.data == data
    assert list(document.lines) == list(every_path(data))
    assert max(document.lines.values()) <= text.count("\n") + 1
    assert list(document.lines.values()) == sorted(document.lines.values())


def test_lines_are_those_of_the_keys():
    lines = documents.parse('{"a": [1,\n {"b": {}}, []],\n "c": "x\\n,"\n}', "f", "json").lines
    assert lines == {
        (): 1,
        ("a",): 1,
        ("a", 0): 1,
        ("a", 1): 2,
        ("a", 1, "b"): 2,
        ("a", 2): 2,
        ("c",): 3,
    }


def test_infinity_is_read_only_where_it_is_asked_for():
    # As Hugging Face writes Mamba 2's time_step_limit.
    text = '{"time_step_limit": [0.0, Infinity]}'
    assert read(text, allow_infinity=True) == {"time_step_limit": [0.0, math.inf]}
    with pytest.raises(InputError, match=r"config\.json:1: Infinity is not JSON"):
        read(text)
    with pytest.raises(InputError, match="NaN is not JSON"):
        read('{"a": NaN}', allow_infinity=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": 1,\n "b": {"c": 1,\n "c": 2}}',
            "config.json:3: duplicate key 'c', first on line 2",
        ),
        ('{"a": 1,\n "a": 2}', "config.json:2: duplicate key 'a', first on line 1"),
        ('{"a":\n 1e999}', "config.json:2: the number 1e999 is too large"),
        ('{"a":\n ' + "1" * 5000 + "}", "config.json:2: a number of 5000 digits"),
        ('{"a": 1,}', "config.json:1: is not valid JSON"),
        ("{'a': 1}", "config.json:1: is not valid JSON"),
        ('{"a": 1}\nx', "config.json:2: is not valid JSON near 'x'"),
        ('{"a": 1', "config.json:1: is not valid JSON at the end"),
        ('{"a": "\t"}', "config.json:1: is not valid JSON"),
        ('{"a": 01}', "config.json:1: is not valid JSON"),
        ("[\n" * 100 + "]" * 100, "config.json:65: nested deeper than 64 levels"),
        ("[" * 1_000_000, "nested deeper than 64 levels"),
        ('{"a": "\\ud800"}', "half a character"),
        ("  ", "is empty"),
    ],
)
def test_what_is_refused_names_its_line(text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_brackets_inside_text_are_not_nesting():
    assert read('["' + "[" * 500 + '"]') == ["[" * 500]


@given(st.text('[]{}:,"0123e.-\\ntrufals \n', max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        read(text)
    except InputError as error:
        assert "\n" not in str(error)
