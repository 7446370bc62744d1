"""Names that commands share: a REASON, `show`, and a command for each list of the HTTP API."""

import json

import pytest
from click.testing import CliRunner

from router.cli import main

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
providers: {{up: {{kind: scripted, script: {{m: [{{answer: x}}]}}}}}}
routes: {{r: {{targets: [{{model: up/m}}]}}}}
watches: {{w: {{target: up/m, prompts: [x], compare: text}}}}
schedules:
  s: {{run: {{dataset: x.jsonl, routes: [r], metrics: [length]}}, cron: "0 2 * * *"}}
"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return lambda *args: CliRunner().invoke(main, [*args, "--config", str(path)])


COMMANDS = [
    ("schedule", "resume", "s"),
    ("schedule", "accept", "s"),
    ("alerts", "silence", "a"),
    ("rollout", "promote", "r"),
    ("shadow", "pause", "r"),
    ("drift", "pin", "w"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reason_is_an_argument_or_an_option(run, command):
    plain, option = run(*command, "why"), run(*command, "--reason", "why")
    # Some are refused, because there is nothing of the kind: in both forms alike.
    assert (plain.exit_code, plain.stderr) == (option.exit_code, option.stderr)
    assert "Usage:" not in plain.stderr
    for more, message in (((), "REASON is missing"), (("a", "--reason", "b"), "given twice")):
        refused = run(*command, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_a_reason_reaches_the_record(run):
    assert run("schedule", "pause", "s", "one").exit_code == 0
    assert run("schedule", "resume", "s", "--reason", "two").exit_code == 0
    report = json.loads(run("schedule", "show", "s", "--json").stdout)
    assert [each["reason"] for each in report["decisions"]] == ["two", "one"]


@pytest.mark.parametrize(
    ("group", "other", "name"),
    [("drift", "report", "w"), ("shadow", "report", "r"), ("rollout", "status", "r")],
)
def test_show_is_what_the_others_call_it(run, group, other, name):
    shown, same = run(group, "show", name), run(group, other, name)
    assert (shown.exit_code, shown.output) == (same.exit_code, same.output)


def test_lists_that_were_only_there_over_http(run):
    assert run("models", "versions").stdout == "No target has answered yet.\n"
    assert run("evidence", "list").stdout == "No bundle of evidence has been written.\n"
    for command in (("models", "versions"), ("evidence", "list")):
        assert json.loads(run(*command, "--json").stdout) == []
