"""The command line, from what each command prints with `--help`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from router.cli import main


def cli() -> str:
    """Return the `--help` of every command."""
    return "\n".join(
        f"## {path}\n\n```text\n$ {path} --help\n{text}\n```\n" for path, text in commands()
    )


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command's full name and help, groups before their commands."""
    yield from _commands(main, "evalrouter", None)


def _commands(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=88, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            _, subcommand, _ = command.resolve_command(context, [inner])
            assert subcommand is not None
            yield from _commands(subcommand, inner, context)
