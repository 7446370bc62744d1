"""`evalrouter providers`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from providers.conformance.suite import CheckResult, ConformanceReport
from router.cli.commands import (
    Commands,
    config_option,
    err,
    escape,
    json_option,
    out,
    print_json,
    print_table,
    with_services,
)
from router.cli.completion import complete_providers
from router.config.loading import load
from router.gateway.conformance import examine_provider

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.group("providers", cls=Commands)
def providers() -> None:
    """Work with the providers of the config."""


@providers.command("test")
@click.argument("name", shell_complete=complete_providers)
@click.option("--model", default="", help="Default: the first model that it lists.")
@click.option("--long", is_flag=True, help="Also send a prompt that is too long; may cost money.")
@config_option
@json_option
def providers_test(
    name: str, model: str, long: bool, config_path: Path | None, as_json: bool
) -> None:
    """Check how well a provider speaks OpenAI's API: some fifty checks with their evidence."""
    table = Table("check", "", "evidence", title=name)

    def show(result: CheckResult) -> None:
        colors = {"pass": "green", "fail": "bold red", "unsupported": "yellow"}
        outcome = f"[{colors[result.outcome]}]{result.outcome}[/]"
        table.add_row(escape(result.title), outcome, escape(result.evidence[:160]))
        err.print(f"{result.name}: {result.outcome}", highlight=False)

    async def examine(services: Services) -> ConformanceReport:
        return await examine_provider(
            name,
            providers=services.providers,
            configs=services.config.providers,
            transport=services.transport,
            masks=services.masks,
            model=model,
            long=long,
            on_result=show,
        )

    report: ConformanceReport = with_services(load(config_path), examine)
    if as_json:
        print_json(report)
    else:
        print_table(table)
        words = ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items())
        out.print(f"{name}/{report.model}, {report.date}: {words}", highlight=False)
    if report.counts["fail"]:
        sys.exit(1)
