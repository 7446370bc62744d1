"""`evalrouter alerts`: what is wrong or was, and the messages about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table

from router.cli.commands import (
    Commands,
    actor,
    config_option,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    print_text,
    reason_argument,
    with_services,
)
from router.config.loading import load
from router.loop.alert_administration import (
    AlertPage,
    AlertReport,
    AlertView,
    Delivery,
    SilenceRequest,
)
from router.loop.moments import length_of_time
from router.store.alerts import AlertState

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_COLOURS = {"pending": "yellow", "firing": "red", "resolved": "green"}


@click.group(cls=Commands)
def alerts() -> None:
    """Show alerts and the messages about them, silence alerts, and test receivers.

    The rules and receivers are in the config (`alerts:`). A running server looks every few seconds.
    """


@alerts.command("list")
@click.option("--state", type=click.Choice(get_args(AlertState)), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@config_option
@json_option
def alerts_list(
    state: AlertState | None, limit: int, config_path: Path | None, *, as_json: bool
) -> None:
    """List alerts, newest first."""

    async def read(services: Services) -> AlertPage:
        return await services.alerts.page(state, limit=limit)

    page: AlertPage = with_services(load(config_path), read)
    if as_json:
        print_json(page)
        return
    for rule in page.rules:
        if rule.problem:
            out.print(f"[yellow]the rule {escape(rule.name)}: {escape(rule.problem)}[/]")
    print_alerts(page.data)


def print_alerts(listed: Sequence[AlertView], console: Console = out) -> None:
    """Print alerts: a line for each, but in a terminal what is wrong is below it, and wrapped."""
    if console.is_terminal and listed:
        for alert in listed:
            began = local_time(alert.fired_at or alert.since)
            line = f"{escape(alert.id)}  {escape(alert.rule)}  {_state(alert)}  {began}"
            console.print(line, highlight=False, soft_wrap=True)
            console.print(Padding(escape(alert.summary), (0, 0, 0, 4)), highlight=False)
        return
    table = Table(Column("alert", no_wrap=True), "rule", "state", "since", "what", box=None)
    for alert in listed:
        table.add_row(
            escape(alert.id),
            escape(alert.rule),
            _state(alert),
            local_time(alert.fired_at or alert.since),
            escape(alert.summary),
        )
    print_table(table, empty="No alerts.", console=console)


@alerts.command("show")
@click.argument("alert_id", metavar="ALERT")
@config_option
@json_option
def alerts_show(alert_id: str, config_path: Path | None, *, as_json: bool) -> None:
    """Show an alert, the messages about it, and the other times when it was there."""

    async def read(services: Services) -> AlertReport:
        return await services.alerts.report(alert_id)

    report: AlertReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        print_alert(report)


def print_alert(report: AlertReport, console: Console = out) -> None:
    """Print an alert, with the messages about it and the other times when it was there."""

    def say(text: str) -> None:
        print_text(text, console=console)

    alert = report.alert
    title = f"[bold]{escape(alert.id)}[/] {escape(alert.rule)}: {_state(alert)}"
    console.print(title, highlight=False)
    say(f"  {alert.summary}")
    for name, value in alert.labels.items():
        say(f"  {name}: {value}")
    if alert.url or alert.link:
        say(f"  see {alert.url or alert.link}")
    for words, at in (
        ("seen first", alert.since),
        ("fires since", alert.fired_at),
        ("over since", alert.resolved_at),
        ("nothing known since", alert.unknown_since),
    ):
        if at is not None:
            say(f"  {words} {local_time(at)}")
    if alert.note:
        say(f"  {alert.note}")
    if alert.silenced_until is not None:
        until = local_time(alert.silenced_until)
        say(f"  silenced until {until} by {alert.silenced_by}: {alert.silence}")
    for delivery in alert.deliveries:
        say(f"  {local_time(delivery.created_at)}  {_described(delivery)}")
    for other in report.history:
        began = local_time(other.fired_at or other.since)
        ended = local_time(other.resolved_at)
        when = f"{began} to {ended}" if ended else f"since {began}, {other.state}"
        say(f"  {'before' if other.since < alert.since else 'later'}: {when} ({other.id})")


@alerts.command("silence")
@click.argument("alert_id", metavar="ALERT")
@reason_argument()
@click.option(
    "--for",
    "length",
    default="1h",
    show_default=True,
    help="How long: a number with s, m, h, d or w; 0s ends a silence.",
)
@config_option
@json_option
def alerts_silence(
    alert_id: str, reason: str, length: str, config_path: Path | None, *, as_json: bool
) -> None:
    """Silence ALERT for some time, for a REASON, also when it comes back."""
    requested = SilenceRequest(reason=reason, seconds=length_of_time(length, param="--for"))

    async def silence(services: Services) -> AlertView:
        return await services.alerts.silence(alert_id, requested, author=actor())

    alert: AlertView = with_services(load(config_path), silence)
    if as_json:
        print_json(alert)
    elif alert.silenced_until is None:
        print_text(f"{alert.rule} is not silenced")
    else:
        print_text(f"{alert.rule} is silenced until {local_time(alert.silenced_until)}")


@alerts.command("test")
@click.argument("receiver")
@config_option
@json_option
def alerts_test(receiver: str, config_path: Path | None, *, as_json: bool) -> None:
    """Send RECEIVER a test alert, once; exits with 1 where it does not arrive."""

    async def test(services: Services) -> Delivery:
        return await services.alerts.test(receiver)

    delivery: Delivery = with_services(load(config_path), test)
    if as_json:
        print_json(delivery)
    else:
        print_text(_described(delivery))
    if delivery.state != "delivered":
        sys.exit(1)


def _state(alert: AlertView) -> str:
    silenced = " (silenced)" if alert.silenced_until is not None else ""
    return f"[{_COLOURS[alert.state]}]{alert.state}[/]{silenced}"


def _described(delivery: Delivery) -> str:
    tries = "" if delivery.attempts < 2 else f" after {delivery.attempts} attempts"
    error = f": {delivery.error}" if delivery.error else ""
    return f"{delivery.receiver}: {delivery.event} {delivery.state}{tries}{error}"
