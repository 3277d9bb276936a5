"""`planner watch`: a running job against its prediction."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import GroupedCommand, json_option
from planner.cli.output import print_json, warn
from planner.cli.question import hardware_options, layout_options, recipe_options, request_of
from planner.errors import InputError, MissingPartError

if TYPE_CHECKING:
    from planner.answers.fit import FitAnswer
    from planner.hardware.live_sample import Watch

BYTES_PER_GIB = 2**30


@click.command(cls=GroupedCommand)
@click.option("--pid", type=click.IntRange(min=1), help="Watch this process and what it started.")
@click.option("--model", required=True, help="config.json, its folder, or a catalog id.")
@click.option("--gpu", default="live", show_default=True, help="Profile id, alias, YAML, or live.")
@hardware_options
@recipe_options
@layout_options
@click.option(
    "--runs",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the pair to this CSV file of measured runs.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two samples.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Watch no longer than this (a --pid; a COMMAND always runs to its end).",
)
@json_option
@click.argument("job", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def command(
    pid: int | None,
    model: str,
    gpu: str,
    runs: Path | None,
    interval: float,
    seconds: float | None,
    as_json: bool,
    job: tuple[str, ...],
    **flags: Any,
) -> None:
    """Compare the memory and power of a training job with its prediction.

    Samples what the job holds on each GPU and what the GPUs draw, until it ends; then shows it
    beside the prediction for the same flags as `planner fit` takes. With --runs the pair becomes a
    row of measured runs, which `planner validate --runs FILE` reads. The output of COMMAND goes to
    stderr.

    \b
    Examples:
      planner watch --model llama-3.1-8b --seq-len 8192 --sharding zero3 --pid 4242 --runs a.csv
      planner watch --model llama-3.2-1b --seq-len 4096 -- torchrun --nproc-per-node 8 train.py
    """
    if (pid is None) == (not job):
        raise click.UsageError("expected either --pid N or -- COMMAND")
    if runs is not None and flags["sequence_length"] is None:
        raise click.UsageError("--runs: a row needs the job's --sequence-length")
    started = datetime.now(timezone.utc)
    watch, status, interrupted = _watch(pid, job, interval, seconds)
    used = watch.used_gpus()
    if not used:
        raise MissingPartError(
            f"the job (pid {watch.pid}) held no memory on a visible GPU in {watch.samples} samples"
        )
    answer = _predict(model, gpu, {**flags, "gpus": flags["gpus"] or len(used)}, watch)
    row = _row(watch, answer, model, started, status, runs)
    if runs is not None:
        from planner.validation.watched_run import append_row

        append_row(runs, row)
    document = _document(watch, answer, row, status, runs)
    if as_json:
        print_json(document)
    else:
        _print(document)
    if status:
        warn(f"COMMAND ended with status {status}: its peak may not be that of training")
    if interrupted:
        raise KeyboardInterrupt


def _watch(
    pid: int | None, job: tuple[str, ...], interval: float, seconds: float | None
) -> tuple[Watch, int | None, bool]:
    """Sample until the job ends; its exit status if it is ours, and whether Ctrl-C ended it."""
    from planner.hardware.live_sample import Watch, is_running

    watch = Watch()
    started: subprocess.Popen[bytes] | None = None
    if pid is None:
        watch.sample()  # what others hold before it begins
        try:
            started = subprocess.Popen(job, stdout=sys.stderr)
        except OSError as error:
            raise InputError(f"{job[0]}: cannot be started ({error.strerror})") from None
        pid = started.pid
    elif not is_running(pid):
        raise InputError(f"--pid {pid}: there is no such process")
    watch.pid = pid
    end = None if seconds is None or started is not None else time.monotonic() + seconds
    interrupted = False
    try:
        while True:
            watch.sample()
            ended = started.poll() is not None if started else not is_running(pid)
            if ended or (end is not None and time.monotonic() >= end):
                break
            time.sleep(interval)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        status = started.wait() if started else None
    return watch, status, interrupted


def _predict(model: str, gpu: str, flags: dict[str, Any], watch: Watch) -> FitAnswer:
    """The answer of `planner fit` for the GPUs that the job used."""
    from planner.answers.fit import Target, fit
    from planner.answers.targets import LIVE
    from planner.hardware.library import find_gpu
    from planner.hardware.live import read
    from planner.model.sources import load_model

    per_node = flags["gpus_per_node"]
    if gpu == LIVE:
        plan = read().plan([one.index for one in watch.used_gpus()])
        target = Target(plan.profile, gpus_per_node=per_node or plan.gpus)
    else:
        target = Target(find_gpu(gpu), gpus_per_node=per_node)
    return fit(load_model(model, {}), request_of(flags), target)


def _row(
    watch: Watch,
    answer: FitAnswer,
    model: str,
    started: datetime,
    status: int | None,
    runs: Path | None,
) -> dict[str, object]:
    from planner.report.as_json import fit_json
    from planner.validation.watched_run import model_reference, row_of

    predicted = answer.estimate.memory.peak_bytes / BYTES_PER_GIB
    power = watch.mean_watts()
    how = (
        "memory of the job's processes"
        if watch.listed
        else "memory of the whole device above that before (no process of the job was listed)"
    )
    assumed = "; ".join(answer.estimate.assumptions)
    measured = {
        "id": f"watch-{started:%Y%m%dT%H%M%S}-{watch.pid}",
        "peak_device_gib": round((watch.peak_bytes() or 0) / BYTES_PER_GIB, 4),
        "outcome": "ran" if not status else None,
        "software": "planner watch",
        "notes": f"{how}; predicted peak {predicted:.2f} GiB"
        + (f"; mean power {power:.0f} W a GPU" if power else "")
        + (f"; COMMAND ended with status {status}" if status else "")
        + (f"; assumed: {assumed}" if assumed else ""),
    }
    reference = model if runs is None else model_reference(model, runs)
    return row_of(fit_json(answer), measured, reference)


def _document(
    watch: Watch,
    answer: FitAnswer,
    row: dict[str, object],
    status: int | None,
    runs: Path | None,
) -> dict[str, Any]:
    memory = answer.estimate.memory
    peak = watch.peak_bytes() or 0
    return {
        "schema_version": 1,
        "pid": watch.pid,
        "samples": watch.samples,
        "status": status,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "job_peak_bytes": gpu.job_peak_bytes if watch.listed else None,
                "device_peak_bytes": gpu.device_peak_bytes,
                "mean_power_watts": sum(gpu.watts) / len(gpu.watts) if gpu.watts else None,
                "most_power_watts": max(gpu.watts, default=None),
            }
            for gpu in watch.used_gpus()
        ],
        "predicted": {
            "peak_bytes": round(memory.peak_bytes),
            "uncertainty_bytes": round(memory.uncertainty_bytes),
            "power_limit_watts": answer.estimate.cluster.gpu.power_limit_watts,
        },
        "measured": {
            "peak_bytes": peak,
            "mean_power_watts": watch.mean_watts(),
            "most_power_watts": watch.most_watts(),
        },
        "error": {"peak_bytes": memory.peak_bytes / peak - 1 if peak else None},
        "runs": None if runs is None else str(runs),
        "row": {name: value for name, value in row.items() if value is not None},
    }


def _print(document: dict[str, Any]) -> None:
    predicted, measured = document["predicted"], document["measured"]
    error = document["error"]["peak_bytes"]
    off = "" if error is None else f" ({error:+.1%})"
    click.echo(
        f"peak of one GPU: predicted {predicted['peak_bytes'] / BYTES_PER_GIB:.2f} GiB "
        f"(± {predicted['uncertainty_bytes'] / BYTES_PER_GIB:.2f}), measured "
        f"{measured['peak_bytes'] / BYTES_PER_GIB:.2f} GiB{off}, {document['samples']} samples"
    )
    mean, most = measured["mean_power_watts"], measured["most_power_watts"]
    if mean is not None:
        limit = predicted["power_limit_watts"]
        of = f" of {limit:g} W allowed" if limit else ""
        click.echo(f"power of one GPU: mean {mean:.0f} W, at most {most:.0f} W{of}")
    for gpu in document["gpus"]:
        held = gpu["job_peak_bytes"] or gpu["device_peak_bytes"]
        click.echo(f"  GPU {gpu['index']} {gpu['name']}: {held / BYTES_PER_GIB:.2f} GiB")
    if document["runs"]:
        click.echo(f"appended to {document['runs']} as {document['row']['id']}")
