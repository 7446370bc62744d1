"""`evalrouter drift`: whether watched models have changed."""

from __future__ import annotations

import sys
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
    four_digits,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    print_text,
    print_warning,
    reason_argument,
    with_services,
)
from router.config.loading import load
from router.loop.retirements import Migration, RetiringModel
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
            four_digits(probes.e_value),
            four_digits(view.threshold),
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
        sys.exit(1)


# As the other groups call it.
drift.add_command(drift_report, "show")


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
    print_text(_line(probe))


@drift.command("pin")
@click.argument("name")
@reason_argument()
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


@drift.command("retirements")
@click.option("--target", help="Only this provider/model.")
@click.option("--candidate", help="The model that --target is to be replaced with.")
@config_option
@json_option
def drift_retirements(
    target: str | None, candidate: str | None, config_path: Path | None, as_json: bool
) -> None:
    """List models of routes and watches that will be shut down, and how to leave them.

    The commands and documents are proposals; nothing is done.
    """
    if candidate is not None and target is None:
        raise click.UsageError("--candidate needs --target")

    async def read(services: Services) -> list[RetiringModel]:
        models = await services.retirements.selected(target, candidate)
        if candidate is None:
            for name, why in (await services.retirements.unreachable()).items():
                print_warning(f"{name} does not list its models: {why}")
        return models

    models: list[RetiringModel] = with_services(load(config_path), read)
    if as_json:
        print_json(models)
        return
    table = Table("model", "ends", Column("days left", justify="right"), "used by", "says")
    for model in models:
        used = ", ".join([*model.routes, *(f"watch {name}" for name in model.watches)])
        table.add_row(
            escape(model.target),
            model.date,
            f"{model.days_left:.0f}",
            escape(used),
            escape(model.source),
        )
    print_table(table, empty="No end is known of any model that a route or watch names.")
    for model in models:
        for migration in model.migrations:
            _print_migration(model.target, migration)
        for note in model.notes:
            print_text(note)


def _print_migration(target: str, migration: Migration) -> None:
    last = migration.rollout_command or migration.route_change
    lines = [
        "",
        f"{migration.route}: from {target} to {migration.candidate} ({migration.reason})",
        f"  1. {migration.dataset_command}",
        f"  2. {migration.run_command}    # with this document:",
        *(f"       {line}" for line in migration.run_yaml.splitlines()),
        f"  3. {last}    # where its gate has held",
        *(f"  • {note}" for note in migration.notes),
    ]
    for line in lines:
        print_text(line)


def _line(probe: WatchProbe) -> str:
    if probe.kind == "missing":
        return f"nothing is known from this probe: {probe.why}"
    what = {"anchor": "of the reference", "held_out": "of the reference", "probe": "compared"}
    evidence = "" if probe.e_value is None else f", evidence {four_digits(probe.e_value)}"
    distance = "" if probe.distance is None else f", distance {probe.distance:.4g}"
    return f"{counted(probe.answered, 'answer')}, {what[probe.kind]}{distance}{evidence}"


def _print(report: WatchReport) -> None:
    joined = ", " if report.state == "quiet" else ": "
    why = f"{joined}{report.why}" if report.why else ""
    out.print(escape(f"{report.name} ({report.target}): {report.state}{why}"), highlight=False)
    reference = report.reference
    if reference is not None:
        by = f" by {reference.created_by}" if reference.created_by else ""
        reason = f" ({reference.reason})" if reference.reason else ""
        print_text(
            f"reference {reference.number} of {local_time(reference.created_at)}{by}{reason}"
        )
    print_text(
        f"A change is reported at an evidence of {four_digits(report.threshold)}: while nothing "
        f"changes, at most {report.watch.alpha:.2%} of such watches ever do so."
    )
    signals = Table(
        "signal", *(Column(n, justify="right") for n in ("reference", "later")), "evidence"
    )
    for signal in report.signals:
        signals.add_row(
            signal.signal,
            f"{signal.of_reference} of {signal.needed}",
            f"{signal.values}",
            four_digits(signal.e_value),
        )
    print_table(signals)
    for change in report.changes:
        print_text(
            f"the host claims another {change.what.replace('_', ' ')} since "
            f"{local_time(change.first_at)}: {change.name} "
            f"({counted(change.requests, 'answer')})"
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
            four_digits(probe.distance),
            four_digits(probe.value),
            four_digits(probe.p_value),
            four_digits(probe.e_value),
            f"{probe.answered} of {probe.requests}",
            escape(probe.why),
        )
    print_table(table, empty="It was not probed yet.")
