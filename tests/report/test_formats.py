"""Reports: every format says the same, holds up against hostile text, and is the same each time."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from html.parser import HTMLParser

import pytest

from planner.answers.scenarios import answers_of
from planner.report.document import Input, report_of
from planner.report.html import to_html
from planner.report.markdown import to_markdown
from planner.report.tables import harmless, to_csv, to_json
from planner.scenario.file import read_scenario

HOSTILE = "=1+1 <script>alert(1)</script> | *b* `c` \\ &amp; [x](y)"
TEXT = """\
name: {name}
model: {{model_type: llama, num_hidden_layers: 2, hidden_size: 256, vocab_size: 1000}}
recipe: {{tokens: 1.0e9, sequence_length: 512}}
hardware: {{gpu: rtx-4090, gpus: {gpus}}}
budget: {{usd_per_gpu_hour: 0.5}}
"""
FORMATS = {"html": to_html, "md": to_markdown, "csv": to_csv, "json": to_json}


@pytest.fixture
def report(tmp_path):
    def make(name="a run", gpus="1"):
        path = tmp_path / "run.yaml"
        path.write_text(TEXT.format(name=json.dumps(name), gpus=gpus), encoding="utf-8")
        file = read_scenario(path)
        inputs = [Input("run.yaml", file.text)]
        return report_of(answers_of(file), inputs, version="1.2.3", command="planner report x")

    return make


class Reader(HTMLParser):
    """What a browser would show, what it would fetch, and whether tags are closed."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.fetched = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "action", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def words_of(text):
    return " ".join(" ".join(Reader(text).words).split())


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_report_is_the_same_bytes(report, name):
    assert FORMATS[name](report()) == FORMATS[name](report())


@pytest.mark.parametrize("name", FORMATS)
def test_inputs_version_command_and_assumptions_are_in_every_format(report, name):
    text = FORMATS[name](report())
    if name == "html":
        text = words_of(text)
    for needed in ("1.2.3", "planner report x", "stack ddp: the usual one", "rtx-4090"):
        assert needed in text.replace("\\", ""), needed


@pytest.mark.parametrize("name", ["html", "md", "json"])
def test_sources_and_uncertainty_are_told(report, name):
    text = FORMATS[name](report()).replace("\\", "")
    for needed in ("torch.nn.parallel.DistributedDataParallel", "Loshchilov"):
        assert needed in text, needed
    assert "±" in text or "uncertainty_bytes" in text


def test_html_is_whole_and_fetches_nothing(report):
    text = to_html(report(gpus="[1, 2]"))
    page = Reader(text)
    assert page.open == []
    assert page.fetched == []
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert page.tags.count("h1") == 1
    # The template and the scenario are not in the page in part: two answers and one file.
    assert page.tags.count("h2") == 3


def test_hostile_text_is_shown_and_does_nothing(report):
    made = report(HOSTILE)
    html = to_html(made)
    assert "script" not in Reader(html).tags
    assert " ".join(HOSTILE.split()) in words_of(html)
    markdown = to_markdown(made).split("```yaml")[0]
    for dangerous in ("<script>", " | *b*", "[x](y)"):
        assert dangerous not in markdown
    (row,) = csv.DictReader(io.StringIO(to_csv(made)))
    assert row["name"] == "'" + HOSTILE
    assert json.loads(to_json(made))["estimates"][0]["name"] == HOSTILE


def test_markdown_tables_have_as_many_cells_as_headings(report):
    tables = re.findall(r"(?:^\|.*\|\n)+", to_markdown(report(HOSTILE, "[1, 2]")), re.MULTILINE)
    assert len(tables) > 6
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_csv_and_json_have_the_same_numbers(report):
    made = report(gpus="[1, 2]")
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    estimates = json.loads(to_json(made))["estimates"]
    assert len(rows) == len(estimates) == 2
    for row, estimate in zip(rows, estimates, strict=True):
        for column in ("memory.peak_bytes", "time.step_seconds", "budget.cost_usd"):
            group, name = column.split(".")
            assert float(row[column]) == estimate[group][name]
        assert row["budget.energy_kwh"] == ""  # unknown is empty, never 0


def test_numbers_that_html_and_markdown_show_are_those_of_json(report):
    made = report()
    (estimate,) = json.loads(to_json(made))["estimates"]
    peak = f"{estimate['memory']['peak_bytes'] / 2**30:.2f} GiB"
    cost = f"${estimate['budget']['cost_usd']:.2f}"
    for text in (words_of(to_html(made)), to_markdown(made)):
        assert peak in text
        assert cost in text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("  =1", "'  =1"),
        ("a=1", "a=1"),
        (-1.5, -1.5),
        (None, ""),
    ],
)
def test_text_is_never_a_formula(value, cell):
    assert harmless(value) == cell


def test_a_workbook_is_the_same_each_time_and_has_no_formula(report):
    pytest.importorskip("xlsxwriter", reason="XlsxWriter (extra excel) writes workbooks")
    from planner.report.workbook import to_workbook

    first = to_workbook(report(HOSTILE, "[1, 2]"))
    assert to_workbook(report(HOSTILE, "[1, 2]")) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = archive.namelist()
        parts = {name: archive.read(name).decode() for name in names if name.endswith(".xml")}
    assert sum(name.startswith("xl/worksheets/sheet") for name in names) == 3
    assert not any("<f>" in text for text in parts.values())
    (estimate, _) = json.loads(to_json(report(HOSTILE, "[1, 2]")))["estimates"]
    assert f"<v>{estimate['memory']['peak_bytes']}</v>" in parts["xl/worksheets/sheet1.xml"]
    assert "&lt;script&gt;" in parts["xl/sharedStrings.xml"]
