"""What all commands share: where they print, how they fail, where they find the config."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table

from providers.errors import EvalrouterError, InputError
from router.cli.terminal import harmless

if TYPE_CHECKING:  # take their time to import, and many commands have no need of them
    from router.config.schema import Config
    from router.services import Services
    from router.store.protocol import Store

_F = TypeVar("_F", bound=Callable[..., Any])
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


class Commands(click.Group):
    """A group of commands whose errors are lines on stderr."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse bytes that are not text: neither the database nor an output could hold them."""
        for arg in args:
            if not is_text(arg):
                raise click.UsageError(f"{arg!r} is not UTF-8; rename what it names", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected failure ends with its exit code, not with a traceback."""
        try:
            return super().invoke(ctx)
        except EvalrouterError as error:
            err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
            ctx.exit(2 if isinstance(error, InputError) else 1)


class CommandsOnDemand(Commands):
    """A group of commands that are imported when they are called, not when they are listed.

    Args:
        on_demand: the name of each command to where it is, `module:name`, and the line about it.
        options: those of a group.
    """

    def __init__(self, *, on_demand: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(**options)
        for name, (where, line) in on_demand.items():
            self.add_command(_CommandOnDemand(name, where, line))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is called, and its name and arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else _imported(command), rest


class _CommandOnDemand(click.Command):
    """Stands for a command in lists."""

    def __init__(self, name: str, where: str, line: str) -> None:
        super().__init__(name, help=line)
        self.where = where


def _imported(command: click.Command) -> click.Command:
    if not isinstance(command, _CommandOnDemand):
        return command
    module, _, name = command.where.partition(":")
    imported = getattr(import_module(module), name)
    assert isinstance(imported, click.Command)
    return imported


def is_text(arg: str) -> bool:
    """Return whether a text came as UTF-8; Python has halves of surrogate pairs for other bytes."""
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape(text: str) -> str:
    """Return a text that rich prints as it is, and that a terminal takes as text.

    rich would read `[...]` as markup, and pass on what hosts and files may have put into it.
    """
    return harmless(text).replace("[", r"\[")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 row`, `2 rows`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def reason_argument(*, required: bool = True) -> Callable[[_F], _F]:
    """Return what adds the argument REASON to a command, which may be written `--reason` as well.

    Args:
        required: whether there has to be one; else it is "".
    """

    def remember(context: click.Context, option: click.Parameter, value: str | None) -> None:
        context.meta[option.opts[0]] = value

    def chosen(context: click.Context, _: click.Parameter, value: str | None) -> str:
        option = context.meta.get("--reason")
        if value is not None and option is not None:
            raise click.UsageError("REASON is given twice", context)
        reason: str | None = option if value is None else value
        if reason is None and required:
            raise click.UsageError("REASON is missing: why, for whoever looks at it later", context)
        return reason or ""

    argument = click.argument("reason", required=False, callback=chosen)
    option = click.option(
        "--reason",
        "written_reason",
        metavar="REASON",
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="The same, as an option: why, for whoever looks at it later.",
    )
    return lambda command: argument(option(command))


def local_time(seconds: float | None) -> str:
    """Return a time for a table, in the time zone of whoever reads it; "" for none."""
    if seconds is None:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"


config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=None,
    help="The config file. Default: evalrouter.yaml if there is one, else the embedded default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def with_services(config: Config, action: Callable[[Services], Awaitable[Any]]) -> Any:
    """Return the result of an action that needs the store and the routes but no server."""
    import uvloop  # noqa: PLC0415  (see TYPE_CHECKING above)

    from router.services import Services  # noqa: PLC0415

    async def inside() -> Any:
        async with Services(config) as services:
            return await action(services)

    return uvloop.run(inside())


def with_store(config: Config, action: Callable[[Store], Awaitable[T]]) -> T:
    """Return the result of an action that needs nothing but the store."""
    from router.store.selection import open_store  # noqa: PLC0415  (see TYPE_CHECKING above)

    async def inside() -> T:
        async with open_store(config.storage) as store:
            return await action(store)

    return asyncio.run(inside())


def actor() -> str:
    """Return who runs the command, as it is stored with a decision."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        return "command line"


def print_text(text: str, *, style: str | None = None, console: Console = out) -> None:
    """Print a text as it is, each line whole, however narrow the terminal is."""
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning to stderr."""
    err.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def four_digits(value: float | None) -> str:
    """Return a number with four digits; "" for none."""
    return "" if value is None else f"{value:.4g}"


def widen(table: Table) -> None:
    """Give a table the width that its cells need, whatever the terminal's width is."""
    table.width = Measurement.get(out, out.options.update(max_width=sys.maxsize), table).maximum


def print_table(table: Table, *, empty: str = "", console: Console = out) -> None:
    """Print a table, or `empty` where it has no rows.

    It is fitted to a terminal, but whole for a file or another program.
    Half an id cannot be copied, and a state that is cut short is not found by grep. So each row is
    a list of its cells on a terminal that is too narrow for the table's longest words.
    """
    if empty and not table.row_count:
        console.print(empty)
        return
    for column in table.columns:
        column.overflow = "fold"
    unbounded = console.options.update(max_width=sys.maxsize)
    size = Measurement.get(console, unbounded, table)
    if not console.is_terminal:
        table.width = size.maximum
        console.print(table, soft_wrap=True)
        return
    columns = [_column_size(console, column) for column in table.columns]
    between = size.maximum - sum(column.maximum for column in columns)
    if sum(column.minimum for column in columns) + between > console.width:
        _print_rows(table, console)
        return
    # rich would shrink the widest columns, also below their longest word.
    widths = _fitted(columns, console.width - between)
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    console.print(table)


def _column_size(console: Console, column: Column) -> Measurement:
    """Return the widths that a column's cells need: with each word whole, and in one line."""
    unbounded = console.options.update(max_width=sys.maxsize)
    cells = [
        Measurement.get(console, unbounded, cell) for cell in (column.header, *column.cells) if cell
    ]
    widest = max((cell.maximum for cell in cells), default=0)
    word = max((cell.minimum for cell in cells), default=0)
    return Measurement(widest if column.no_wrap else word, widest)


def _fitted(columns: Sequence[Measurement], room: int) -> list[int]:
    """Return a width for each column, together at most `room`, which has room for all words.

    What is left goes to the columns that are narrowest so far.
    """
    widths = [column.minimum for column in columns]
    for _ in range(room - sum(widths)):
        growing = [n for n, column in enumerate(columns) if widths[n] < column.maximum]
        if not growing:
            break
        widths[min(growing, key=widths.__getitem__)] += 1
    return widths


def _print_rows(table: Table, console: Console) -> None:
    """Print the first cell of each row, and the others below it with their columns' names."""
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        console.print(first, highlight=False, soft_wrap=True)
        for column, cell in zip(table.columns[1:], others, strict=True):
            if not cell:
                continue
            line = f"{column.header}: {cell}"
            # A word that is longer than the line is left to the terminal, from which it is copied
            # whole.
            if Measurement.get(console, console.options, line).minimum <= console.width - 4:
                console.print(Padding(line, (0, 0, 0, 4)), highlight=False)
            else:
                console.print(f"    {line}", highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs: no colours, no folding."""
    sys.stdout.write(msgspec.json.format(_encode(value), indent=2).decode() + "\n")
