from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from planner.cli import options, output


@pytest.fixture
def answer():
    @click.command()
    @click.option("--reserve", type=options.MEMORY)
    @click.option("--tokens", type=options.COUNT)
    @click.option("--sequence-length", type=options.LENGTH)
    @options.json_option
    def command(as_json, **values):
        output.print_json({"as_json": as_json, **values})

    return lambda *arguments: CliRunner().invoke(command, arguments)


def test_quantities_are_read_with_their_units(answer):
    done = answer("--reserve", "10GiB", "--tokens", "1e12", "--sequence-length", "8k", "--json")
    assert json.loads(done.stdout) == {
        "as_json": True,
        "reserve": 10 * 2**30,
        "tokens": 10**12,
        "sequence_length": 8192,
    }


def test_a_wrong_quantity_names_its_flag(answer):
    done = answer("--reserve", "10gib")
    assert done.exit_code == 2
    assert "Invalid value for '--reserve': got '10gib'" in done.output


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.print_json({"x": float("nan")})
