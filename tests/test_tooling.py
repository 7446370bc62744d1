"""The generator of the reference pages: `make docs`."""

import subprocess
import sys

import pytest

from tooling import metrics
from tooling.markdown import ROOT, UndocumentedError
from tooling.pages import regenerated

PAGE = """# Page

Written by hand.

<!-- generated: run-document -->
{}<!-- end -->

Also written by hand.
"""

# No generated text has these words.
OUTDATED = "what the page said last year"


def generate(*arguments):
    """Run what `make docs` runs."""
    command = [sys.executable, "-E", "-m", "tooling", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT / "docs", capture_output=True, text=True, check=False, timeout=100
    )


def test_an_outdated_page_is_reported_and_rewritten(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(f"{OUTDATED}\n"))

    checked = generate(tmp_path, "--check")
    assert checked.returncode == 1
    assert checked.stderr == f"{page} is out of date: run `make docs`\n"
    assert page.read_text() == PAGE.format(f"{OUTDATED}\n")

    assert generate(tmp_path).returncode == 0
    text = page.read_text()
    assert "| `metrics` |" in text
    assert OUTDATED not in text
    assert text.startswith("# Page\n\nWritten by hand.\n\n<!--")
    assert text.endswith("-->\n\nAlso written by hand.\n")
    assert generate(tmp_path, "--check").returncode == 0


def test_an_unknown_part_is_an_error_with_the_names(tmp_path):
    (tmp_path / "page.md").write_text("<!-- generated: tasks -->\n<!-- end -->\n")
    done = generate(tmp_path)
    assert done.returncode == 2
    named = "no generated part is named 'tasks': it is one of ['access', 'bodies', 'cli', "
    assert done.stderr.startswith(named)
    assert "Traceback" not in done.stderr


def test_a_page_without_generated_parts_stays_as_it_is():
    assert regenerated("# A page\n") == "# A page\n"


def test_a_metric_without_a_benchmark_row_is_not_measured():
    assert metrics.cost("a_metric_of_tomorrow") == "not measured"
    assert metrics.cost("cost") == "<0.01"


def test_a_metric_whose_package_is_missing_has_to_be_on_the_page_already():
    assert metrics.committed("rouge", r"^\| \[rouge\]\(.*$")
    with pytest.raises(UndocumentedError, match="no a_metric_of_tomorrow yet, and the package"):
        metrics.committed("a_metric_of_tomorrow", r"^### a_metric_of_tomorrow$")
