"""Parameter counts against models that Transformers built: total, active, and every tensor's name.

The cases are the files tests/data/params_*.json.gz (made by Transformers on the meta device; see
tests/data/README.md): every type that they hold is covered.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pytest

from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters, tensors

DATA = Path(__file__).parents[1] / "data"
FILES = ("params_visible.json.gz", "params_image_text.json.gz", "params_other.json.gz")

# Two places of one storage, of which named_parameters() gives the first that it meets.
TIED_NAMES = (("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),)

# The data takes a tower's experts at the share of the text's that a token uses; here it is the
# tower's own, layer by layer (2 of 4 to 64).
TOWER_HAS_EXPERTS = ("dots3_note-default-image-text",)


@lru_cache(maxsize=1)
def cases():
    made = []
    for name in FILES:
        with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
            made += json.load(file)
    return made


def spec_of(case):
    return families.build(Config(case["config"]))


def grouped(spec):
    """Names with layer numbers replaced, as the data has them: name -> [how many, parameters]."""
    found = defaultdict(lambda: [0, 0])
    for name, weight in tensors(spec):
        key = name
        while (shorter := re.sub(r"\.\d+(?=\.|$)", ".*", key)) != key:
            key = shorter
        found[key][0] += 1
        found[key][1] += weight.parameters
    return dict(found)


def named(case):
    return f"{case['name']}-{case['task']}"


@pytest.mark.parametrize("case", cases(), ids=named)
def test_counts_are_exact_to_the_unit(case):
    counts = count_parameters(spec_of(case))
    assert counts.total == case["total"]
    assert sum(counts.by_group.values()) == counts.total
    if case["active"] is not None and case["name"] not in TOWER_HAS_EXPERTS:
        assert counts.active == case["active"]


@pytest.mark.parametrize("case", cases(), ids=named)
def test_every_tensor_has_its_name_in_the_checkpoint(case):
    found, wanted = grouped(spec_of(case)), dict(case["tensors"])
    # Transformers may name a shared tensor by either of its two places.
    for one, other in TIED_NAMES:
        if one in found and one not in wanted and other in wanted:
            found[other] = found.pop(one)
    assert found == wanted
