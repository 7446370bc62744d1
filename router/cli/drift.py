"""`evalrouter drift`: whether watched models have changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from router.cli.commands import (
    Commands,
    actor,
    config_option,
    counted,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    with_services,
)
from router.config.loading import load
from router.loop.watches import WatchPin, WatchReport, WatchView
from router.store.watches import WatchProbe

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.group(cls=Commands)
def drift() -> None:
    """See whether watched models have changed (`watches:`)."""


@drift.command("list")
@config_option
@json_option
def drift_list(config_path: Path | None, as_json: bool) -> None:
    """List the watches, and what each has found."""

    async def read(services: Services) -> list[WatchView]:
        return await services.watches.views()

    views: list[WatchView] = with_services(load(config_path), read)
    if as_json:
        print_json(views)
        return
    table = Table(
        Column("watch", no_wrap=True), "target", "state", "why",
        *(Column(name, justify="right") for name in ("probes", "evidence", "needed")), "last probe",
    )  # fmt: skip
    for view in views:
        probes = view.signals[0]
        table.add_row(
            escape(view.name),
            escape(view.target or view.watch.target),
            view.state,
            escape(view.why),
            f"{probes.of_reference + probes.values:,}",
            _number(probes.e_value),
            _number(view.threshold),
            local_time(probes.last_at),
        )
    print_table(table, empty="The config has no watches.")


@drift.command("report")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many probes to show.")
@config_option
@json_option
def drift_report(name: str, limit: int, config_path: Path | None, as_json: bool) -> None:
    """Show what the watch NAME has found, its last probes, and what the model claimed to be.

    It ends with 1 where a change was found.
    """

    async def read(services: Services) -> WatchReport:
        return await services.watches.report(name, limit=limit)

    report: WatchReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.state == "drift":
        raise SystemExit(1)


@drift.command("probe")
@click.argument("name")
@config_option
@json_option
def drift_probe(name: str, config_path: Path | None, as_json: bool) -> None:
    """Send a probe of the watch NAME now."""

    async def send(services: Services) -> WatchProbe:
        return await services.watches.probe(name)

    probe: WatchProbe = with_services(load(config_path), send)
    if as_json:
        print_json(probe)
        return
    out.print(escape(_line(probe)), highlight=False, soft_wrap=True)


@drift.command("pin")
@click.argument("name")
@click.option("--reason", required=True, help="Why, for whoever looks at it later.")
@config_option
def drift_pin(name: str, reason: str, config_path: Path | None) -> None:
    """Begin a new reference: the next probes of the watch NAME say how answers should look."""

    async def begin(services: Services) -> WatchView:
        return await services.watches.pin(name, WatchPin(reason=reason), actor())

    view: WatchView = with_services(load(config_path), begin)
    probes = view.signals[0].needed
    out.print(
        f"the next {counted(probes, 'probe')} of {escape(name)} are its reference", highlight=False
    )


def _line(probe: WatchProbe) -> str:
    if probe.kind == "missing":
        return f"nothing is known from this probe: {probe.why}"
    what = {"anchor": "of the reference", "held_out": "of the reference", "probe": "compared"}
    evidence = "" if probe.e_value is None else f", evidence {_number(probe.e_value)}"
    distance = "" if probe.distance is None else f", distance {probe.distance:.4g}"
    return f"{counted(probe.answered, 'answer')}, {what[probe.kind]}{distance}{evidence}"


def _print(report: WatchReport) -> None:
    why = f": {report.why}" if report.why else ""
    out.print(escape(f"{report.name} ({report.target}): {report.state}{why}"), highlight=False)
    reference = report.reference
    if reference is not None:
        by = f" by {reference.created_by}" if reference.created_by else ""
        reason = f" ({reference.reason})" if reference.reason else ""
        out.print(
            escape(
                f"reference {reference.number} of {local_time(reference.created_at)}{by}{reason}"
            ),
            highlight=False,
            soft_wrap=True,
        )
    out.print(
        f"A change is reported at an evidence of {_number(report.threshold)}: while nothing "
        f"changes, at most {report.watch.alpha:.2%} of such watches ever do so.",
        highlight=False,
        soft_wrap=True,
    )
    signals = Table(
        "signal", *(Column(n, justify="right") for n in ("reference", "later")), "evidence"
    )
    for signal in report.signals:
        signals.add_row(
            signal.signal,
            f"{signal.of_reference} of {signal.needed}",
            f"{signal.values}",
            _number(signal.e_value),
        )
    print_table(signals)
    for change in report.changes:
        out.print(
            escape(
                f"the host claims another {change.what.replace('_', ' ')} since "
                f"{local_time(change.first_at)}: {change.name} "
                f"({counted(change.requests, 'answer')})"
            ),
            highlight=False,
            soft_wrap=True,
        )
    if report.unstable:
        out.print("The host names another model all the time, which says nothing.")
    _print_probes(report.probes)
    versions = Table("model", "fingerprint", "first seen", "last seen", "answers")
    for version in report.versions[:20]:
        versions.add_row(
            escape(version.model),
            escape(version.system_fingerprint),
            local_time(version.first_at),
            local_time(version.last_at),
            f"{version.requests:,}",
        )
    print_table(versions, empty="Nothing is known of what it claimed to be.")


def _print_probes(probes: list[WatchProbe]) -> None:
    numbers = (Column(name, justify="right") for name in ("distance", "value", "p", "evidence"))
    table = Table("at", "signal", "kind", *numbers, "answers", "missing")
    for probe in probes:
        table.add_row(
            local_time(probe.at),
            probe.signal,
            probe.kind,
            _number(probe.distance),
            _number(probe.value),
            _number(probe.p_value),
            _number(probe.e_value),
            f"{probe.answered} of {probe.requests}",
            escape(probe.why),
        )
    print_table(table, empty="It was not probed yet.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
