"""CONTRIBUTING.md: its recipes work in a copy, and what it names exists."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from isolation import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
TEXT = PAGE.read_text(encoding="utf-8")

COPIED = ("router", "providers", "evaluators", "serve", "tests", "docs", "loadtests", "evidence")

# A fenced block after "Create `PATH`:" or "In `PATH`, before `BEGINNING OF A LINE`:".
STEP = re.compile(
    r"(?:reate `(?P<new>[^`\n]+)`"
    r"|n\s+`(?P<old>[^`\n]+)`,\s+before\s+(?P<ticks>`+)(?P<before>[^\n]+?)(?P=ticks))"
    r":\n\n(?P<indent> *)```\w+\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


class Step(NamedTuple):
    """One edit: a new file, or lines before the first line that begins so."""

    path: str
    before: str | None
    text: str

    def apply(self, folder: Path) -> None:
        path = folder / self.path
        if self.before is None:
            assert not path.exists()
            path.write_text(self.text, encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        [first, *_] = [
            number for number, line in enumerate(lines) if line.startswith(self.before)
        ] or [None]
        assert first is not None, f"no line of {self.path} begins with {self.before!r}"
        lines.insert(first, self.text)
        path.write_text("".join(lines), encoding="utf-8")


def steps(text: str) -> list[Step]:
    found = []
    for match in STEP.finditer(text):
        indent = match["indent"]
        lines = match["text"].splitlines()
        dedented = "\n".join(line.removeprefix(indent) for line in lines) + "\n"
        before = match["before"]
        # Two backticks have a space inside, as Markdown wants it.
        if before is not None and len(match["ticks"]) == 2:
            before = before.strip()
        found.append(Step(match["new"] or match["old"], before, dedented))
    return found


def test_steps_are_read_from_a_page():
    page = textwrap.dedent("""\
        1. Create `a.py`:

           ```python
           if x:
               y
           ```

        2. In `b.py`, before `    z`:

           ```python
               w
           ```

        3. In `c.md`, before `` | `v` | ``:

           ```text
           row
           ```
        """)
    assert steps(page) == [
        Step("a.py", None, "if x:\n    y\n"),
        Step("b.py", "    z", "    w\n"),
        Step("c.md", "| `v` |", "row\n"),
    ]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with every recipe of the page carried out."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for step in steps(TEXT):
        step.apply(folder)
    return folder


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-E", "-X", "utf8", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


@pytest.mark.timeout(300)
def test_the_recipes_tests_pass(copy):
    done = run(
        copy,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        "tests/evaluators/metrics/test_ends_with.py",
        "tests/evaluators/metrics/test_metrics.py",
        "tests/router/api/test_about.py",
        "tests/providers/test_harbour.py",
        "tests/providers/conformance/test_reference.py",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.timeout(300)
def test_make_docs_documents_what_the_recipes_add(copy):
    done = run(copy / "docs", "-m", "tooling")
    assert done.returncode == 0, done.stdout + done.stderr

    def page(name):
        return (copy / "docs" / "reference" / name).read_text(encoding="utf-8")

    [row] = re.findall(r"^\| \[ends_with\]\(#ends_with\) \|.*$", page("metrics.md"), re.MULTILINE)
    assert row.endswith("| not measured |")
    assert "\n### ends_with\n" in page("metrics.md")
    assert "| `lighthouse` | Lighthouse | `https://api.lighthouse.example/v1` |" in page(
        "config.md"
    )
    assert "| `harbour` |" in page("config.md")
    assert "| `GET /about` | Show the version |" in page("http.md")


def test_what_the_recipes_change_passes_the_linter(copy):
    assert len([step for step in steps(TEXT) if step.before is None]) == 6
    for command in (["check"], ["format", "--check"]):
        done = run(copy, "-m", "ruff", *command, "--no-cache", ".")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_recipes_host_gets_a_report_and_no_other_does(copy):
    reports = copy / "docs" / "reference" / "conformance"
    before = {path.name: path.read_bytes() for path in reports.iterdir()}
    done = run(copy, "tests/conformance_reports.py", "harbour")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path.name: path.read_bytes() for path in reports.iterdir()}
    report = json.loads(after.pop("harbour.json"))
    assert report["report"]["kind"] == "harbour"
    assert after == before
    done = run(copy, "tests/conformance_reports.py", "lighthouse")
    assert done.returncode == 1
    assert (
        "no fake host of the kind 'lighthouse': it is one of mistral, groq, gemini" in done.stderr
    )


def test_what_the_page_names_exists():
    named = re.findall(r"`([\w./-]+)`", TEXT) + re.findall(r"\]\(([^)#:]+)\)", TEXT)
    paths = {name for name in named if "/" in name and not name.startswith("/")}
    paths -= {step.path for step in steps(TEXT)}
    assert len(paths) > 20
    assert [name for name in sorted(paths) if not (ROOT / name).exists()] == []


def test_the_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", TEXT))
    assert targets >= {"test", "lint", "docs", "site", "bench"}
    assert [name for name in sorted(targets) if f"\n{name}:" not in makefile] == []


def test_the_glossary_is_linked():
    assert "(docs/explanation/glossary.md)" in TEXT
