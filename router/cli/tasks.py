"""`evalrouter eval tasks`: the tasks that `eval run --task` may name."""

from __future__ import annotations

import click
from rich.padding import Padding

from evaluators.tasks.registry import BrokenTask, Option, known
from router.cli.commands import escape, json_option, out, print_json


@click.command("tasks")
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks that fill in a run document."""
    listed = list(known())
    if as_json:
        print_json(listed)
        return
    for task in listed:
        out.print(f"[bold]{escape(task.name)}[/]", highlight=False)
        if isinstance(task, BrokenTask):
            _line(f"cannot be used: {task.error}")
            continue
        _line(task.description)
        specs = task.document.get("metrics", ())
        names = [spec if isinstance(spec, str) else str(spec.get("name")) for spec in specs]
        _line(f"metrics: {', '.join(names)}")
        _line(f"baseline: {task.document.get('baseline') or 'the first route'}")
        if task.options:
            _line(f"options: {'; '.join(_option(*item) for item in task.options.items())}")


def _line(text: str) -> None:
    out.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)


def _option(name: str, option: Option) -> str:
    if option.default is None:
        return f"{name} (needed)"
    default = option.default if isinstance(option.default, str) else ",".join(option.default)
    return f"{name}={default}"
