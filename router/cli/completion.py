"""`evalrouter completion`: what a shell needs to complete commands, options, models and runs.

Completing is quiet: where nothing can be read, nothing is proposed. Nothing is created, and no host
gets a request.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from providers.errors import EvalrouterError
from providers.offline.baseline import MODELS
from router.config.loading import load
from router.config.schema import Config

_PROGRAM = "evalrouter"
_VARIABLE = "_EVALROUTER_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete evalrouter's commands, models and runs.

    For bash, in ~/.bashrc: eval "$(evalrouter completion bash)"

    For zsh, in ~/.zshrc after compinit: eval "$(evalrouter completion zsh)"

    For fish, in ~/.config/fish/config.fish: evalrouter completion fish | source
    """
    # Late: this module is imported by the commands.
    from router.cli import main  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(main, {}, _PROGRAM, _VARIABLE).source())


def complete_models(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the routes, and the models that are known without a request to a host."""
    config = _config(ctx)
    if config is None:
        return []
    names = [*config.routes]
    for name, provider in config.providers.items():
        models = provider.models or (MODELS if provider.kind == "baseline" else ())
        names += [f"{name}/{model}" for model in models]
    return _matching(names, incomplete)


def complete_providers(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the providers of the config."""
    config = _config(ctx)
    return [] if config is None else _matching(config.providers, incomplete)


def complete_runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the newest runs of a SQLite database."""
    config = _config(ctx)
    if config is None or config.storage.is_postgres:
        return []
    # Late: sqlite-utils imports NumPy.
    from router.store.sqlite.examination import latest_runs  # noqa: PLC0415

    try:
        runs = latest_runs(config.storage.sqlite_path(), incomplete)
    except (sqlite3.Error, OSError, UnicodeError):
        return []
    return [
        CompletionItem(run_id, help=f"{state} {name}".strip())
        for run_id, name, state in runs
        if run_id.isprintable() and f"{state}{name}".isprintable()
    ]


def _config(ctx: click.Context) -> Config | None:
    path = ctx.params.get("config_path")
    try:
        return load(Path(path) if path else None)
    except EvalrouterError:
        return None


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    # A name with a blank or a line break would be several for a shell.
    return [
        CompletionItem(name)
        for name in names
        if name.startswith(incomplete) and name.isprintable() and " " not in name
    ]
