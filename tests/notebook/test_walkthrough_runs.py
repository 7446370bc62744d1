"""Every cell of the walkthrough runs without keys and a network, and prints what it shows."""

import nbformat
import pytest
from notebook.run_walkthrough import NOTEBOOK, executed


def texts(notebook):
    """What each cell prints, and the number of its plots."""
    return [
        (
            "".join(output.text for output in cell.outputs if output.get("name") == "stdout"),
            sum("image/png" in output.get("data", {}) for output in cell.outputs),
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.timeout(900)
# Packages of the notebook's own client.
@pytest.mark.filterwarnings("default")
def test_the_cells_print_what_the_notebook_shows(monkeypatch):
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY", "EVALROUTER_URL", "EVALROUTER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert texts(executed()) == texts(nbformat.read(NOTEBOOK, as_version=4))
