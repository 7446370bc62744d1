"""`evalrouter store`: move everything that is stored to another database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.table import Column, Table

from router.cli.commands import (
    Commands,
    config_option,
    counted,
    err,
    json_option,
    out,
    print_json,
    print_text,
    print_warning,
)
from router.cli.progress import progress_line
from router.config.loading import load
from router.config.storage import storage_at
from router.evals.lease import stale_after
from router.store.copying import Copied, ProgressCallback, copy

_LINE_EVERY = 100_000


@click.group(cls=Commands)
def store() -> None:
    """Move everything that is stored to another database."""


@store.command("migrate")
@click.argument("source")
@click.argument("target")
@config_option
@json_option
def store_migrate(source: str, target: str, config_path: Path | None, *, as_json: bool) -> None:
    """Copy everything from the database SOURCE into the empty database TARGET.

    Each is sqlite:///PATH or postgresql://USER@HOST:PORT/NAME. A password is better left out: it
    is taken from the config's storage, where that names the same database, else from
    POSTGRES_PASSWORD.

    Stop the servers first: what they store later is not in the copy. Afterwards every table is read
    back from both databases and compared; where one differs, nothing is copied. Exit codes: 0
    copied, 1 not copied, 2 SOURCE or TARGET cannot be used.
    """
    configured = load(config_path).storage
    source_storage = storage_at(source, configured, os.environ)
    target_storage = storage_at(target, configured, os.environ)
    with _progress() as callback:
        copied = copy(source_storage, target_storage, callback, stale_after)
    if copied.written_meanwhile:
        print_warning(
            "something was stored in SOURCE after it was read, which is not in the copy; was every "
            "server stopped?"
        )
    if as_json:
        print_json(copied)
    else:
        _print(copied)


def _print(copied: Copied) -> None:
    table = Table(
        Column("table", no_wrap=True),
        Column("rows", no_wrap=True, justify="right"),
        Column("hash", no_wrap=True),
        box=None,
        pad_edge=False,
    )
    for each in copied.tables:
        table.add_row(each.table, str(each.rows), each.hash)
    out.print(table, highlight=False)
    print_text(
        f"{counted(copied.rows, 'row')} copied from {copied.source} to {copied.target} in "
        f"{copied.copied_s:.1f} s; the same in both (compared in {copied.compared_s:.1f} s)"
    )


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """Show progress on stderr: one line that changes on a terminal, else some lines."""
    if not err.is_terminal:
        yield _plainly()
        return
    with progress_line() as show:
        yield lambda doing, table, rows: show(f"{doing} {table}: {counted(rows, 'row')}")


def _plainly() -> ProgressCallback:
    """Return what prints a line for each table, and for each `_LINE_EVERY` rows of it."""
    last = ""

    def show(doing: str, table: str, rows: int) -> None:
        nonlocal last
        line = f"{doing} {table}" + f": {counted(rows, 'row')}" * bool(rows)
        # A table without rows is at its end where it begins.
        if rows % _LINE_EVERY == 0 and line != last:
            err.print(line, highlight=False)
            last = line

    return show
