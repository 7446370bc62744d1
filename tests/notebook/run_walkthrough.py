"""Runs `docs/walkthrough.ipynb` and writes its outputs into it, without paths of this machine.

python tests/notebook/run_walkthrough.py
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "walkthrough.ipynb"


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of all its cells; one that raises is an error."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": "."}})
    client.execute()
    for cell in notebook.cells:
        # When a cell ran is nothing that a change should show.
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
    sys.stdout.write(f"{NOTEBOOK.stat().st_size} bytes\n")
