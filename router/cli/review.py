"""`evalrouter review`: decide about the rows that wait before they become part of a dataset."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import msgspec
from rich.table import Column, Table

from providers.errors import ConflictError, EvalrouterError, InputError, RequestError
from providers.plain_files import open_plain_file
from router.cli.commands import (
    Commands,
    actor,
    config_option,
    counted,
    err,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    with_services,
)
from router.config.loading import load
from router.datasets.registry import version_name
from router.store.review import ReviewFilter, ReviewRow

if TYPE_CHECKING:  # see `commands.with_services`
    from router.loop.review import PublishedRows, ReviewArrival, ReviewCandidate
    from router.services import Services

_KEYS = "[b]a[/]ccept  [b]e[/]dit the reference  [b]r[/]eject  [b]s[/]kip  [b]u[/]ndo  [b]q[/]uit"
_SHOWN = 4000
_AT_ONCE = 50

row_argument = click.argument("row_id", metavar="ROW")


@click.group("review", cls=Commands, invoke_without_command=True)
@click.option("--dataset", help="Only rows that are to become part of this dataset.")
@click.option("--route", help="Only rows about requests of this route.")
@config_option
@json_option
@click.pass_context
def review(
    ctx: click.Context,
    dataset: str | None,
    route: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Decide about the rows that wait before they become part of a dataset.

    In a terminal each row is shown, and a key decides: a, e, r, s, u, q. Elsewhere, and with
    --json, the rows are listed.
    """
    if ctx.invoked_subcommand is not None:
        return
    matching = ReviewFilter(state="waiting", dataset=dataset, route=route)
    config = load(config_path)
    if not as_json and sys.stdin.isatty() and out.is_terminal:
        with _Keyboard() as keyboard:
            with_services(config, lambda services: _review(services, matching, keyboard))
        return

    async def read(services: Services) -> list[ReviewRow]:
        await services.feedback_review.run_once()
        return [row async for row in _rows(services, matching)]

    rows: list[ReviewRow] = with_services(config, read)
    if as_json:
        print_json(rows)
        return
    table = Table(Column("row", no_wrap=True), "from", "dataset", "since", "findings", "says")
    for row in rows:
        kinds = ", ".join(sorted({str(finding["kind"]) for finding in row.findings}))
        says = _text_of(row.content.messages[-1])[:60]
        table.add_row(
            row.id, row.origin, row.dataset, local_time(row.at), escape(kinds), escape(says)
        )
    print_table(table, empty="No row waits for a review.")


