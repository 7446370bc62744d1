"""`evalrouter rollout`: give a candidate a growing share of a route's requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from providers.errors import InputError
from router.cli.commands import (
    Commands,
    actor,
    config_option,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_text,
    reason_argument,
    with_services,
)
from router.config.documents import Document, read_document
from router.config.loading import load
from router.loop.rollout_plan import settings_of
from router.loop.rollout_report import RolloutReport
from router.loop.rollout_rules import ArmReading, SignalReading
from router.loop.rollouts import Action, RolloutAction
from router.store.rollouts import JudgedRequests, Rollout, RolloutDecision

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_BAR = 20
_STATES = {
    "running": "cyan",
    "holding": "yellow",
    "paused": "yellow",
    "promoting": "green",
    "promoted": "green",
    "rolling_back": "red",
    "rolled_back": "red",
    "aborted": "red",
}


@click.group(cls=Commands)
def rollout() -> None:
    """Give a candidate a growing share of a route's requests, and promote it or roll it back.

    A running server need not be stopped: all its processes follow within a second, and one of them
    decides.
    """


@rollout.command("start")
@click.argument("route")
@click.argument("candidate", required=False)
@click.option("--steps", help="The candidate's shares in percent, such as 1,5,25,100.")
@click.option(
    "--settings",
    "settings_path",
    type=click.Path(path_type=Path),
    help="A YAML or JSON file with what a route's `rollout` in the config may have.",
)
@click.option("--step-seconds", type=float, help="How long a step takes at least.")
@click.option("--cycle-seconds", type=float, help="A full cycle of the traffic.")
@click.option("--max-requests", type=int, help="Requests that may be the candidate's in all.")
@click.option("--sticky", help="What keeps a user in one arm: user, conversation or header:NAME.")
@click.option("--reason", default="", help="Why, for the record.")
@click.option(
    "--force",
    is_flag=True,
    help="Start it although its goals cannot be shown, or no forecast can be made.",
)
@config_option
@json_option
def rollout_start(  # noqa: PLR0917 - one parameter for each option
    route: str,
    candidate: str | None,
    steps: str | None,
    settings_path: Path | None,
    reason: str,
    force: bool,
    config_path: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Start a rollout of CANDIDATE (provider/model) on ROUTE.

    What is not given is as in the route's `rollout` in the config, else the default.
    """
    document = Document.of({})
    if settings_path is not None:
        document = read_document(settings_path, error=InputError)
    settings = dict(document.data)
    settings |= {name: value for name, value in given.items() if value is not None}
    if candidate is not None:
        settings["candidate"] = candidate
    if steps is not None:
        settings["steps"] = _numbers(steps)
    settings |= {"reason": reason} if reason else {}
    settings |= {"force": True} if force else {}

    async def start(services: Services) -> Rollout:
        requested = services.rollouts.request_of(route, document._replace(data=settings))
        return await services.rollouts.start(route, requested, actor=actor())

    started: Rollout = with_services(load(config_path), start)
    if as_json:
        print_json(started)
        return
    out.print(
        f"{started.id}: {escape(started.candidate)} gets {_percent(started.weight)} of the "
        f"requests of {escape(started.route)}",
        highlight=False,
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--steps must be numbers such as 1,5,25,100 (got {text!r})") from None


@rollout.command("list")
@click.option("--route", help="Only of this route.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@config_option
@json_option
def rollout_list(route: str | None, limit: int, config_path: Path | None, *, as_json: bool) -> None:
    """List rollouts, newest first."""

    async def read(services: Services) -> list[Rollout]:
        return await services.rollouts.list(route, limit=limit)

    rollouts: list[Rollout] = with_services(load(config_path), read)
    if as_json:
        print_json(rollouts)
        return
    if not rollouts:
        out.print("No rollouts yet.")
    for row in rollouts:
        _print_title(row)
        print_text(f"  {_percent(row.weight)} since {local_time(row.created_at)}: {row.reason}")


@rollout.command("status")
@click.argument("route")
@click.option("--id", "rollout_id", help="An earlier rollout of the route.")
@config_option
@json_option
def rollout_status(
    route: str, rollout_id: str | None, config_path: Path | None, *, as_json: bool
) -> None:
    """Show a route's rollout: its steps, what each signal says, and every decision."""

    async def read(services: Services) -> RolloutReport:
        return await services.rollouts.report(route, rollout_id)

    report: RolloutReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)


# As the other groups call it.
rollout.add_command(rollout_status, "show")


def _command(action: Action, text: str) -> click.Command:
    @click.argument("route")
    @reason_argument()
    @click.option(
        "--revision",
        type=int,
        help="The rollout's when you looked at it, to be refused where it has changed since.",
    )
    @config_option
    @json_option
    def decide(
        route: str, reason: str, revision: int | None, config_path: Path | None, *, as_json: bool
    ) -> None:
        requested = RolloutAction(reason=reason, revision=revision)

        async def act(services: Services) -> Rollout:
            return await services.rollouts.act(route, action, requested, actor=actor())

        changed: Rollout = with_services(load(config_path), act)
        if as_json:
            print_json(changed)
        else:
            out.print(f"{changed.id} is {changed.state}", highlight=False)

    decide.__doc__ = text
    return click.command(action)(decide)


for _action, _text in (
    ("pause", "Keep the candidate's share of ROUTE as it is, for a REASON, until it is resumed."),
    ("resume", "Go on with the rollout of ROUTE where it was paused, for a REASON."),
    ("promote", "Give the candidate all requests of ROUTE, for a REASON, whatever was shown."),
    ("rollback", "Take all requests of ROUTE from the candidate, for a REASON."),
):
    rollout.add_command(_command(_action, _text))  # type: ignore[arg-type]  # they are Actions


# what `status` prints


def _state(row: Rollout) -> str:
    return f"[{_STATES[row.state]}]{row.state}[/]"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _print_title(row: Rollout) -> None:
    out.print(
        f"[bold]{row.id}[/] {escape(row.candidate)} on {escape(row.route)}: {_state(row)}",
        highlight=False,
        soft_wrap=True,
    )


def _print(report: RolloutReport) -> None:
    row = report.rollout
    _print_title(row)
    print_text(f"  {row.reason}")
    out.print(f"\n  {_steps(row)}\n", highlight=False, soft_wrap=True)
    for line in _signals(report):
        out.print(line, highlight=False, soft_wrap=True)
    out.print(f"  all requests: {_assigned(report)}", highlight=False, soft_wrap=True)
    for name, totals in (("as assigned", report.totals), ("per protocol", report.per_protocol)):
        parts = [
            f"{arm} {total.requests:,} requests of {total.units:,} users, {total.failures:,} failed"
            for arm, total in sorted(totals.items())
        ]
        out.print(f"  {name}: {parts[0] if parts else 'no requests yet'}", highlight=False)
        for part in parts[1:]:
            out.print(f"  {'':{len(name)}}  {part}", highlight=False)
    if report.judged:
        out.print(f"  for the judge: {_judged(report.judged)}", highlight=False)
    out.print()
    for decision in report.decisions:
        _print_decision(decision)


def _assigned(report: RolloutReport) -> str:
    """Return in a line how many requests each arm had, and how many of them are evidence."""
    counts: Counter[str] = Counter()
    for each in report.assigned:
        counts[each.arm] += each.requests
    row = report.rollout
    shares = {"candidate": row.sampled_candidate, "control": row.sampled_control}
    parts = [
        f"{arm} {number:,} ({_percent(shares[arm])} of its users sampled now)"
        for arm, number in sorted(counts.items())
    ]
    return ", ".join(parts) or "none yet"


def _judged(judged: list[JudgedRequests]) -> str:
    """Return in a line what became of the requests that a judge was to score, on all days."""
    counts: Counter[str] = Counter()
    for each in judged:
        counts[each.outcome] += each.requests
    parts = [f"{number:,} {name.replace('_', ' ')}" for name, number in sorted(counts.items())]
    return f"{', '.join(parts)}; {sum(each.usd for each in judged):.2f} USD"


def _steps(row: Rollout) -> str:
    """Return the steps as a line: those that were taken, the present one, and the rest."""
    steps = [step for step in settings_of(row).steps if step < 100]
    reached = len(steps) if row.state in ("promoting", "promoted") else row.step
    parts = []
    for n, step in enumerate(steps):
        if n < reached:
            parts.append(f"[green]✓ {step:g}%[/]")
        elif n == reached and row.is_active:
            parts.append(f"[bold cyan]● {step:g}%[/]")
        else:
            parts.append(f"[dim]○ {step:g}%[/]")
    end = "[green]✓ 100%[/]" if row.state == "promoted" else "[dim]○ 100%[/]"
    return " ── ".join([*parts, end])


def _signals(report: RolloutReport) -> Iterator[str]:
    """Return the lines of each signal: what was seen of both arms, then its evidence."""
    goal_limit = 1 / settings_of(report.rollout).alpha
    for reading in report.signals:
        arms = f"candidate {_arm(reading.candidate)}, control {_arm(reading.control)}"
        yield f"  {escape(f'{reading.signal}: {arms}{_difference(reading)}')}"
        for bar in _bars(reading, report.e_value_limit, goal_limit):
            yield f"    {bar}"


def _arm(reading: ArmReading) -> str:
    return "none" if reading.mean is None else f"{reading.mean:.4g} ({reading.requests:,})"


def _difference(reading: SignalReading) -> str:
    if reading.estimate is None:
        return ""
    is_ratio = reading.scale == "ratio"
    text = f", {reading.estimate:.4g} times" if is_ratio else f", {reading.estimate:+.4g}"
    if reading.low is None or reading.high is None:
        return text
    return f"{text} [{reading.low:.4g}, {reading.high:.4g}]"


def _bars(reading: SignalReading, limit: float, goal_limit: float) -> Iterator[str]:
    if reading.shown is not None:
        yield _evidence("green", "shown", reading.shown, goal_limit)
    yield _evidence("red", "worse", reading.harm, limit)


def _evidence(colour: str, of: str, e_value: float, limit: float) -> str:
    return f"[{colour}]{_bar(e_value, limit)}[/] {of} {e_value:.3g}/{limit:g}"


def _bar(e_value: float, limit: float) -> str:
    """Return evidence as a bar that is full where it decides; its scale is logarithmic."""
    share = 0.0 if e_value <= 1 else min(1.0, math.log(e_value) / math.log(limit))
    filled = round(_BAR * share)
    return "█" * filled + "░" * (_BAR - filled)


def _print_decision(row: RolloutDecision) -> None:
    """Print a decision: a line with what changed, and one with who decided it and why."""
    share = _percent(row.to_weight)
    if row.from_weight != row.to_weight:
        share = f"{_percent(row.from_weight)} → {share}"
    out.print(
        f"{row.revision:>3}  {local_time(row.at)}  {escape(row.rule):<10}  {share:<12}  "
        f"{escape(row.to_state)}",
        highlight=False,
        soft_wrap=True,
    )
    print_text(f"     {row.actor}: {row.reason}")
