"""Parameter counts against models that Transformers built: total, active, and every tensor's name.

The cases are tests/data/params_visible.json.gz (made by Transformers on the meta device; see
tests/data/README.md). Each type of model that is not covered yet is listed here by name; a type
that becomes covered must leave the list.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters, tensors

CASES = Path(__file__).parents[1] / "data" / "params_visible.json.gz"

# Two places of one storage, of which named_parameters() gives the first that it meets.
TIED_NAMES = (("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),)

NOT_COVERED_BY_TASK: dict[str, str] = {
    "image-text": """
        apertus1p5 blip cosmos3_edge deepseek_vl_hybrid dots3_note glm5_next hy_v4_vl
        idefics inkling2 kosmos-2 kosmos-2.5 minimax_m3_vl mistral_large4 molmo2
        nemotron_h_omni pi0 udop unlimited_ocr
    """,
    "masked-lm": """
        perceiver
    """,
    "seq2seq": """
        seamless_m4t
    """,
}
NOT_COVERED = {
    (model_type, task)
    for task, types in NOT_COVERED_BY_TASK.items()
    for model_type in types.split()
}


@lru_cache(maxsize=1)
def cases():
    with gzip.open(CASES, "rt", encoding="utf-8") as file:
        return json.load(file)


def covered(case):
    return (case["model_type"], case["task"]) not in NOT_COVERED


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


@pytest.mark.parametrize("case", [c for c in cases() if covered(c)], ids=named)
def test_counts_are_exact_to_the_unit(case):
    counts = count_parameters(spec_of(case))
    assert counts.total == case["total"]
    assert sum(counts.by_group.values()) == counts.total
    if case["active"] is not None:
        assert counts.active == case["active"]


@pytest.mark.parametrize("case", [c for c in cases() if covered(c)], ids=named)
def test_every_tensor_has_its_name_in_the_checkpoint(case):
    found, wanted = grouped(spec_of(case)), dict(case["tensors"])
    # Transformers may name a shared tensor by either of its two places.
    for one, other in TIED_NAMES:
        if one in found and one not in wanted and other in wanted:
            found[other] = found.pop(one)
    assert found == wanted


@pytest.mark.parametrize("case", [c for c in cases() if not covered(c)], ids=named)
def test_what_is_not_covered_is_refused_and_not_miscounted(case):
    """One that is counted exactly must leave NOT_COVERED; a wrong number is never given."""
    with pytest.raises(InputError):
        spec_of(case)


def test_the_list_names_only_cases_that_exist():
    assert {(c["model_type"], c["task"]) for c in cases()} >= NOT_COVERED