@review.command("show")
@row_argument
@config_option
@json_option
def review_show(row_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show a row, what its checks noticed, and what was decided."""

    async def read(services: Services) -> ReviewRow:
        return await services.store.review_row(row_id)

    row: ReviewRow = with_services(load(config_path), read)
    if as_json:
        print_json(row)
    else:
        _print(row)


@review.command("accept")
@row_argument
@click.option("--reference", help="What should have been answered, in place of what the row has.")
@config_option
@json_option
def review_accept(
    row_id: str, reference: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Accept a row. `publish` makes it part of a dataset."""

    async def accept(services: Services) -> ReviewRow:
        from router.loop.review import ReviewEdit  # noqa: PLC0415  (see TYPE_CHECKING above)

        edit = None if reference is None else ReviewEdit(reference=reference)
        return await services.review.accept(row_id, actor(), edit)

    _print_decided(with_services(load(config_path), accept), as_json)


@review.command("reject")
@row_argument
@click.option("--reason", default="", help="Why, for people.")
@config_option
@json_option
def review_reject(row_id: str, reason: str, config_path: Path | None, as_json: bool) -> None:
    """Reject a row. It is deleted when it expires."""

    async def reject(services: Services) -> ReviewRow:
        return await services.review.reject(row_id, actor(), reason=reason)

    _print_decided(with_services(load(config_path), reject), as_json)


@review.command("undo")
@row_argument
@config_option
@json_option
def review_undo(row_id: str, config_path: Path | None, as_json: bool) -> None:
    """Let a row wait again that was accepted or rejected, unless a version has it."""

    async def undo(services: Services) -> ReviewRow:
        return await services.review.undo(row_id, actor())

    _print_decided(with_services(load(config_path), undo), as_json)


@review.command("publish")
@click.argument("dataset", required=False)
@config_option
@json_option
def review_publish(dataset: str | None, config_path: Path | None, as_json: bool) -> None:
    """Make a new version of DATASET: the newest one's rows, and those accepted for it.

    Without DATASET it is `review.dataset` of the config.
    """
    config = load(config_path)

    async def publish(services: Services) -> PublishedRows:
        return await services.review.publish(dataset or config.review.dataset, actor())

    published: PublishedRows = with_services(config, publish)
    if as_json:
        print_json(published)
    else:
        _print_published(published)


@review.command("add")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dataset", default="", help="What they are to become rows of.")
@config_option
@json_option
def review_add(file: Path, dataset: str, config_path: Path | None, as_json: bool) -> None:
    """Let the rows of FILE wait for a review: JSON lines with `messages`.

    `answer`, `reference` and `metadata` are taken over, too.
    """

    async def add(services: Services) -> list[ReviewArrival]:
        candidates = list(await asyncio.to_thread(lambda: list(_candidates(file, dataset))))
        return await services.review.add(candidates)

    arrivals: list[ReviewArrival] = with_services(load(config_path), add)
    if as_json:
        print_json(arrivals)
        return
    waiting = sum(arrival.id is not None for arrival in arrivals)
    left_out = len(arrivals) - waiting
    out.print(
        f"{counted(waiting, 'row')} to review, {left_out} left out by checks", highlight=False
    )


def _candidates(file: Path, dataset: str) -> Iterator[ReviewCandidate]:
    from router.loop.review import ReviewCandidate  # noqa: PLC0415  (see TYPE_CHECKING above)

    names = {"messages", "answer", "reference", "metadata"}
    try:
        lines = open_plain_file(file)
    except OSError as problem:
        raise InputError(f"{file}: {problem.strerror}") from None
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = msgspec.json.decode(line, type=dict[str, Any])
                yield msgspec.convert(
                    {name: value for name, value in fields.items() if name in names}
                    | {"dataset": dataset},
                    ReviewCandidate,
                )
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise RequestError(f"{file}:{number}: {error}") from None


async def _rows(services: Services, matching: ReviewFilter) -> AsyncIterator[ReviewRow]:
    after = 0
    while rows := await services.store.review_rows(matching, limit=_AT_ONCE, after=after):
        for row in rows:
            yield row
        after = rows[-1].number


class _Keyboard:
    """Reads single keys from the terminal, also those that were pressed before they are read."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._settings: Any = None

    def __enter__(self) -> Self:
        self._settings = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._settings)

    async def key(self) -> str:
        """Return the next key, in lower case; "" when the terminal is gone."""
        loop = asyncio.get_running_loop()
        pressed = asyncio.Event()
        loop.add_reader(self._fd, pressed.set)
        try:
            await pressed.wait()
            return os.read(self._fd, 1).decode("utf-8", "replace").lower()
        except OSError:
            return ""
        finally:
            loop.remove_reader(self._fd)

    async def edited(self, text: str) -> str | None:
        """Return the text as the person's editor leaves it; None where it is not saved."""
        self.__exit__()
        try:
            return await asyncio.to_thread(click.edit, text, extension=".txt")
        finally:
            self.__enter__()


async def _review(services: Services, matching: ReviewFilter, keyboard: _Keyboard) -> None:
    """Show row by row and decide by key, until none is left or the person quits."""
    reviewer = actor()
    await services.feedback_review.run_once()
    total = await services.store.count_review_rows(matching)
    decided: list[ReviewRow] = []
    number = 0
    async for row in _rows(services, matching):
        number += 1
        out.rule(f"{number} of {total}")
        _print(row)
        if not await _decide(services, row, reviewer, decided, keyboard):
            break
    if not total:
        out.print("No row waits for a review.")
    accepted = sorted({row.dataset for row in decided if row.state == "accepted"})
    for dataset in accepted:
        out.print(f"Publish the rows accepted for {escape(dataset)}? y/n")
        if await keyboard.key() == "y":
            _print_published(await services.review.publish(dataset, reviewer))


async def _decide(
    services: Services,
    row: ReviewRow,
    reviewer: str,
    decided: list[ReviewRow],
    keyboard: _Keyboard,
) -> bool:
    """Take keys until the row is decided or skipped; False where the person quits."""
    from router.loop.review import ReviewEdit  # noqa: PLC0415  (see TYPE_CHECKING above)

    while True:
        out.print(_KEYS)
        try:
            match await keyboard.key():
                case "a":
                    edit = ReviewEdit(version=row.version)
                    decided.append(await services.review.accept(row.id, reviewer, edit))
                    return True
                case "e":
                    before = row.content.reference or row.content.answer or ""
                    text = await keyboard.edited(before)
                    if text is not None:
                        edit = ReviewEdit(version=row.version, reference=text.rstrip("\n"))
                        row = await services.review.edit(row.id, edit, reviewer)
                        _print(row)
                case "r":
                    rejected = await services.review.reject(row.id, reviewer, version=row.version)
                    decided.append(rejected)
                    return True
                case "s":
                    return True
                case "u" if decided:
                    undone = decided.pop()
                    await services.review.undo(undone.id, reviewer)
                    out.print(f"{undone.id} waits again; it is shown the next time")
                case "q" | "\x04" | "":
                    return False
        except ConflictError as error:
            err.print(escape(error.message))
            return True
        except EvalrouterError as error:
            if not isinstance(error, InputError):
                raise
            err.print(escape(error.message))


def _print(row: ReviewRow) -> None:
    source = row.source
    about = f"request {source.id} of {source.route}" if source.id else row.origin
    line = f"{row.id}  {about}  for {row.dataset}  since {local_time(row.at)}  {row.state}"
    out.print(escape(line), style="dim")
    for message in row.content.messages:
        out.print(f"[b]{escape(str(message.get('role')))}[/] {_cut(_text_of(message))}")
    if row.content.answer is not None:
        out.print(f"[b]answer[/] {_cut(row.content.answer)}")
    if row.content.reference is not None:
        out.print(f"[b]reference[/] {_cut(row.content.reference)}")
    for finding in row.findings:
        words = " ".join(str(finding.get(name, "")) for name in ("action", "place", "detail"))
        out.print(f"  {escape(str(finding['kind']))}: {escape(words.strip())}", highlight=False)


def _cut(text: str) -> str:
    return escape(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return msgspec.json.encode(content if content is not None else message).decode()


def _print_decided(row: ReviewRow, as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        out.print(f"{row.id}: {row.state}", highlight=False)


def _print_published(published: PublishedRows) -> None:
    dataset = published.dataset
    version = version_name(dataset)
    out.print(
        f"{version}: {counted(dataset.rows, 'row')}, {published.published} of them new",
        highlight=False,
    )
