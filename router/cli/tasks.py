"""`evalrouter eval tasks`: what `eval run --task` may name."""

from __future__ import annotations

import click
from rich.padding import Padding

from evaluators.tasks.registry import Broken, Option, known
from router.cli.commands import escape, json_option, out, print_json


@click.command("tasks")
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks that fill in a run document."""
    found = list(known())
    if as_json:
        print_json(found)
        return
    for one in found:
        out.print(f"[bold]{escape(one.name)}[/]", highlight=False)
        if isinstance(one, Broken):
            _line(f"cannot be used: {one.error}")
            continue
        _line(one.description)
        specs = one.document.get("metrics", ())
        names = [spec if isinstance(spec, str) else str(spec.get("name")) for spec in specs]
        _line(f"metrics: {', '.join(names)}")
        _line(f"baseline: {one.document.get('baseline') or 'the first route'}")
        if one.options:
            _line(f"options: {'; '.join(_told(*item) for item in one.options.items())}")


def _line(text: str) -> None:
    out.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)


def _told(name: str, option: Option) -> str:
    if option.default is None:
        return f"{name} (needed)"
    default = option.default if isinstance(option.default, str) else ",".join(option.default)
    return f"{name}={default}"
