"""The catalog: whole, unambiguous, sourced, and in agreement with our own counter."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from planner import documents, schema
from planner.errors import InputError
from planner.model import catalog
from planner.model.catalog import CatalogEntry
from planner.model.families import FAMILIES
from planner.model.parameters import count_parameters
from planner.model.sources import load_model
from planner.resources import package_file

each_model = pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.id)

# Sizes as the models' own papers and cards round them, billions; not read from the catalog.
WELL_KNOWN = {
    "llama-3.1-8b": (8.03, 8.03),
    "llama-3.1-70b": (70.6, 70.6),
    "llama-3.1-405b": (406, 406),
    "deepseek-v3": (671, 37.6),
    "qwen3-30b-a3b": (30.5, 3.35),
    "gpt-oss-120b": (116.8, 5.71),
    "mixtral-8x7b": (46.7, 12.9),
}


WHOLE_FILE = documents.load(package_file(catalog.FILE)).data


def test_the_catalog_is_wide() -> None:
    assert len(catalog.ids()) >= 100
    assert set(WELL_KNOWN) <= set(catalog.ids())


def test_entries_read_one_by_one_are_those_of_the_whole_file() -> None:
    assert list(WHOLE_FILE) == list(catalog.ids())
    for entry in catalog.entries():
        fields = dict(WHOLE_FILE[entry.id])
        aliases = tuple(fields.pop("aliases", ()))
        assert entry == CatalogEntry(id=entry.id, aliases=aliases, **fields)


@each_model
def test_types(entry: CatalogEntry) -> None:
    fields = {"id": entry.id, **WHOLE_FILE[entry.id]}
    assert schema.build(CatalogEntry, fields, entry.id) == entry


def test_every_name_means_one_model() -> None:
    names = Counter(name.lower() for entry in catalog.entries() for name in entry.names)
    assert [name for name, times in names.items() if times > 1] == []


@each_model
def test_an_entry_is_sourced(entry: CatalogEntry) -> None:
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", entry.id)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub_id)
    assert len(entry.parameters_source) >= len("model card: 7B")
    assert entry.config_source
    if entry.evidence == "recalled":
        assert entry.count == "published"  # something outside has to speak for it


@each_model
def test_a_config_names_a_family_that_is_modelled(entry: CatalogEntry) -> None:
    assert entry.config["model_type"] in FAMILIES


@each_model
def test_active_parameters_are_given_for_mixtures_of_experts_only(entry: CatalogEntry) -> None:
    routed = any("experts" in field for field in entry.config)
    assert (entry.active_parameters is not None) is routed
    if entry.active_parameters is not None:
        assert entry.active_parameters < entry.parameters


@each_model
def test_our_counter_agrees_to_the_unit(entry: CatalogEntry) -> None:
    spec = load_model(entry.id)
    count = count_parameters(spec)
    assert count.total == entry.parameters
    assert count.active == (entry.active_parameters or entry.parameters)
    assert spec.warnings == ()


@pytest.mark.parametrize("name", WELL_KNOWN)
def test_well_known_sizes(name: str) -> None:
    entry = catalog.find(name)
    total, active = WELL_KNOWN[name]
    assert entry.parameters / 1e9 == pytest.approx(total, rel=0.005)
    assert (entry.active_parameters or entry.parameters) / 1e9 == pytest.approx(active, rel=0.005)


@each_model
def test_found_by_every_name_in_any_case(entry: CatalogEntry) -> None:
    for name in entry.names:
        assert catalog.find(name) is entry
        assert catalog.find(f" {name.upper()} ") is entry


def test_a_part_of_a_name_is_not_a_name() -> None:
    with pytest.raises(InputError, match=r"unknown model 'llama-3\.1': did you mean llama-3"):
        catalog.find("llama-3.1")


def test_near_match_over_ids_aliases_and_repositories() -> None:
    with pytest.raises(InputError, match=r"did you mean qwen3-8b\?"):
        catalog.find("qwn3-8b")
    with pytest.raises(InputError, match=r"did you mean meta-llama/Llama-3\.1-8B\?"):
        catalog.find("meta-lama/Llama-3.1-8B")


@pytest.mark.parametrize("name", ["", "  ", "config", "model_type: llama", "\n", "no/such-thing"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown model"):
        catalog.find(name)
