"""`evalrouter shadow`: what routes' shadows have found out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from evaluators.base import PRECOMPUTED
from evaluators.reports.report import Report
from router.cli.commands import (
    Commands,
    config_option,
    escape,
    four_digits,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    reason_argument,
    with_services,
)
from router.config.loading import load
from router.loop.shadow import ShadowChange, ShadowFunnel, ShadowReport, ShadowView

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_REASONS = {
    "not_sampled": "not sampled",
    "excluded": "excluded (store: false, or the key)",
    "paused": "paused",
    "over_budget": "over budget",
    "shed": "shed (the queue was full)",
    "unjudgeable": "unjudgeable",
    "error": "error",
    "stopped": "stopped before it was sent",
    "deleted": "deleted on demand",
    "waiting": "waiting",
    "scored": "scored",
}


@click.group(cls=Commands)
def shadow() -> None:
    """Compare routes with candidates that answer copies of their requests (`shadow:`)."""


@shadow.command("list")
@config_option
@json_option
def shadow_list(config_path: Path | None, as_json: bool) -> None:
    """List the routes that have a shadow."""

    async def read(services: Services) -> list[ShadowView]:
        return await services.shadows.views()

    views: list[ShadowView] = with_services(load(config_path), read)
    if as_json:
        print_json(views)
        return
    table = Table(
        Column("route", no_wrap=True), "state", "candidates", "scored", "of", "today", "run"
    )
    for view in views:
        targets = () if view.shadow is None else view.shadow.targets
        table.add_row(
            escape(view.route),
            escape(view.state if not view.blocked else f"{view.state}: {view.blocked}"),
            escape(", ".join(targets)),
            f"{view.funnel.scored:,}",
            f"{view.funnel.requests:,}",
            f"${view.spent_today_usd:.4f}",
            view.run,
        )
    print_table(table, empty="No route has a shadow.")


@shadow.command("report")
@click.argument("route")
@config_option
@json_option
def shadow_report(route: str, config_path: Path | None, as_json: bool) -> None:
    """Show the candidates of ROUTE beside what clients got, and what was not judged and why."""

    async def read(services: Services) -> ShadowReport:
        return await services.shadows.report(route)

    report: ShadowReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)


# As the other groups call it.
shadow.add_command(shadow_report, "show")


@shadow.command("pause")
@click.argument("route")
@reason_argument()
@config_option
def shadow_pause(route: str, reason: str, config_path: Path | None) -> None:
    """Send no request of ROUTE to its candidates until it is resumed."""
    _change(route, ShadowChange(action="pause", reason=reason), config_path)
    out.print(f"the shadow of {escape(route)} is paused", highlight=False)


@shadow.command("resume")
@click.argument("route")
@reason_argument(required=False)
@config_option
def shadow_resume(route: str, reason: str, config_path: Path | None) -> None:
    """Send requests of ROUTE to its candidates again."""
    _change(route, ShadowChange(action="resume", reason=reason), config_path)
    out.print(f"the shadow of {escape(route)} runs", highlight=False)


def _change(route: str, change: ShadowChange, config_path: Path | None) -> None:
    async def apply(services: Services) -> ShadowView:
        return await services.shadows.change(route, change, "")

    with_services(load(config_path), apply)


def _print(shown: ShadowReport) -> None:
    state = f"{shown.state}: {shown.blocked}" if shown.blocked else shown.state
    reason = f" ({shown.reason}, {local_time(shown.changed_at)})" if shown.reason else ""
    out.print(f"shadow of {escape(shown.route)}: {escape(state + reason)}", highlight=False)
    if shown.shadow is not None:
        out.print(
            f"spent today: ${shown.spent_today_usd:.4f} of ${shown.shadow.limits.usd_per_day:g}",
            highlight=False,
        )
    _print_funnel(shown.funnel)
    if shown.report is None:
        out.print("Nothing was sent to a candidate yet.")
        return
    _print_comparisons(shown.report)
    out.print(f"all numbers: evalrouter eval show {shown.run}", highlight=False)


def _print_funnel(funnel: ShadowFunnel) -> None:
    table = Table(Column("requests", justify="right"), "what became of them")
    table.add_row(f"{funnel.requests:,}", "in all")
    for name, words in _REASONS.items():
        number: int = getattr(funnel, name)
        if number:
            why = ", ".join(f"{n:,} {reason}" for reason, n in funnel.why_unjudgeable.items())
            more = f" ({why})" if name == "unjudgeable" else ""
            table.add_row(f"{number:,}", escape(words + more))
    print_table(table)


def _print_comparisons(report: Report) -> None:
    means = {
        (route.route, score.output): score.estimate
        for route in report.routes
        for score in route.scores
    }
    table = Table(
        "candidate", "output", *(Column(name, justify="right") for name in ("clients got", "it")),
        "difference", "verdict",
    )  # fmt: skip
    for compared in report.comparisons:
        output = compared.output
        difference = ""
        if compared.difference is not None:
            interval = "no interval yet"
            if compared.low is not None and compared.high is not None:
                interval = f"{four_digits(compared.low)} to {four_digits(compared.high)}"
            difference = f"{four_digits(compared.difference)} ({interval})"
        table.add_row(
            escape(compared.route),
            escape(output),
            four_digits(means.get((PRECOMPUTED, output))),
            four_digits(means.get((compared.route, output))),
            difference,
            compared.verdict or "",
        )
    print_table(table)
    for warning in report.warnings:
        out.print(f"• {escape(warning)}", highlight=False)
