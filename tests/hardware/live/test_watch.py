"""`planner watch`: a job's measured peak and power beside the prediction, and as a row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nvml_machines import GIB, MIB, Machine, h100, rtx_4090

import planner
from planner.validation.watched_run import COLUMNS

PROGRAM = Path(sys.executable).with_name("planner")
JOB = [sys.executable, str(Path(__file__).with_name("job.py"))]
QUESTION = ["--model", "llama-3.2-1b", "--sequence-length", "2048", "--optimizer", "sgd"]
SHOWN = h100(0).but(memory=f"{81559 * MIB} {600 * MIB} used-by-job", power_usage="512000")
LISTED = Machine((SHOWN.having("process compute 1 1"), rtx_4090(1)))
NOT_LISTED = Machine((SHOWN,))  # as in a container


@pytest.fixture
def watched(environment, tmp_path):
    """The environment of a machine on which job.py shows its memory."""

    def make(machine: Machine) -> dict[str, str]:
        made = environment(machine)
        described = Path(made["FAKE_NVML_MACHINE"])
        described.with_name("template").write_text(machine.text())
        described.write_text(
            machine.text().replace("used-by-job", "0").replace("process compute 1 1", "")
        )
        return made

    return make


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "watch", *QUESTION, "--interval", "0.1", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_peak_of_a_command_becomes_a_row(watched, tmp_path):
    file = tmp_path / "ours.csv"
    for _ in range(2):
        ran = run(watched(LISTED), "--runs", str(file), "--", *JOB, "1", "3", "2")
        assert ran.returncode == 0, ran.stderr
        assert "training" in ran.stderr  # stdout is ours
        assert "training" not in ran.stdout
        assert "measured 3.00 GiB" in ran.stdout
        assert "512 W" in ran.stdout
    first, second = rows(file)
    assert first["id"] != second["id"]
    assert list(first) == list(COLUMNS)
    expected = {
        "source": "planner watch",
        "gpu": "h100-sxm-80gb",
        "gpus": "1",
        "model": "llama-3.2-1b",
        "sequence_length": "2048",
        "optimizer": "sgd",
        "compile": "0",
        "peak_device_gib": "3.0",
        "outcome": "ran",
    }
    assert {name: first[name] for name in expected} == expected
    assert "predicted peak" in first["notes"]
    assert "mean power 512 W" in first["notes"]


def test_validate_reads_the_row(watched, tmp_path):
    file = tmp_path / "ours.csv"
    run(watched(LISTED), "--runs", str(file), "--", *JOB, "3")
    done = subprocess.run(
        [PROGRAM, "validate", "--runs", str(file), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (row,) = json.loads(done.stdout)["rows"]
    assert row["skipped"] is None
    assert row["measured"]["peak_bytes"] == 3 * GIB
    assert row["predicted"]["peak_bytes"] > 0


def test_where_no_process_is_listed_the_device_counts(watched):
    ran = run(watched(NOT_LISTED), "--json", "--", *JOB, "2.5")
    assert '"job_peak_bytes": null' in ran.stdout
    assert f'"peak_bytes": {int(2.5 * GIB)}' in ran.stdout


def test_a_command_that_fails_is_no_run(watched, tmp_path):
    file = tmp_path / "ours.csv"
    ran = run(watched(LISTED), "--runs", str(file), "--", *JOB, "1", "fail")
    assert ran.returncode == 0
    assert "status 7" in ran.stderr
    assert rows(file)[0]["outcome"] == ""


def test_a_running_process(watched, tmp_path):
    environment = watched(LISTED)
    with subprocess.Popen([*JOB, "4"], env=environment, stdout=subprocess.DEVNULL) as job:
        ran = run(environment, "--json", "--pid", str(job.pid))
        job.wait(timeout=30)
    assert ran.returncode == 0, ran.stderr
    assert f'"peak_bytes": {4 * GIB}' in ran.stdout


def test_ctrl_c_ends_the_watch_and_still_answers(watched, tmp_path):
    environment = watched(LISTED)
    log = Path(environment["FAKE_NVML_LOG"])
    file = tmp_path / "ours.csv"
    with (
        subprocess.Popen([*JOB, *["4"] * 1000], env=environment, stdout=subprocess.DEVNULL) as job,
        subprocess.Popen(
            [PROGRAM, "watch", *QUESTION, "--runs", str(file), "--pid", str(job.pid)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watcher,
    ):  # fmt: skip
        while not log.exists() or log.read_text().count("nvmlShutdown") < 4:
            time.sleep(0.02)
        watcher.send_signal(signal.SIGINT)
        out, _ = watcher.communicate(timeout=60)
        job.kill()
    assert watcher.returncode == 130
    assert "measured 4.00 GiB" in out
    assert len(rows(file)) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--pid"),
        (["--pid", "1", "--", "true"], "--pid"),
        (["--pid", "999999999"], "no such process"),
        (["--", "/no/such/program"], "cannot be started"),
        (["--runs", "ours.csv", "--sequence-length", "0", "--", *JOB, "1"], "sequence_length"),
    ],
)
def test_what_cannot_be_watched(watched, arguments, told):
    ran = run(watched(LISTED), *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert told in ran.stderr


def test_a_job_that_never_used_a_gpu(watched):
    ran = run(watched(LISTED), "--", "true")
    assert ran.returncode == 3
    assert "held no memory" in ran.stderr


def test_a_file_of_other_columns_is_refused(watched, tmp_path):
    file = tmp_path / "ours.csv"
    file.write_text("name,peak\n")
    ran = run(watched(LISTED), "--runs", str(file), "--", *JOB, "1")
    assert ran.returncode == 2
    assert "sequence_length" in ran.stderr
    assert file.read_text() == "name,peak\n"


def test_a_file_with_fewer_columns_keeps_them(watched, tmp_path):
    file = tmp_path / "ours.csv"
    file.write_text("model,gpu,sequence_length,peak_device_gib")  # and no line end
    run(watched(LISTED), "--runs", str(file), "--", *JOB, "1")
    assert file.read_text().splitlines()[1] == "llama-3.2-1b,h100-sxm-80gb,2048,1.0"


def test_the_columns_are_those_of_the_shipped_runs():
    shipped = Path(planner.__file__).with_name("validation") / "data" / "runs.csv.gz"
    header = next(csv.reader(io.StringIO(gzip.decompress(shipped.read_bytes()).decode())))
    assert tuple(header) == COLUMNS
