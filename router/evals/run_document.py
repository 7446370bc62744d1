"""Reads a run document as a user wrote it, and makes it complete with what its task fills in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluators.document import RunDocument
from evaluators.tasks.registry import fill
from providers.errors import RunDocumentError
from router.config.documents import Document, convert, read_document


def parse_run(path: Path) -> Document:
    """Read a run document from a YAML or JSON file, without checking it.

    Raises:
        RunDocumentError: it cannot be read; names the file, and the line where there is one.
    """
    return read_document(path, error=RunDocumentError)


def complete_run(
    document: Document, *, base: Path, within: Sequence[str] | None = None
) -> RunDocument:
    """Return the document with what its task fills in.

    Args:
        document: as the user wrote it.
        base: the folder that the path of a task's file starts from.
        within: the folders that a task's file may lie below; None for anywhere.

    Raises:
        RunDocumentError: names the path in the document, and the line where it has one.
    """
    data = document.data
    if isinstance(data, dict):
        try:
            data = fill(data, base=base, within=within)
        except RunDocumentError as error:
            # Such a message begins with the place, as far as a task knows it.
            place = document.at(("task",))
            raise RunDocumentError(
                place + error.message.removeprefix("task"), param=error.param, code=error.code
            ) from None
    try:
        return convert(document._replace(data=data), RunDocument, error=RunDocumentError)
    except RunDocumentError as error:
        if not isinstance(data, dict) or "metrics" in data:
            raise
        # A task that was named would have filled them in.
        refused = RunDocumentError(
            f"{error.message}\nWhat is missing may come from a task: `task: summarization`, or "
            "another one that `evalrouter eval tasks` and GET /eval/tasks list.",
            param=error.param,
            code=error.code,
        )
        refused.problems = error.problems
        raise refused from None
