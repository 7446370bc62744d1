"""What commands import: each takes the time of what it needs, not of the whole."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from router.cli import COMMANDS, main
from router.cli.commands import CommandsOnDemand
from router.cli.datasets import dataset
from router.cli.evals import evaluate

# Nearly all of the second that everything takes.
SLOW = ("aiohttp", "evaluators.reports", "litestar", "numpy", "pyarrow", "ray", "router.services")


def imported(folder, *arguments: str) -> set[str]:
    """The slow packages that a command of its own process has imported."""
    program = (
        "import sys, json\n"
        "from router.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        f"print(json.dumps([name for name in {SLOW} if name in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", ["--version", "--help", "config check", "completion bash"])
def test_a_command_imports_what_it_needs(tmp_path, arguments):
    assert imported(tmp_path, *arguments.split()) == set()


def test_a_list_of_keys_needs_the_store_alone(tmp_path):
    # sqlite-utils imports NumPy where it is installed.
    assert imported(tmp_path, "key", "list") <= {"numpy"}


def test_slow_packages_are_noticed(tmp_path):
    assert {"evaluators.reports", "numpy", "router.services"} <= imported(tmp_path, "eval", "list")


def test_completing_imports_little(tmp_path):
    program = (
        "import sys, json\n"
        "from click.shell_completion import BashComplete\n"
        "from router.cli import main\n"
        "shell = BashComplete(main, {}, 'evalrouter', '_EVALROUTER_COMPLETE')\n"
        "names = [item.value for item in shell.get_completions([], '')]\n"
        f"print(json.dumps([names, [name for name in {SLOW} if name in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == [sorted(COMMANDS), []]


@pytest.mark.parametrize("group", [main, evaluate, dataset], ids=lambda group: group.name)
def test_lists_say_what_the_commands_say(group):
    assert isinstance(group, CommandsOnDemand)
    context = click.Context(group)
    for name, listed in group.commands.items():
        _, command, _ = group.resolve_command(context, [name])
        assert command.name == name
        assert command.get_short_help_str(1000) == listed.get_short_help_str(1000)
        assert not command.hidden
