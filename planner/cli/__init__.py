"""The command line: one lazy group, one thin module per command, one place for exit statuses.

    0    answered (fit, plan, check: and it fits or is tight)
    1    answered: it does not fit, or nothing meets the limits
    2    bad input or usage
    3    a needed part is missing: NVML, the network, an extra
    70   an internal error
    130  interrupted
    141  whoever read our output stopped reading

A command's module is imported only when that command runs, so `planner --help` loads click and
nothing heavier. Commands return their status (None is 0); everything else is raised.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from planner.errors import PlannerError, unknown

STATUS_USAGE = 2
STATUS_INTERNAL = 70
STATUS_INTERRUPTED = 130
STATUS_CLOSED_PIPE = 141


class Entry(NamedTuple):
    """A command as the overview shows it; its module holds a click command named `command`."""

    module: str
    help: str


# In the order of the overview. The help is written here a second time, so that the overview need
# not import the command; a test keeps the two the same.
COMMANDS: dict[str, Entry] = {
    "fit": Entry(
        "planner.cli.fit",
        "Say whether training fits, where the memory goes, and what would make it fit.",
    ),
    "estimate": Entry(
        "planner.cli.estimate",
        "Give the memory, time and cost of the layouts that scenario files describe.",
    ),
    "report": Entry("planner.cli.report", "Write a budget report of scenario files."),
    "scenario": Entry("planner.cli.scenario", "Write a commented scenario file, or check one."),
    "params": Entry("planner.cli.params", "Count the parameters of a model exactly."),
    "sensitivity": Entry(
        "planner.cli.sensitivity",
        "Show what depth, width, heads and vocabulary do to size, memory and work.",
    ),
    "compare": Entry("planner.cli.compare", "Show models, GPUs or scenarios side by side."),
    "models": Entry("planner.cli.models", "Show the catalog of well-known models."),
    "validate": Entry(
        "planner.cli.validate",
        "Compare predictions with measured runs, and say how wrong they are.",
    ),
    "trace": Entry(
        "planner.cli.trace",
        "Run one step of the actual model on fake tensors, and compare it with the prediction.",
    ),
    "hardware": Entry("planner.cli.hardware", "Show the GPUs and nodes that can be planned for."),
    "watch": Entry(
        "planner.cli.watch",
        "Compare the memory and power of a training job with its prediction.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(entry.module).command
        assert isinstance(command, click.Command), entry.module
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(unknown("command", args[0], COMMANDS).message, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in COMMANDS.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to import, and only needed here

        click.echo(f"planner {version('llm-training-planner')}")
        ctx.exit(0)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 answered, 1 does not fit or nothing meets the limits, 2 bad input, "
    "3 a needed part is missing, 70 internal error.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and stop.",
)
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    help="Show the traceback of an error; may stand anywhere.",
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """Plan the training of a language model.

    Does it fit on these GPUs, how many are needed, how long does it take, what does it cost?
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_PLANNER_COMPLETE" in os.environ:  # the shell asks for completions; click answers and exits
        program.main(args=given, prog_name="planner", complete_var="_PLANNER_COMPLETE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows "?" in its place; that is no reason to fail.
            stream.reconfigure(errors="replace")
    given, debug = _take_debug(given)
    try:
        return _run(given)
    except Exception as error:  # noqa: BLE001 - the last stop: every error becomes a line and a status
        if isinstance(error, BrokenPipeError):
            _forget_stdout()
            return STATUS_CLOSED_PIPE
        if debug:
            import traceback  # slow to import, and only needed here

            traceback.print_exc()
        message, status = _told(error)
        click.echo(f"planner: {message}", err=True)
        return status
    except KeyboardInterrupt:
        click.echo("planner: interrupted", err=True)
        return STATUS_INTERRUPTED


def _run(arguments: list[str]) -> int:
    # Not `program.main`: that turns a closed pipe and an interrupt into status 1, which here is
    # the answer "does not fit".
    try:
        with program.make_context("planner", arguments) as ctx:
            status = program.invoke(ctx)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, which may stand anywhere before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [one for one in arguments[:end] if one != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _told(error: Exception) -> tuple[str, int]:
    """An error as one line, and its exit status."""
    if isinstance(error, PlannerError):
        return str(error), error.exit_status
    if isinstance(error, click.ClickException):
        message = " ".join(error.format_message().split())
        ctx = error.ctx if isinstance(error, click.UsageError) else None
        return f"{message} (see {ctx.command_path} --help)" if ctx else message, STATUS_USAGE
    if isinstance(error, click.Abort):
        return "interrupted", STATUS_INTERRUPTED
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    advice = "please report it to the project's issue tracker, with what --debug adds"
    return f"internal error: {reason} ({advice})", STATUS_INTERNAL


def _forget_stdout() -> None:
    """Send what is left in the buffer nowhere, or Python complains about it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
