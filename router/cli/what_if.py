"""`evalrouter what-if`: what another routing policy would have brought."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from evaluators.stats.intervals import Interval
from providers.errors import InputError
from router.cli.commands import (
    config_option,
    counted,
    escape,
    json_option,
    out,
    print_json,
    print_table,
    with_services,
)
from router.config.documents import convert, read_document
from router.config.loading import load
from router.loop.policies import RoutingPolicy
from router.loop.what_if import WhatIf, WhatIfMeasure, WhatIfRequest

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


PER_THOUSAND = "US dollars per 1,000 requests"


@click.command("what-if")
@click.option(
    "--policy",
    "policy_path",
    required=True,
    type=click.Path(path_type=Path),
    help="A YAML or JSON file with weights, a strategy or rules.",
)
@click.option("--route", default="", help="Whose requests are read. Default: the policy's route.")
@click.option("--since", help="30d, 12h, ISO 8601 or seconds since the epoch. Default: all.")
@click.option("--until", help="Likewise. Default: now.")
@click.option("--value", default="", help="What is to be high: feedback:NAME or shadow:OUTPUT.")
@config_option
@json_option
def what_if(
    policy_path: Path,
    *,
    route: str,
    since: str | None,
    until: str | None,
    value: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Estimate what a routing policy would have brought that was never run.

    It reads the requests of a route whose targets were chosen with probabilities that are on
    record: by weights, a rollout, or because the route explores. The exit code is 1 where nothing
    can be said.
    """
    policy = convert(read_document(policy_path, error=InputError), RoutingPolicy, error=InputError)
    request = WhatIfRequest(policy=policy, route=route, since=since, until=until, value=value)

    async def estimate(services: Services) -> WhatIf:
        return await services.what_ifs.estimate(request)

    report: WhatIf = with_services(load(config_path), estimate)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.refused or all(measure.value.refused for measure in report.measures):
        sys.exit(1)


def _print(report: WhatIf) -> None:
    out.print(
        f"{report.route}: {counted(report.requests, 'request')} of {report.records:,} on record",
        highlight=False,
        markup=False,
    )
    for excluded in report.excluded:
        out.print(f"{excluded.count:>9,}  left out: {excluded.description}", highlight=False)
    if report.refused:
        out.print(f"no estimate: {escape(report.refused)}", highlight=False)
    else:
        _print_targets(report)
        _print_measures(report)
    for warning in report.warnings:
        out.print(f"• {escape(warning)}", highlight=False)


def _print_targets(report: WhatIf) -> None:
    table = Table("target", *(Column(name, justify="right") for name in ("served", "policy")))
    for target in report.targets:
        name = target.target if target.configured else f"{target.target} (not in the route now)"
        table.add_row(escape(name), f"{target.served:.1%}", f"{target.policy:.1%}")
    print_table(table)


def _print_measures(report: WhatIf) -> None:
    names = ("served", "policy", "difference", "counts as")
    table = Table("per request", *(Column(name, justify="right") for name in names))
    # Measures are often refused for the same reason, which is said once.
    refusals: dict[str, list[WhatIfMeasure]] = {}
    for measure in report.measures:
        value = measure.value
        is_cost = measure.name == "cost_usd"
        number = per_thousand if is_cost else shown_number
        if value.refused:
            refusals.setdefault(value.refused, []).append(measure)
        table.add_row(
            escape(PER_THOUSAND if is_cost else measure.description),
            shown(value.observed, ends=False, number=number),
            "not enough" if value.refused else shown(value.doubly_robust, number=number),
            "" if value.refused else shown(value.difference, number=number),
            f"{value.effective_units:,.0f}",
        )
    print_table(table)
    if any(not measure.value.refused for measure in report.measures):
        out.print("In parentheses: 95% intervals.", highlight=False)
    for refused, measures in refusals.items():
        needed = max(measure.value.requests_needed or 0 for measure in measures)
        enough = f"; about {needed:,} requests like these would do" if needed else ""
        described = ", ".join(measure.description for measure in measures)
        what = "" if len(measures) == len(report.measures) else f"{described}: "
        out.print(f"• {escape(f'{what}{refused}{enough}')}", highlight=False)


def shown(
    interval: Interval, *, ends: bool = True, number: Callable[[float], str] | None = None
) -> str:
    """Return an estimate with its interval, each number as `shown_number` does or as given."""
    as_text = number or shown_number
    if interval.estimate is None:
        return ""
    text = as_text(interval.estimate)
    if not ends or interval.low is None or interval.high is None:
        return text
    return f"{text} ({as_text(interval.low)} to {as_text(interval.high)})"


def shown_number(value: float) -> str:
    """Return a number with four digits, never as a power of ten."""
    return f"{Decimal(f'{value:.4g}'):,f}"


def per_thousand(value: float) -> str:
    """Return what one request costs as what a thousand do."""
    return shown_number(value * 1000)
