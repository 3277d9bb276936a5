from __future__ import annotations

import os
from pathlib import Path

import pytest

from planner import resources
from planner.errors import InputError, MissingPartError


def test_package_files_lie_beside_the_code():
    assert resources.package_file("py.typed").is_file()


def test_a_folder_that_was_not_shipped_is_a_missing_part():
    with pytest.raises(MissingPartError, match="no recipes folder"):
        resources.shipped_folder("recipes")


def test_the_config_folder_is_the_users_choice_or_the_platforms():
    assert resources.config_folder({"PLANNER_CONFIG_DIR": "/x/y"}) == Path("/x/y")
    assert resources.config_folder({}).name == "planner"


def test_user_folders_come_first_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "shipped_folder", lambda kind: tmp_path / "shipped" / kind)
    for name in ("one", "two", "config/hardware_profiles"):
        (tmp_path / name).mkdir(parents=True)
    path = os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")])
    environment = {"PLANNER_HARDWARE_PATH": path, "PLANNER_CONFIG_DIR": str(tmp_path / "config")}
    assert resources.hardware_folders(environment) == (
        resources.Folder(tmp_path / "one", "PLANNER_HARDWARE_PATH"),
        resources.Folder(tmp_path / "two", "PLANNER_HARDWARE_PATH"),
        resources.Folder(tmp_path / "config/hardware_profiles", "user"),
        resources.Folder(tmp_path / "shipped/hardware_profiles", "shipped"),
    )
    only_shipped = resources.hardware_folders({"PLANNER_CONFIG_DIR": str(tmp_path / "none")})
    assert [folder.origin for folder in only_shipped] == ["shipped"]


def test_a_folder_named_by_the_variable_must_exist(tmp_path):
    with pytest.raises(InputError, match="PLANNER_HARDWARE_PATH: no folder"):
        resources.hardware_folders({"PLANNER_HARDWARE_PATH": str(tmp_path / "missing")})


def test_the_wheels_folder_wins_over_the_checkouts(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "planner")
    (tmp_path / "scenarios").mkdir()
    with pytest.raises(MissingPartError):  # a folder beside an installed package is not ours
        resources.shipped_folder("scenarios")
    (tmp_path / "pyproject.toml").touch()
    assert resources.shipped_folder("scenarios") == tmp_path / "scenarios"
    (tmp_path / "planner/data/scenarios").mkdir(parents=True)
    assert resources.shipped_folder("scenarios") == tmp_path / "planner/data/scenarios"
