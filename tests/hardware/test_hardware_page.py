"""docs/hardware.md says what the profiles say."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from planner.documents import parse
from planner.hardware import plausibility
from planner.hardware.gpu_file import GpuFile, read_gpu
from planner.hardware.library import all_gpus, all_nodes
from planner.hardware.profile import SOURCE_GROUPS

PAGE = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text("utf-8")
SHIPPED = {"PLANNER_CONFIG_DIR": "/nowhere"}


def listed(word):
    (line,) = re.findall(rf"^- {word}: (.*)$", PAGE, re.MULTILINE)
    return line.split(", ")


def test_the_example_is_a_profile():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (example,) = [text for text in examples if "peak" in text]  # the others are parts of profiles
    assert read_gpu(parse(example, "example", "yaml")).link.gpus_reached == 8


@pytest.mark.parametrize("group", [group for group in SOURCE_GROUPS if group in PAGE])
def test_what_was_recalled_is_listed(group):
    recalled = [
        gpu.id
        for gpu in all_gpus(SHIPPED)
        for source in gpu.sources
        if (source.group, source.seen) == (group, "recalled")
    ]
    assert recalled == (listed(group) if f"\n- {group}: " in PAGE else [])


def test_nodes_that_were_recalled_are_listed():
    recalled = [node.id for node in all_nodes(SHIPPED) if node.sources[0].seen == "recalled"]
    assert recalled == listed("nodes")


def test_every_rule_is_explained():
    assert {rule for rule in plausibility.RULES if f"`{rule}`" not in PAGE} == set()


def test_every_field_is_explained():
    assert {field.name for field in fields(GpuFile) if field.name not in PAGE} == set()


def test_the_shipped_exceptions_are_listed():
    (paragraph,) = re.findall(r"Shipped exceptions:(.*?)\n\n", PAGE, re.DOTALL)
    for gpu in all_gpus(SHIPPED):
        for exemption in gpu.exceptions:
            assert exemption.rule in paragraph
