"""Progress of a command, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from router.cli.commands import err, escape


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Show a line that changes, with the time that has passed; for a stderr that is a terminal."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        line = progress.add_task("", total=None)

        def show(text: str) -> None:
            progress.update(line, description=escape(text))

        yield show
