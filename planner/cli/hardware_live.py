"""`planner hardware live`: the GPUs in this machine, as they are now."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.options import json_option
from planner.cli.output import print_json, warn, write_file

if TYPE_CHECKING:
    from planner.hardware.live import LiveMachine
    from planner.hardware.live_types import LiveGpu

BYTES_PER_GIB = 2**30
# Without a terminal a table is as wide as it needs to be.
WIDTH_OF_A_PIPE = 200


@click.command("live", short_help="The GPUs in this machine, as they are now.")
@json_option
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write these GPUs as a YAML profile, which --gpu FILE takes on any machine.",
)
@click.option("--watch", is_flag=True, help="Ask again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two askings of --watch.",
)
def live(as_json: bool, save: Path | None, watch: bool, interval: float) -> None:
    """The GPUs in this machine, as they are now.

    Asks the NVIDIA driver (NVML) for what CUDA_VISIBLE_DEVICES leaves visible: memory, power and
    clocks, PCIe and NVLink, MIG, who holds memory. Nothing is started on a GPU and nothing on it
    is changed. Exit status 3 if there is no driver, or no GPU that can be used.

    \b
    Examples:
      planner hardware live
      planner hardware live --json
      planner hardware live --save ours.yaml
      CUDA_VISIBLE_DEVICES=0,1 planner hardware live --watch
    """
    while True:
        if watch and not as_json:
            click.clear()  # does nothing where stdout is no terminal
        _show_once(as_json, save)
        if not watch:
            return
        time.sleep(interval)


def _show_once(as_json: bool, save: Path | None) -> None:
    from planner.hardware.live import read

    machine = read()
    if as_json:
        from planner.hardware.live_json import as_json as to_plain

        print_json(to_plain(machine))
    else:
        _print_table(machine)
        for warning in machine.warnings if machine.usable else ():
            warn(warning)
    sys.stdout.flush()
    machine.require_usable()
    if save is not None:
        _save(machine, save)


def _save(machine: LiveMachine, path: Path) -> None:
    from datetime import date

    from planner.hardware.live_file import to_yaml

    text = to_yaml(machine.plan().profile, machine.driver_version, date.today())
    write_file(path, text.encode(), force=True)
    click.echo(f"planner: saved as {path}; use it with --gpu {path}", err=True)


def _print_table(machine: LiveMachine) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("GPU", "right"),
        ("name", "left"),
        ("profile", "left"),
        ("free / total GiB", "right"),
        ("W", "right"),
        ("PCIe", "left"),
        ("NVLink GB/s", "right"),
        ("state", "left"),
    ):
        table.add_column(title, justify="right" if side == "right" else "left", overflow="fold")
    for gpu in machine.gpus:
        table.add_row(*_cells(gpu))
    console = Console(highlight=False, markup=False)  # a "[" in a name is no markup
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH_OF_A_PIPE)
    console.print(table)
    console.print(_summary(machine))


def _cells(gpu: LiveGpu) -> tuple[str, ...]:
    profile = gpu.profile or "-"
    power, most = gpu.power_limit_watts, gpu.power_default_watts
    capped = f" of {most:g}" if power and most and power < most else ""
    pcie = f"{gpu.pcie_max_generation or '?'} x{gpu.pcie_width}" if gpu.pcie_width else "-"
    nvlink = gpu.nvlink
    return (
        str(gpu.index),
        gpu.name or "-",
        f"{profile} (derived)" if gpu.profile_source == "derived" else profile,
        f"{_gib(gpu.memory_free_bytes)} / {_gib(gpu.memory_total_bytes)}",
        f"{power:g}{capped}" if power else "-",
        pcie,
        f"{nvlink.bytes_per_second_per_direction / 1e9:g}" if nvlink else "-",
        gpu.state,
    )


def _gib(amount: int | None) -> str:
    return "-" if amount is None else f"{amount / BYTES_PER_GIB:.1f}"


def _summary(machine: LiveMachine) -> str:
    """One line: how many can be used, what joins them, and which driver it is."""
    joined = machine.interconnect
    parts = [f"{len(machine.usable)} of {len(machine.gpus)} usable"]
    if joined is not None:
        rate = joined.bytes_per_second_per_direction
        at = f" at {rate / 1e9:g} GB/s a direction" if rate else ""
        parts.append(f"joined by {joined.kind}{at}")
    parts.append(f"driver {machine.driver_version or 'unknown'}")
    if machine.cuda_version:
        parts.append(f"CUDA up to {machine.cuda_version}")
    return ", ".join(parts)
