"""Reading measured runs: every shipped row, and every refusal."""

from __future__ import annotations

import gzip

import pytest

from planner.errors import InputError
from planner.validation.runs import read_runs, shipped_runs

HEADER = "id,gpu,model,sequence_length,gpus,micro_batch_size,compile,peak_reserved_gib,grade\n"
ROW = "own-1,h100-sxm-80gb,llama-3.1-8b,8192,8,1,0,70.5,a\n"


def write(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_every_shipped_row_is_read():
    file = shipped_runs()
    assert len(file.runs) == 1893
    assert file.unread == ()
    assert file.unknown_columns == ()
    assert sum(run.outcome == "oom" for run in file.runs) == 4
    assert all(run.model_path.is_file() for run in file.runs)


def test_cells_are_typed_and_empty_ones_unknown(tmp_path):
    (run,) = read_runs(write(tmp_path, HEADER + "own-1,h100,llama,8192.0,8,,1,70.5,\n")).runs
    assert run.sequence_length == 8192
    assert isinstance(run.sequence_length, int)
    assert run.micro_batch_size is None
    assert run.grade is None
    assert run.compile is True
    assert run.peak_reserved_gib == 70.5


def test_gzip_and_plain_are_the_same(tmp_path):
    plain = read_runs(write(tmp_path, HEADER + ROW))
    packed = tmp_path / "runs.csv.gz"
    packed.write_bytes(gzip.compress((HEADER + ROW).encode()))
    assert read_runs(packed) == plain


def test_columns_may_be_missing_and_unknown_ones_are_told(tmp_path):
    file = read_runs(write(tmp_path, "model,gpu,sequence_length,colour\nm,g,1024,red\n"))
    assert file.unknown_columns == ("colour",)
    assert file.runs[0].id == "line-2"


@pytest.mark.parametrize("missing", ["gpu", "model", "sequence_length"])
def test_a_required_column_that_is_missing_is_refused(tmp_path, missing):
    text = (HEADER + ROW).replace(missing, missing.upper(), 1)
    with pytest.raises(InputError, match=f"column '{missing}' is missing"):
        read_runs(write(tmp_path, text))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("own-2,h100,m,8192,eight,1,0,70,a", "gpus 'eight': expected a number"),
        ("own-2,h100,m,8192,2.5,1,0,70,a", "gpus '2.5': expected a whole number"),
        ("own-2,h100,m,8192,8,1,2,70,a", "compile '2': expected 0 or 1"),
        ("own-2,h100,m,8192,8,1,0,nan,a", "peak_reserved_gib 'nan': expected a number"),
        ("own-2,h100,m,8192,8,1,0,0,a", "peak_reserved_gib '0': expected more than 0"),
        ("own-2,h100,m,8192,-8,1,0,70,a", "gpus '-8': expected a number"),
        ("own-2,h100,m,8192,8,1,0,70,z", "grade 'z': expected a or b or c"),
        ("own-2,,m,8192,8,1,0,70,a", "gpu is empty"),
        ("own-2,h100,m,8192,8,1,0,70,a,more", "10 cells under 9 columns"),
    ],
)
def test_a_row_that_cannot_be_read_has_a_reason(tmp_path, cells, reason):
    file = read_runs(write(tmp_path, HEADER + ROW + cells + "\n"))
    assert len(file.runs) == 1
    ((line, name, why),) = file.unread
    assert (line, name) == (3, "own-2")
    assert why.startswith(reason)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEADER, "no usable row"),
        (HEADER + "own-1,h100,m,8192,8,1,yes,70,a\n", "no usable row: line 2: compile 'yes'"),
        ("gpu,gpu,model,sequence_length\n", "column 'gpu' stands twice"),
        ('gpu,model,sequence_length\n"open,m,1\n', "not a CSV file"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_runs(write(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    for content in (b"\xff\xfe\x00\x01", gzip.compress(b"gpu")[:-4]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a text file|cannot be read"):
            read_runs(path)
    with pytest.raises(InputError, match="no such file"):
        read_runs(tmp_path / "none.csv")
