"""Tables of commands: nothing in them is cut short, whether a person or a program reads them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import termios

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Column, Table
from router_process import router_command

from router.cli import main
from router.cli.commands import print_table

LONG = "summaries-of-the-dialogues-of-a-customer-service-with-many-words"
CONFIG = """
providers: {host: {kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
routes: {summarizer: {targets: [{model: host/m}]}}
"""


def evalrouter(folder, *args):
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "evalrouter.yaml").write_text(CONFIG)
    (folder / f"{LONG}.jsonl").write_text('{"input": "a", "reference": "a"}\n')
    document = {
        "dataset": f"{LONG}.jsonl",
        "routes": ["baseline/echo", "baseline/lead-1"],
        "metrics": ["exact_match"],
        "name": f"run-of-{LONG}",
        "experiment": f"experiment-{LONG}",
        "tags": [f"tag-{LONG}"],
    }
    (folder / "run.json").write_text(json.dumps(document))
    evalrouter(folder, "eval", "run", "run.json")
    evalrouter(folder, "dataset", "add", f"{LONG}.jsonl", "--name", LONG[:60])
    limits = ["--route", f"host/{LONG}", "--rpm", "1000000", "--tpm", "1000000"]
    evalrouter(folder, "key", "create", f"key-of-{LONG[:50]}", *limits)
    return folder


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("eval", "list"), ["completed", f"run-of-{LONG}", f"{LONG}.jsonl"]),
        (("experiment", "list"), [f"experiment-{LONG}", "1 completed"]),
        (("experiment", "show", f"experiment-{LONG}"), ["baseline/lead-1"]),
        (("dataset", "list"), [LONG[:60], f"{LONG}.jsonl"]),
        (("key", "list"), [f"key-of-{LONG[:50]}", f"host/{LONG}", "active", "1000000 rpm"]),
        (("eval", "run", "run.json", "--dry-run"), ["baseline/lead-1"]),
    ],
    ids=" ".join,
)
def test_programs_find_whole_words_in_one_line(folder, command, words):
    """Where no terminal says otherwise, there are 80 columns."""
    shown = evalrouter(folder, *command)
    for word in words:
        assert any(word in line for line in shown.splitlines()), (word, shown)
    assert "…" not in shown


@pytest.mark.parametrize("width", [10, 40, 79, 200])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_cut_at_any_width(width, is_terminal):
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=is_terminal, color_system=None)
    table = Table(Column("id", no_wrap=True), Column("state", no_wrap=True), "notes")
    notes = " ".join(f"word{n}" for n in range(30))
    table.add_row("run_0123456789abcdef0123", "completed", notes)
    print_table(table, console=console)
    shown = written.getvalue()
    assert "run_0123456789abcdef0123" in shown
    assert "completed" in shown
    assert "…" not in shown
    if is_terminal:
        # An id that is wider than the terminal is a line of its own, to be copied whole.
        lines = [line for line in shown.splitlines() if line != "run_0123456789abcdef0123"]
        assert max(map(len, lines)) <= max(width, len("    state: completed"))
        assert all(f"word{n}" in shown for n in range(30))
    else:
        assert notes in shown


def test_a_row_that_fits_no_terminal_is_a_list_of_its_cells():
    written = io.StringIO()
    console = Console(file=written, width=60, force_terminal=True, color_system=None)
    table = Table("feedback", "name", Column("comment", justify="right"), "about")
    table.add_row("fb_19e862b86a05c2e0aec", "thumb [0m".replace("[", "\\["), "", "r" * 40)
    print_table(table, console=console)
    assert written.getvalue().splitlines() == [
        "fb_19e862b86a05c2e0aec",
        "    name: thumb [0m".ljust(60),
        "    about: " + "r" * 40 + " " * 9,
    ]


@pytest.mark.parametrize("width", range(52, 120, 7))
def test_no_word_is_broken_where_all_words_have_room(width):
    """rich takes the room from the widest columns, also below their longest word."""
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    table = Table("column", "holds", "range", Column("most often", no_wrap=True))
    table.add_row("reference", "text (1200)", "12 to 340 characters, mean 118.5", "yes (3)")
    table.add_row("a b c d e f g h i j k l m n o p q r s t u v w x y z", "", "", "no, or so (2)")
    print_table(table, console=console)
    shown = written.getvalue()
    for word in ("reference", "(1200)", "characters,", "no, or so (2)", "most often"):
        assert word in shown, shown
    assert max(map(len, shown.splitlines())) <= width
    assert "┃" in shown


def test_a_dry_run_breaks_no_word_on_a_narrow_terminal(folder):
    """In a terminal of its own, because the width of the commands' console is the terminal's."""
    control, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, 40))
    with open(control, "rb", buffering=0) as shown:  # noqa: PTH123 - a number is no path
        command = router_command("eval", "run", "run.json", "--dry-run")
        process = subprocess.Popen(
            command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(terminal)
        text = b""
        # A terminal whose last process has ended is an error.
        with contextlib.suppress(OSError):
            while read := shown.read(65536):
                text += read
        assert process.wait() == 0
    assert b"    tokens in / out: " in text
    assert b"baseline/lead-1\r\n" in text
