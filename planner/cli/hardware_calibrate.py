"""`planner hardware calibrate`: measure the GPU at hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from planner.cli.completion import complete_profile
from planner.cli.options import json_option
from planner.cli.output import print_json
from planner.errors import MissingPartError

_HEADING = (
    "# Measured by `planner hardware calibrate` on this machine; preferred to what is shipped.\n"
    "# The formulas stand in planner/performance/; errors are on shapes that were held out.\n"
)


@click.command()
@click.option(
    "--gpu",
    metavar="NAME",
    shell_complete=complete_profile,
    help="Profile of the GPU at hand; without it, the one that the driver's name matches.",
)
@click.option("--quick", is_flag=True, help="A few shapes: to see that it works, not to plan with.")
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where to write; without it, where the planner looks: kernels/ of its config folder.",
)
@json_option
def calibrate(gpu: str | None, quick: bool, output: Path | None, as_json: bool) -> None:
    """Measure products, those of experts, attention, memory and NCCL on this machine's GPUs.

    Needs PyTorch with CUDA (extra torch) and a GPU that does nothing else; takes some minutes. The
    constants of the time model are fitted on the measurements as the shipped ones were on theirs,
    and written as <gpu>.yaml and <gpu>.surfaces.json; delete the files to forget them.

    \b
    Examples:
      planner hardware calibrate
      planner hardware calibrate --gpu h100-sxm-80gb -o ./kernels
      planner hardware calibrate --quick --json
    """
    _check_torch()
    from planner.answers.calibration import measure_here, profile_here
    from planner.resources import own_kernels_folder
    from planner.validation.calibrated import calibrated, write_files

    profile = profile_here(gpu)
    click.echo(f"measuring {profile.id}: some minutes, with nothing else on the GPU", err=True)
    tables = measure_here(profile, quick=quick, progress=lambda line: click.echo(line, err=True))
    constants = calibrated(profile, tables)
    folder = own_kernels_folder() if output is None else output
    path = write_files(folder, profile.id, constants, _HEADING)
    rows = list(_rows(constants))
    if as_json:
        print_json({"schema_version": 1, "gpu": profile.id, "path": str(path), "constants": rows})
        return
    for row in rows:
        error = row["median_error"]
        told = "" if error is None else f", {100 * error:.1f} % off on held-out shapes"
        click.echo(f"{row['kind']} {row['key']}: {row['shapes']} shapes{told}")
    click.echo(f"written: {path}")


def _check_torch() -> None:
    if find_spec("torch") is None:
        raise MissingPartError(
            "hardware calibrate measures with PyTorch, which is not installed",
            "pip install 'llm-training-planner[torch]'",
        )
    import torch

    if not torch.cuda.is_available():
        raise MissingPartError(
            "hardware calibrate needs a GPU that PyTorch can use, and it sees none",
            "run it on the machine with the GPU, with PyTorch's CUDA build",
        )


def _rows(constants: Any) -> Any:
    for kind in ("matmul", "attention", "movement", "collectives"):
        for key, one in getattr(constants, kind).items():
            yield {
                "kind": kind,
                "key": key,
                "shapes": one.quality.shapes,
                "median_error": one.quality.median_error,
                "p90_error": one.quality.p90_error,
                "sustained_ratio": getattr(one, "sustained_ratio", None),
            }
