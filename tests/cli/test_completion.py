"""Shell completion, as the shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

from planner.cli import completion


def offered(words, tmp_path):
    return subprocess.run(
        [sys.executable, "-m", "planner"],
        env={
            **os.environ,
            "PLANNER_CONFIG_DIR": str(tmp_path),
            "_PLANNER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.split()


def test_profiles_are_offered_by_id(tmp_path):
    found = offered("planner hardware show h200", tmp_path)
    assert found == ["plain,h200-nvl-141gb", "plain,h200-sxm-141gb"]


def test_users_profiles_are_offered_too(tmp_path, monkeypatch):
    (tmp_path / "hardware_profiles").mkdir()
    (tmp_path / "hardware_profiles" / "h2-ours.yaml").touch()
    monkeypatch.setenv("PLANNER_CONFIG_DIR", str(tmp_path))
    assert completion.complete_gpu(None, None, "h2")[:2] == ["h2-ours", "h20-3e-141gb"]
    assert completion.complete_gpu(None, None, "li") == ["live"]


def test_a_wrong_setting_offers_nothing_and_says_nothing(monkeypatch):
    monkeypatch.setenv("PLANNER_HARDWARE_PATH", "/no/such/folder")
    assert completion.complete_profile(None, None, "h") == []


def test_models_are_offered_beside_files(run_planner):
    done = run_planner(
        _PLANNER_COMPLETE="bash_complete",
        COMP_WORDS="planner fit --model llama-3.1-8",
        COMP_CWORD="3",
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["plain,llama-3.1-8b", "file,llama-3.1-8"]


def test_gpus_are_offered_where_one_is_asked_for(run_planner):
    done = run_planner(
        _PLANNER_COMPLETE="bash_complete", COMP_WORDS="planner fit --gpu h100-s", COMP_CWORD="3"
    )
    assert "plain,h100-sxm-80gb" in done.stdout.splitlines()
