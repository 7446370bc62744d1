"""The documentation: its commands run, its examples are valid, its references are complete."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from router_process import ForkedProcess, router_command
from servers import reserved_port

from evaluators.document import RunDocument
from evaluators.metrics import registry
from evaluators.tasks.registry import fill
from providers.errors import MissingExtraError
from providers.kinds import KINDS
from router.api.request_bodies import BODIES
from router.cli import main
from router.config.loading import parse
from router.config.schema import Config
from router.config.section import Section
from router.loop.policies import RoutingPolicy
from tooling import commands as command_line
from tooling import http_api
from tooling.markdown import REFERENCE, ROOT
from tooling.metrics import example
from tooling.pages import PART, PARTS

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Pages whose commands and Python are run, each in a folder of its own.
RUN = [
    PAGES[0],
    *(
        ROOT / "docs" / one
        for one in (
            "quickstart.md",
            "how-to/tasks.md",
            "how-to/datasets.md",
            "how-to/evaluate.md",
            "how-to/experiments.md",
            "how-to/judges.md",
            "how-to/python.md",
            "how-to/ray.md",
        )
    ),
]

# What a page shows and a test cannot do: the beginning of the command, and why.
CANNOT_RUN = {
    "git clone": "needs a network and the repository's address",
    "make ": "installs into a virtual environment of its own; .ci/run does it",
    "pip install": "needs a network; what runs here is what is installed here",
    "evalrouter demo loop": "takes a minute; `make test-loop` runs it",
    "evalrouter init": "the page's own config is there before its first command",
    "export ": "each command has a shell of its own, and the keys are dummies anyway",
}


class Block(NamedTuple):
    """A fenced block, its language, and the line before it."""

    language: str
    text: str
    before: str


def blocks(text: str) -> list[Block]:
    pattern = r"(?P<before>[^\n]*)\n\n?```(?P<language>\w+)\n(?P<text>.*?)^```$"
    return [
        Block(match["language"], match["text"], match["before"])
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Commands


def commands(block: Block) -> list[str]:
    """The lines after `$ `, with the lines they are continued on."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def test_commands_are_read_from_a_page():
    [block] = blocks("Do:\n\n```console\n$ one \\\n    two\nits output\n$ three\n```\n")
    assert commands(block) == ["one two", "three"]
    assert block.before == "Do:"


class Session:
    """One page's commands, in a folder of their own."""

    def __init__(self, folder: Path, port: int, environ: dict[str, str]) -> None:
        self.folder = folder
        self.port = port
        self.environ = environ
        self.run_id = "no run was made before this command"
        self.study_id = "no study of judges was made before this command"
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> None:
        if command.startswith(tuple(CANNOT_RUN)):
            return
        if command.startswith("evalrouter serve"):
            self.serve(command)
            return
        command = re.sub(r"\bRUN\b", self.run_id, command)
        command = re.sub(r"\bSTUDY\b", self.study_id, command)
        self.ends_well(["sh", "-c", command], command)

    def ends_well(self, arguments: list[str], shown: str) -> None:
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,  # the failure is told below, with the command as the page has it
        )
        told = done.stdout + done.stderr
        assert done.returncode == 0, f"$ {shown}\n{told}"
        if found := re.search(r"\brun_[0-9a-f]{19}\b", told):
            self.run_id = found[0]
        if found := re.search(r"\b(?:cal|cmp|trn)_[0-9a-f]{19}\b", told):
            self.study_id = found[0]

    def serve(self, command: str) -> None:
        self.stop()
        _, *arguments = command.split()
        self.server = ForkedProcess(
            *arguments,
            "--port",
            self.port,
            cwd=self.folder,
            env=self.environ,
            stderr=subprocess.DEVNULL,
        )
        while True:
            assert self.server.poll() is None, f"$ {command}: the server ended"
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None


