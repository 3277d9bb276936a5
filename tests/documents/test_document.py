from __future__ import annotations

import pytest

from planner import documents
from planner.errors import InputError

TEXT = "a:\n  b: [1, 2]\n  c: {d: x}\n"


def test_a_part_keeps_its_place():
    document = documents.parse(TEXT, "s.yaml", "yaml")
    part = document.part("a", "c")
    assert part.data == {"d": "x"}
    assert part.where(("d",)) == "s.yaml:3: a.c.d"
    assert part.where() == "s.yaml:3: a.c"
    assert document.where(("a", "b", 1)) == "s.yaml:2: a.b[1]"


def test_what_has_no_line_takes_the_line_around_it():
    document = documents.parse(TEXT, "s.yaml", "yaml")
    assert document.line(("a", "c", "missing", "deeper")) == 3
    assert str(document.error(("a", "z"), "is missing")) == "s.yaml:1: a.z: is missing"


def test_data_without_a_text_has_no_lines():
    document = documents.Document({"a": 1}, "--model")
    assert str(document.error(("a",), "got 1")) == "--model: a: got 1"
    assert str(documents.Document({}, "").error((), "got {}")) == "got {}"


def test_the_suffix_tells_the_kind(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1e3}', encoding="utf-8")
    (tmp_path / "a.yml").write_text("a: on", encoding="utf-8")
    (tmp_path / "a.cfg").write_text("{a: 1}", encoding="utf-8")
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 2}')
    assert documents.load(tmp_path / "a.json").data == {"a": 1000.0}
    assert documents.load(tmp_path / "a.yml").data == {"a": "on"}
    assert documents.load(str(tmp_path / "a.cfg")).data == {"a": 1}
    assert documents.load(tmp_path / "bom.json").data == {"a": 2}
    with pytest.raises(InputError, match="is not valid JSON"):
        documents.load(tmp_path / "a.yml", "json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"{}\0", "is binary"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is binary"),
        (b"a: 1\nb: \xff\n", "x.yaml:2: is not UTF-8 text"),
        (b"a" * (4 * 2**20 + 1), "larger than 4 MiB"),
    ],
)
def test_files_that_are_no_documents(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        documents.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"no such file \(did you mean .*config\.json\?\)"):
        documents.load(tmp_path / "confg.json")
    with pytest.raises(InputError, match="there is no folder"):
        documents.load(tmp_path / "nowhere" / "config.json")
    with pytest.raises(InputError, match="is a folder, expected a file"):
        documents.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        documents.load("a\0b")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        documents.load("x" * 5000)


def test_an_endless_file_ends(tmp_path):
    # /dev/zero and the like: the read is bounded, whatever the file says about its size.
    with pytest.raises(InputError, match="larger than"):
        documents.load("/dev/zero")
