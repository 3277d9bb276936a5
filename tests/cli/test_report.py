"""`planner report`: files as users get them."""

from __future__ import annotations

import json
import sys

import pytest

from planner import cli
from planner.resources import SCENARIOS, shipped_folder

WORKED = sorted(shipped_folder(SCENARIOS).glob("*.yaml"))


@pytest.mark.parametrize("suffix", ["html", "md", "csv", "json"])
def test_each_format_is_written_whole_and_again_the_same(run_planner, tmp_path, suffix):
    name = f"r.{suffix}"
    done = run_planner("report", *WORKED, "-o", name)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"planner: wrote {name}\n"
    first = (tmp_path / name).read_bytes()
    assert run_planner("report", *WORKED, "-o", name, "--force").returncode == 0
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_replaced_unless_asked(run_planner, tmp_path):
    kept = tmp_path / "r.md"
    kept.write_text("mine", encoding="utf-8")
    done = run_planner("report", WORKED[0], "-o", "r.md")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "planner: r.md: exists already (--force replaces it)\n"
    assert kept.read_text("utf-8") == "mine"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("r.htm", "r.htm: unknown report format '.htm': did you mean .html?"),
        ("report", "report: unknown report format 'report': known: .csv, .html, .json, .md, .xlsx"),
        ("none/r.md", "none/r.md: cannot be written: No such file or directory"),
    ],
)
def test_a_wrong_output_is_one_line(run_planner, output, message):
    done = run_planner("report", WORKED[1], "-o", output)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"planner: {message}\n")


def test_the_report_holds_what_estimate_answers(run_planner, tmp_path):
    answered = json.loads(run_planner("estimate", *WORKED, "--json").stdout)["estimates"]
    told = run_planner("report", *WORKED, "-o", "r.json", "--json")
    assert json.loads(told.stdout)["path"] == "r.json"
    reported = json.loads((tmp_path / "r.json").read_text("utf-8"))["estimates"]
    for one in reported:
        assert one.pop("sources")
    assert reported == answered


def test_a_workbook_without_its_package_is_status_3(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    status = cli.main(["report", str(WORKED[1]), "-o", str(tmp_path / "r.xlsx")])
    out, err = capsys.readouterr()
    assert (status, out) == (3, "")
    assert err == (
        "planner: an .xlsx report needs XlsxWriter (pip install 'llm-training-planner[excel]')\n"
    )
    assert list(tmp_path.iterdir()) == []
