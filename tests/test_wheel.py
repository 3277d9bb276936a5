"""The wheel has what git has, and works where it is unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
REMAPPED = {"hardware_profiles": "planner/data", "scenarios": "planner/data", "planner": "."}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the working tree, built without build isolation, so without a network."""
    pytest.importorskip("hatchling", reason="hatchling (extra dev) builds the wheel")
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=CHECKOUT,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_has_the_files_that_git_has(wheel):
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *REMAPPED],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    names = [name for name in listing.split("\0") if name and (CHECKOUT / name).is_file()]
    expected = {Path(REMAPPED[name.split("/")[0]], name).as_posix() for name in names}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_unpacked_wheel_runs_and_finds_its_folders(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("LICENSE", "entry_points.txt"):
        assert list(site.glob(f"*.dist-info/**/{name}"))
    code = (
        "import planner; from planner import resources; from pathlib import Path; "
        "print(Path(planner.__file__).parent); "
        "print(resources.shipped_folder(resources.HARDWARE_PROFILES))"
    )
    found = run_from(site, tmp_path, "-c", code).split()
    assert found == [str(site / "planner"), str(site / "planner/data/hardware_profiles")]
    assert list(Path(found[1]).rglob("*.yaml"))
    assert run_from(site, tmp_path, "-m", "planner", "--version").startswith("planner ")


def run_from(site, folder, *arguments):
    """What Python prints with the unpacked wheel first on its path, run in another folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
