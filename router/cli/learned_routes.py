"""`evalrouter route`: learned routes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from router.cli.commands import (
    Commands,
    actor,
    config_option,
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
from router.loop.learned.held_out import HeldOutReport
from router.loop.learned.learned_routes import LearnedReport, RecentChoices

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.group(cls=Commands)
def route() -> None:
    """Learn routes with the strategy `learned`, and see whether that pays."""


@route.command("learn")
@click.argument("route")
@config_option
@json_option
def route_learn(route: str, config_path: Path | None, as_json: bool) -> None:
    """Learn which target of ROUTE is good enough for which prompt, and test it held out.

    It is learned from runs over the route's targets and its shadows, or from feedback, as the
    route's `learned.quality` says. A running server uses the model within a second.
    """

    def progress(doing: str) -> None:
        if not as_json:
            err.print(doing, highlight=False)

    async def learn(services: Services) -> LearnedReport:
        await services.learned_routes.learn(route, actor=actor(), progress=progress)
        return await services.learned_routes.report(route)

    report: LearnedReport = with_services(load(config_path), learn)
    if as_json:
        print_json(report)
    else:
        _print(report)


@route.command("learned")
@click.argument("route")
@config_option
@json_option
def route_learned(route: str, config_path: Path | None, as_json: bool) -> None:
    """Show the model of ROUTE, what it is worth held out, and what it did lately."""

    async def read(services: Services) -> LearnedReport:
        return await services.learned_routes.report(route)

    report: LearnedReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: LearnedReport) -> None:
    out.print(f"{escape(report.route)}: {report.state}", highlight=False)
    out.print(escape(report.explanation), highlight=False)
    model = report.model
    if model is not None and model.state == "ready":
        forgotten = f", {model.forgotten:,} taken out again" if model.forgotten else ""
        out.print(
            f"model {model.id} of {local_time(model.created_at)}: {model.rows:,} prompts"
            f"{forgotten}, {model.size:,} bytes, SHA-256 {model.hash[:12]}",
            highlight=False,
        )
    if report.learning is not None:
        began = local_time(report.learning.created_at)
        out.print(f"another one is being made since {began}", highlight=False)
    if report.test is not None:
        _print_test(report.test)
    if report.recent.requests:
        _print_recent(report.recent)


def _print_test(test: HeldOutReport) -> None:
    columns = ("prompts", "score", "US$", "chosen for")
    table = Table("target", *(Column(name, justify="right") for name in columns))
    for share in test.targets:
        table.add_row(
            escape(share.target + (" (always)" if share.target == test.always else "")),
            f"{share.rows:,}",
            "" if share.score is None else f"{share.score:.3f}",
            "" if share.cost_usd is None else f"{share.cost_usd:.6f}",
            f"{share.share:.0%}",
        )
    print_table(table)
    left_out = f"; {test.excluded:,} prompts could not be tested" if test.excluded else ""
    out.print(
        f"held out: {test.rows:,} prompts of {test.units:,} users or conversations{left_out}",
        highlight=False,
    )


def _print_recent(recent: RecentChoices) -> None:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in recent.by_reason.items())
    out.print(f"the last {recent.requests:,} requests: {reasons}", highlight=False)
    word = "saved" if recent.applied else "would have saved"
    out.print(
        f"it {word} US$ {recent.saved_usd:.6f} of US$ {recent.served_usd:.6f}, as predicted",
        highlight=False,
    )