@contextmanager
def session(folder: Path, text: str, port: int) -> Iterator[Session]:
    """With the files that the page shows, and values for the variables that they name."""
    environ = {**os.environ, **dummies(text), "NO_COLOR": "1"}
    programs = folder.with_name(f"{folder.name}-programs")
    programs.mkdir()
    program = programs / "evalrouter"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(router_command())} "$@"\n')
    program.chmod(0o755)
    paths = (programs, Path(sys.executable).parent, os.environ["PATH"])
    environ["PATH"] = os.pathsep.join(map(str, paths))
    environ["PYTHONPATH"] = str(ROOT)
    for block in blocks(text):
        if shown := re.search(r"`([\w-]+\.\w+)`[^`]*(?:`[^`]*`[^`]*)?:$", block.before):
            (folder / shown[1]).write_text(block.text, encoding="utf-8")
    made = Session(folder, port, environ)
    try:
        yield made
    finally:
        made.stop()


def dummies(text: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"(?<!\$)\$\{(\w+)\}", text), "dummy")


# A page is many processes, one after the other: a busy machine takes its time.
@pytest.mark.timeout(400)
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_pages_commands_run(page, tmp_path):
    with reserved_port() as port:
        text = page.read_text(encoding="utf-8").replace("4000", str(port))
        run_page(text, tmp_path, port)


def run_page(text, folder, port):
    with session(folder, text, port) as running:
        for block in blocks(text):
            if block.language == "console":
                for command in commands(block):
                    running.run(command)
            elif block.language == "python":
                running.ends_well([sys.executable, "-c", block.text], block.text)


# Examples


def yaml_blocks() -> list[object]:
    return [
        pytest.param(block.text, id=f"{name(page)}:{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        if block.language == "yaml"
    ]


@pytest.mark.parametrize("text", yaml_blocks())
def test_yaml_is_a_config_a_run_document_or_a_policy(text):
    data = yaml.safe_load(text)
    if "dataset" in data:
        for number, spec in enumerate(msgspec.convert(fill(data), RunDocument).metrics):
            registry.build(spec, param=f"metrics[{number}]")
    elif "rules" in data:
        msgspec.convert(data, RoutingPolicy)
    else:
        # What `evalrouter config check` does.
        parse(text, "the page", dummies(text))


def test_the_schedule_that_a_page_shows_passes_its_gates_on_equal_answers(tmp_path, monkeypatch):
    text = (ROOT / "docs/how-to/schedules.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks(text):
        if shown := re.fullmatch(r"`([\w-]+\.yaml)`:", block.before):
            Path(shown[1]).write_text(block.text, encoding="utf-8")

    def command(*args):
        done = CliRunner().invoke(main, args)
        assert done.exit_code == 0, done.output

    command("config", "check")
    config = Path("evalrouter.yaml")
    written = config.read_text(encoding="utf-8")
    config.write_text(written.replace("openai/gpt-4o-mini", "baseline/lead-3"), encoding="utf-8")
    # The first one is accepted, and the second compared with it.
    command("schedule", "run", "nightly")
    command("schedule", "run", "nightly")


def test_links_lead_somewhere():
    lost = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
            path = page.parent / target if target else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                lost.append(f"{name(page)}: {target}#{anchor}")
    assert not lost


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# References


def test_every_generated_part_is_on_one_page():
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    assert sorted(match["name"] for match in PART.finditer(text)) == sorted(PARTS)


def reference(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def sections(kind):
    return {kind}.union(*map(sections, kind.__subclasses__()))


def test_every_key_of_the_config_is_documented():
    kinds = {kind.config for kind in KINDS.values()}
    structs = sections(Section)
    assert Config in structs
    page = reference("config.md")
    for struct in structs | kinds:
        for field in msgspec.structs.fields(struct):
            assert f"| `{field.name}` |" in page, f"{struct.__name__}.{field.name}"


def test_every_command_is_documented():
    page = reference("cli.md")
    for path, _ in command_line.commands():
        assert f"## {path}\n" in page


def test_every_path_is_documented():
    page = reference("http.md")
    for path in http_api.openapi()["paths"]:
        assert f" {path}`" in page
    for operation in BODIES:
        assert f"`{operation}`" in page.partition("## Bodies")[2]


def test_every_output_is_documented():
    page = reference("metrics.md")
    for metric in registry.METRICS:
        assert f"| [{metric}](#{metric}) |" in page
        try:
            outputs = example(metric).outputs
        except MissingExtraError:
            continue
        for output in outputs:
            assert f"| `{output.name}` |" in page
