"""`docs/reference/coming-from.md`: what it names exists, and what does not yet has its part."""

import re
from pathlib import Path

import click
import pytest

from evaluators.judge.kinds import BUILT_IN
from evaluators.metrics.registry import METRICS
from evaluators.tasks.registry import TASKS
from providers.kinds import KINDS
from router.api.access import ACCESS
from router.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reference" / "coming-from.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
]
# What the other systems have is theirs to name.
HERE = [cell for row in ROWS for cell in row[1:]] + [
    line for line in TEXT.splitlines() if not line.startswith("|")
]
CODE = re.findall(r"`([^`]+)`", "\n".join(HERE))


def commands(group, path):
    context = click.Context(group)
    for name in group.commands:
        _, command, _ = group.resolve_command(context, [name])
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands(main, "evalrouter"))


@pytest.mark.parametrize("code", sorted({one for one in CODE if one.startswith("evalrouter ")}))
def test_every_command_exists_with_its_options(code):
    words = code.split()
    [path] = [
        " ".join(words[:n]) for n in range(len(words), 1, -1) if " ".join(words[:n]) in COMMANDS
    ][:1]
    known = {
        name for option in COMMANDS[path].params for name in (*option.opts, *option.secondary_opts)
    }
    given = {word for word in words[len(path.split()) :] if word.startswith("--")}
    assert given <= known


def test_the_page_names_commands():
    assert len([code for code in CODE if code.startswith("evalrouter ")]) > 25


@pytest.mark.parametrize(
    "code", sorted({one for one in CODE if re.match(r"(GET|POST|PUT|DELETE|PATCH) /", one)})
)
def test_every_operation_exists(code):
    assert code in ACCESS


@pytest.mark.parametrize("code", sorted({one for one in CODE if one.startswith("make ")}))
def test_every_target_exists(code):
    target = code.removeprefix("make ")
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text())


@pytest.mark.parametrize("code", sorted({one for one in CODE if "deploy/" in one}))
def test_every_folder_exists(code):
    assert (ROOT / code).is_dir()


def test_metrics_kinds_and_tasks_exist():
    names = set(re.findall(r"\{name: (\w+)", TEXT)) | set(re.findall(r"metric `(\w+)`", TEXT))
    assert names - {"code"} <= set(METRICS)
    assert {"rouge", "rag", "prometheus", "judge"} <= names | set(CODE)
    assert {code for code in CODE if code.startswith("g_eval_")} <= set(BUILT_IN)
    assert set(re.findall(r"kind: (\w+)", TEXT)) <= {*BUILT_IN, *KINDS}
    assert set(re.findall(r"--task (\w+)", TEXT)) <= set(TASKS)
    for line in re.findall(r"provider kinds? ((?:`\w+`(?:, | and )?)+)", TEXT):
        assert set(re.findall(r"`(\w+)`", line)) <= set(KINDS)


def test_what_is_not_built_has_a_part_that_the_page_explains():
    explained = {row[0] for row in ROWS if re.fullmatch("[A-Z]", row[0])}
    assert explained == set("OPQRST")
    named = set(re.findall(r"[Pp]art ([A-Z])", "\n".join(cell for row in ROWS for cell in row)))
    assert named <= explained
    assert "there are no fine-tuning jobs" in TEXT
    # Every row has an answer.
    assert all(len(row) == 2 and row[1] for row in ROWS)
