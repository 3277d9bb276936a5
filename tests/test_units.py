from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import units
from planner.errors import InputError

BYTES = st.integers(0, 2**50)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80GiB", 85_899_345_920),
        ("80 GiB", 85_899_345_920),
        ("80GB", 80_000_000_000),
        ("0", 0),
        ("512", 512),
        (512, 512),
        (1.5e3, 1500),
        ("1_024B", 1024),
        (".5KiB", 512),
        ("1.5e2MiB", 157_286_400),
        ("0.1KiB", 102),  # 102.4: no memory has a part of a byte
    ],
)
def test_memory_sizes(text, value):
    parsed = units.parse_bytes(text)
    assert parsed == value
    assert isinstance(parsed, int)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8k", 8_000), ("8.03B", 8_030_000_000), ("1e12", 10**12), ("15.6T", 15_600_000_000_000)],
)
def test_counts_are_decimal(text, value):
    assert units.parse_count(text) == value


def test_lengths_are_binary():
    assert units.parse_length("128k") == 131_072
    assert units.parse_length("128Ki") == 131_072
    assert units.parse_length("8000") == 8_000


def test_rates_and_durations():
    assert units.parse_byte_rate("900 GB/s") == 9.0e11
    assert units.parse_byte_rate("400Gbps") == 5.0e10
    assert units.parse_byte_rate("1 GiB/s") == 2.0**30
    assert units.parse_flop_rate("1.98 PFLOPS") == 1.98e15
    assert units.parse_seconds("250ms") == 0.25
    assert units.parse_seconds("2 days") == 172_800


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("80gib", "did you mean GiB?"),
        ("80Gib", "did you mean"),
        ("80 TFLOP/s", "unknown unit"),
        ("", "expected a memory size"),
        ("GiB", "expected a memory size"),
        ("-1GiB", "from 0 to"),
        ("nan", "expected"),
        ("inf", "expected"),
        (float("nan"), "expected"),
        (True, "got 'True'"),
        ("1e999999999", "expected"),
        ("1e999", "from 0 to"),
        ("1,024", "expected"),
        ("0x10", "expected"),
        ("9" * 100_000, "expected"),
        ("٣GiB", "expected"),  # digits of another script
    ],
)
def test_what_is_no_memory_size(text, part):
    with pytest.raises(InputError) as caught:
        units.parse_bytes(text, "--reserve")
    assert caught.value.message.startswith("--reserve: got ")
    assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_a_part_of_a_thing_is_no_count():
    with pytest.raises(InputError, match=r"got '1\.5'"):
        units.parse_count("1.5")
    assert units.parse_count("1.5k") == 1500


@given(BYTES, st.sampled_from(sorted(units.BYTE_UNITS)))
def test_a_unit_multiplies_exactly(number, unit):
    assert units.parse_bytes(f"{number}{unit}") == number * units.BYTE_UNITS[unit]


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_line(text):
    for parse in (units.parse_bytes, units.parse_count, units.parse_seconds):
        try:
            assert parse(text) >= 0
        except InputError as error:
            assert str(error).isprintable()


@given(st.integers(1, 2**50))
def test_decimal_and_binary_units_never_agree(number):
    for decimal, binary in (("KB", "KiB"), ("MB", "MiB"), ("GB", "GiB"), ("TB", "TiB")):
        assert units.parse_bytes(f"{number}{decimal}") < units.parse_bytes(f"{number}{binary}")


@given(BYTES)
def test_printed_memory_reads_back_within_its_digits(value):
    back = units.parse_bytes(units.format_memory(value).replace(",", ""))
    assert abs(back - value) <= 0.0501 * value


@given(st.integers(10_000, 10**17))
def test_printed_counts_read_back_within_their_digits(value):
    text = units.format_count(value).replace("K", "k").replace(" Q", "e3 T").replace(" ", "")
    assert abs(units.parse_count(text) - value) <= 0.0051 * value


@given(st.floats(1e-4, 1e9))
def test_printed_durations_read_back_within_their_digits(seconds):
    text = units.format_duration(seconds).replace(",", "")
    assert units.parse_seconds(text) == pytest.approx(seconds, rel=0.0051, abs=5.1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1000, "1000 B"),
        (2048, "2.0 KiB"),
        (2**20, "1.0 MiB"),
        (0.1 * 2**30, "0.10 GiB"),
        (9.994 * 2**30, "9.99 GiB"),
        (9.996 * 2**30, "10.0 GiB"),
        (1536 * 2**30, "1,536.0 GiB"),
        (-12.34 * 2**30, "-12.3 GiB"),
    ],
)
def test_memory_as_people_read_it(value, text):
    assert units.format_memory(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (0.5, "0.5"),
        (124_439_808, "124 M"),
        (999_950_000, "1.00 B"),
        (671_026_419_200, "671 B"),
        (-15_000, "-15.0 K"),
    ],
)
def test_counts_as_people_read_them(value, text):
    assert units.format_count(value) == text


def test_other_quantities_as_people_read_them():
    assert units.format_duration(59.999) == "1.00 min"
    assert units.format_duration(0.0) == "0.00 ms"
    assert units.format_duration(86_400 * 1234.5) == "1,234 days"
    assert units.format_usd(999.999) == "$1,000"
    assert units.format_usd(0) == "$0.00"
    assert units.format_byte_rate(450e9) == "450 GB/s"
    assert units.format_byte_rate(12) == "12.0 B/s"
    assert units.format_flop_rate(1.9785e15) == "1.98 PFLOP/s"
