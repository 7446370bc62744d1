"""The notebook as it is committed; `make test-notebook` runs it."""

import ast
import json
import re
import tempfile
from pathlib import Path

import pytest

from tooling.notebook_page import NOTEBOOK, page

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_small_and_names_no_place_of_the_machine_that_ran_it(notebook):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 300_000
    shown = json.dumps(
        [
            {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
            | {"text": output.get("text")}
            for cell in notebook["cells"]
            for output in cell.get("outputs", ())
        ]
    )
    places = (str(ROOT), str(Path.home()), tempfile.gettempdir(), "site-packages", "127.0.0.1")
    assert [place for place in places if place in shown] == []
    assert not re.search(r"/(home|Users|root|work|var)/", shown)


def test_every_cell_was_run_in_order_and_none_raised(notebook):
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"stream", "display_data"}
    streams = {output.get("name", "stdout") for cell in cells for output in cell["outputs"]}
    assert streams == {"stdout"}


def test_every_cell_is_python(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(re.sub(r"(?m)^%.*$", "", "".join(cell["source"])))


def test_its_links_lead_to_pages(notebook):
    text, pictures = page(notebook)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    pages = [link for link in links if link not in pictures]
    assert len(pictures) == 4
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert len(pages) >= 5
    assert [link for link in pages if not (ROOT / "docs" / link).is_file()] == []
