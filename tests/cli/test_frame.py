"""The command line's frame: what every command gets from it."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

from planner import cli
from planner.errors import InputError, MissingPartError

HEAVY = ("numpy", "pandas", "yaml", "rich", "jinja2", "msgspec", "pynvml", "platformdirs")


@pytest.fixture
def fake_command(monkeypatch):
    """A command `fake` that does what a test wants."""

    def install(action):
        @click.command()
        @click.option("--size", type=int)
        def command(size):
            """Do something."""
            return action()

        module = types.ModuleType("planner_test_fake")
        module.command = command
        monkeypatch.setitem(sys.modules, "planner_test_fake", module)
        entry = cli.Entry("planner_test_fake", "Do something.")
        monkeypatch.setattr(cli, "COMMANDS", {"fake": entry})

    return install


def raising(error):
    def action():
        raise error

    return action


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from planner.cli import main; status = main(['--help']); "
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules], status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "LOADED [] 0"


def test_help_version_and_no_argument_answer(run_planner):
    helped = run_planner("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Exit status" in helped.stdout
    assert run_planner("-h").stdout == helped.stdout
    assert run_planner().stdout == helped.stdout
    version = run_planner("--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("planner 0.")


def test_the_console_script_is_the_same_program(run_planner):
    script = Path(sys.executable).with_name("planner")
    if not script.exists():
        pytest.skip("the package is on the path, but not installed")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, run_planner("--help").stdout)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_the_help_that_the_overview_shows(name):
    command = cli.program.get_command(click.Context(cli.program), name)
    assert command.get_short_help_str(limit=200) == cli.COMMANDS[name].help
    assert "Examples" in command.get_help(click.Context(command, info_name=name))


def every_command():
    """Each command and subcommand, by the words that run it."""
    for name in cli.COMMANDS:
        command = cli.program.get_command(click.Context(cli.program), name)
        yield name, command
        for below, one in getattr(command, "commands", {}).items():
            yield f"{name} {below}", one


@pytest.mark.parametrize("words", [words for words, _ in every_command()])
def test_each_command_has_examples_json_and_help_for_every_option(words):
    command = dict(every_command())[words]
    assert "Examples" in command.get_help(click.Context(command, info_name=words))
    options = [one for one in command.params if isinstance(one, click.Option)]
    for option in options:
        assert option.help, f"{words} {option.opts[0]} says nothing"
    if not isinstance(command, click.Group):
        assert any("--json" in option.opts for option in options)


def test_each_command_module_is_in_the_table():
    listed = {entry.module for entry in cli.COMMANDS.values()}
    folder = Path(cli.__file__).parent
    found = {
        f"planner.cli.{path.stem}"
        for path in folder.glob("*.py")
        if any(line.startswith("def command(") for line in path.read_text("utf-8").splitlines())
    }
    assert found <= listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fkae"], "planner: unknown command 'fkae': did you mean fake? (see planner --help)"),
        (["fake", "--sizes", "1"], "Did you mean '--size'? (see planner fake --help)"),
        (["fake", "--size", "x"], "Invalid value for '--size': 'x' is not a valid integer."),
        (["--debugg"], "Did you mean '--debug'?"),
        (["fake", "more"], "Got unexpected extra argument (more)"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(fake_command, capsys, arguments, message):
    fake_command(lambda: 0)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    # Click's releases differ in the quotes around an option.
    assert message.replace("'", "") in err.replace("'", "")
    assert err.startswith("planner: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("action", "status", "message"),
    [
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (raising(InputError("x.yaml:1: bad", "try y")), 2, "planner: x.yaml:1: bad (try y)\n"),
        (raising(MissingPartError("no driver")), 3, "planner: no driver\n"),
        (raising(KeyboardInterrupt()), 130, "planner: interrupted\n"),
        (raising(click.Abort()), 130, "planner: interrupted\n"),
    ],
)
def test_what_a_command_does_becomes_a_status(fake_command, capsys, action, status, message):
    fake_command(action)
    assert cli.main(["fake"]) == status
    assert capsys.readouterr() == ("", message)


def test_an_internal_error_is_one_line_and_its_traceback_is_for_debug(fake_command, capsys):
    fake_command(raising(KeyError("two\nlines")))
    assert cli.main(["fake"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("planner: internal error: KeyError:")
    assert "--debug" in err
    assert err.count("\n") == 1
    for arguments in (["--debug", "fake"], ["fake", "--debug"]):
        assert cli.main(arguments) == 70
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_debug_after_two_dashes_belongs_to_the_command(fake_command, capsys):
    fake_command(lambda: 0)
    assert cli.main(["fake", "--", "--debug"]) == 2
    assert "--debug" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "planner", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_shell_can_ask_for_completions(run_planner):
    done = run_planner(_PLANNER_COMPLETE="bash_source")
    assert done.returncode == 0
    assert "_planner_completion" in done.stdout
