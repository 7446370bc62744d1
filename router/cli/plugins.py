"""`evalrouter metrics`, `evalrouter plugins`: what may be named, and which package brings it."""

from __future__ import annotations

import sys

import click
from rich.padding import Padding

from router.cli.commands import Commands, escape, json_option, out, print_json, print_text
from router.evals.plugins import MetricEntry, installed
from router.evals.plugins import metrics as known_metrics


@click.group(cls=Commands)
def metrics() -> None:
    """The metrics that run documents may name."""


@metrics.command("list")
@json_option
def metrics_list(as_json: bool) -> None:
    """List the metrics, those of installed packages as well."""
    listed = list(known_metrics())
    if as_json:
        print_json(listed)
        return
    for entry in listed:
        out.print(f"[bold]{escape(entry.name)}[/]{escape(_origin(entry))}", highlight=False)
        if entry.error:
            _line(entry.error)
            continue
        _line(entry.description)
        if entry.outputs:
            _line(f"scores: {', '.join(entry.outputs)}")
        if entry.options:
            _line(f"options: {', '.join(_option(entry, option) for option in entry.options)}")


def _origin(entry: MetricEntry) -> str:
    return f" ({entry.package} {entry.version})" if entry.version else ""


def _option(entry: MetricEntry, option: str) -> str:
    return f"{option} (needed)" if option in entry.required else option


def _line(text: str) -> None:
    out.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)


@click.group(cls=Commands)
def plugins() -> None:
    """What installed packages add: metrics, kinds of provider, kinds of judge."""


@plugins.command("list")
@json_option
def plugins_list(as_json: bool) -> None:
    """Import and list what installed packages add; exit with 1 where something is broken."""
    listed = list(installed())
    if as_json:
        print_json(listed)
    elif not listed:
        out.print("No installed package adds anything.")
    else:
        for plugin in listed:
            shown = f"{plugin.group}: {plugin.name} ({plugin.package} {plugin.version})"
            print_text(plugin.error or shown)
    if any(plugin.error for plugin in listed):
        sys.exit(1)
