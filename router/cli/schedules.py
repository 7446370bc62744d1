"""`evalrouter schedule`: runs that are executed at their times."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click
from rich.table import Column, Table

from evaluators.reports.junit import in_words
from providers.errors import ConflictError, EvalrouterError
from router.cli.commands import (
    Commands,
    actor,
    config_option,
    err,
    escape,
    json_option,
    out,
    print_json,
    print_table,
    print_text,
    reason_argument,
    with_services,
)
from router.cli.evals import execute
from router.config.loading import load
from router.evals.executor import RunProgress
from router.loop.schedule_results import ScheduledRun, ScheduledScore
from router.loop.schedules import (
    ScheduleAcceptance,
    ScheduleReport,
    ScheduleRequest,
    ScheduleRunRequest,
    ScheduleView,
)

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_BARS = "▁▂▃▄▅▆▇█"
_MISSING = "·"
_MARKS = {"passed": "✓", "failed": "✗", "none": " "}
_STATES = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "missed": "yellow",
    "skipped": "yellow",
}


@click.group(cls=Commands)
def schedule() -> None:
    """Look at runs that are executed at their times (`schedules:`), and run them now."""


@schedule.command("list")
@config_option
@json_option
def schedule_list(config_path: Path | None, *, as_json: bool) -> None:
    """List schedules, when each is due next, and what came of the last time.

    Times are in the time zone of each schedule.
    """

    async def read(services: Services) -> list[ScheduleView]:
        return await services.schedules.views()

    views: list[ScheduleView] = with_services(load(config_path), read)
    if as_json:
        print_json(views)
        return
    table = Table("schedule", "cron", "next", "last", "outcome")
    for view in views:
        last = view.last
        table.add_row(
            escape(view.name),
            escape(f"{view.cron} {view.timezone}"),
            _next(view),
            "" if last is None else _zoned(last.due, view.timezone),
            "" if last is None else _outcome(last),
        )
    print_table(table, empty="The config has no schedules.")


@schedule.command("show")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@config_option
@json_option
def schedule_show(name: str, limit: int, config_path: Path | None, *, as_json: bool) -> None:
    """Show the schedule NAME with its history: scores as a chart, gates, and what it cost."""

    async def read(services: Services) -> ScheduleReport:
        return await services.schedules.report(name, limit=limit)

    report: ScheduleReport = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)


@schedule.command("run")
@click.argument("name")
@reason_argument(required=False)
@config_option
@json_option
def schedule_run(name: str, reason: str, config_path: Path | None, *, as_json: bool) -> None:
    """Run the schedule NAME now, in this process; exit 1 unless it completes and passes.

    A server on the same database goes on with it where this process is stopped.
    """

    async def run(services: Services) -> ScheduledRun:
        request = ScheduleRunRequest(reason=reason)
        begun = await services.schedules.begin(name, request, actor=actor())
        try:
            return await _executed(services, begun)
        finally:
            await services.schedule_controller.close()

    try:
        ended: ScheduledRun = with_services(load(config_path), run)
    except KeyboardInterrupt:
        err.print("\nstopped; a server goes on with it", highlight=False)
        sys.exit(1)
    if as_json:
        print_json(ended)
    else:
        _print_ended(ended)
    if ended.state != "completed" or (ended.result and ended.result.gate == "failed"):
        sys.exit(1)


async def _executed(services: Services, begun: ScheduledRun) -> ScheduledRun:
    """Execute a run that was begun, and return it with what it showed."""
    if begun.state != "running" or not begun.run_id:
        return begun
    # It renews the claim meanwhile, and stores what the run showed.
    following = asyncio.create_task(services.schedules.follow(begun))
    try:
        run = await services.runs.find(begun.run_id)
        try:
            await execute(services, run)
        except ConflictError:
            # A server was quicker.
            await services.runs.follow(run.id, RunProgress(cells=run.cells))
        return await following
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, EvalrouterError):
            await following


@schedule.command("pause")
@click.argument("name")
@reason_argument()
@config_option
@json_option
def schedule_pause(name: str, reason: str, config_path: Path | None, *, as_json: bool) -> None:
    """Begin no run of the schedule NAME at its times, for a REASON, until it is resumed."""
    request = ScheduleRequest(reason=reason)
    _change(
        config_path,
        lambda services: services.schedules.pause(name, request, actor=actor()),
        f"{name} is paused",
        as_json=as_json,
    )


@schedule.command("resume")
@click.argument("name")
@reason_argument()
@config_option
@json_option
def schedule_resume(name: str, reason: str, config_path: Path | None, *, as_json: bool) -> None:
    """Execute the schedule NAME at its times again, for a REASON, from now on."""
    request = ScheduleRequest(reason=reason)
    _change(
        config_path,
        lambda services: services.schedules.resume(name, request, actor=actor()),
        f"{name} is executed at its times again",
        as_json=as_json,
    )


@schedule.command("accept")
@click.argument("name")
@reason_argument()
@click.option(
    "--run",
    "run_id",
    help="A run of the schedule. Default: the last that completed, if it passed its gates.",
)
@config_option
@json_option
def schedule_accept(
    name: str, reason: str, run_id: str | None, config_path: Path | None, *, as_json: bool
) -> None:
    """Compare the next runs of the schedule NAME with this one, for a REASON.

    A run that did not pass its gates is accepted only if --run names it.
    """
    request = ScheduleAcceptance(reason=reason, run=run_id)

    def text(view: ScheduleView) -> str:
        accepted = "" if view.accepted is None else view.accepted.run_id
        return (
            f"{accepted} is the last accepted run of {name}: gates that name `last` are about it "
            "from now on"
        )

    _change(
        config_path,
        lambda services: services.schedules.accept(name, request, actor=actor()),
        text,
        as_json=as_json,
    )


def _change(
    config_path: Path | None,
    change: Callable[[Services], Awaitable[ScheduleView]],
    text: str | Callable[[ScheduleView], str],
    *,
    as_json: bool,
) -> None:
    view: Any = with_services(load(config_path), change)
    if as_json:
        print_json(view)
    else:
        print_text(text if isinstance(text, str) else text(view))


# what `show` and `list` print


def _state(row: ScheduledRun) -> str:
    return f"[{_STATES[row.state]}]{row.state}[/]"


def _outcome(row: ScheduledRun) -> str:
    """Return the state, and whether the gates were passed where there are any."""
    outcome = "none" if row.result is None else row.result.gate
    colour = {"passed": "green", "failed": "red"}.get(outcome)
    gate = "" if colour is None else f", gate [{colour}]{outcome}[/]"
    return f"{_state(row)}{gate}"


def _zoned(seconds: float, timezone: str) -> str:
    """Return a time in the time zone of a schedule."""
    return f"{datetime.fromtimestamp(seconds, ZoneInfo(timezone)):%Y-%m-%d %H:%M}"


def _next(view: ScheduleView) -> str:
    if not view.enabled:
        return "not enabled"
    if view.paused is not None or view.next_due is None:
        return "paused"
    return _zoned(view.next_due, view.timezone)


def _print(report: ScheduleReport) -> None:
    view = report.schedule
    lines = [f"[bold]{escape(view.name)}[/]: {escape(view.cron)} {escape(view.timezone)}"]
    lines.append(f"  next: {_next(view)}")
    lines.append(f"  times are in the schedule's time zone, {escape(view.timezone)}")
    if view.paused is not None:
        who = f"{view.paused.actor}, {_zoned(view.paused.at, view.timezone)}: {view.paused.reason}"
        lines.append(f"  paused by {escape(who)}")
    if view.accepted is not None:
        accepted = view.accepted
        who = f"{accepted.actor}, {_zoned(accepted.at, view.timezone)}: {accepted.reason}"
        lines.append(f"  last accepted run: {escape(accepted.run_id)} (by {escape(who)})")
    lines += [f"  gate: {escape(gate)}" for gate in view.gates]
    if report.error:
        lines.append(f"  [red]its document cannot be read now:[/] {escape(report.error)}")
    for line in [*lines, *_chart(report.history)]:
        out.print(line, highlight=False, soft_wrap=True)
    # Half an id cannot be copied.
    run = Column("run", no_wrap=True)
    table = Table("due", "outcome", Column("cost", justify="right"), run, "note")
    for row in report.history:
        table.add_row(
            _zoned(row.due, view.timezone),
            _outcome(row),
            _cost(row),
            row.run_id,
            escape(_note(row)),
        )
    print_table(table, empty="It has not been due yet.")


def _cost(row: ScheduledRun) -> str:
    if row.result is None:
        return ""
    unknown = " and unknown" if row.result.cost_unknown else ""
    return f"${row.result.cost_usd:.4f}{unknown}"


def _note(row: ScheduledRun) -> str:
    """Return what there is to say of a time: what went wrong, and why a person wanted it."""
    error = "" if row.result is None else row.result.error
    failed: dict[str, list[str]] = {}
    for gate in () if row.result is None else row.result.gates:
        if not gate.passed:
            failed.setdefault(gate.gate, []).append(gate.route)
    gates = [f"{gate} ({', '.join(routes)})" for gate, routes in failed.items()]
    return "; ".join(text for text in (error, *gates, row.reason) if text)


def _chart(history: Sequence[ScheduledRun]) -> Iterator[str]:
    """Return a line for each route and output, oldest first, and one for the gates."""
    ended = [row for row in reversed(history) if row.result is not None]
    lines: dict[tuple[str, str], list[ScheduledScore | None]] = {}
    for n, row in enumerate(ended):
        for score in () if row.result is None else row.result.scores:
            points = lines.setdefault((score.route, score.output), [None] * len(ended))
            points[n] = score
    if not lines:
        return
    yield ""
    width = max(len(f"{route} {output}") for route, output in lines)
    for (route, output), points in lines.items():
        known = [point for point in points if point is not None and point.estimate is not None]
        last = known[-1] if known else None
        name = f"{route} {output}".ljust(width)
        yield f"  {escape(name)}  {_bars(points)}  {'' if last is None else _score(last)}"
    marks = "".join(_MARKS[row.result.gate] for row in ended if row.result is not None)
    if marks.strip():
        yield f"  {'gates'.ljust(width)}  {marks}"
    yield ""


def _bars(points: Sequence[ScheduledScore | None]) -> str:
    """Return scores as a line of bars between the lowest and the highest of them."""
    values = [None if point is None else point.estimate for point in points]
    known = [value for value in values if value is not None]
    if not known:
        return _MISSING * len(values)
    low, high = min(known), max(known)
    top = len(_BARS) - 1
    return "".join(
        _MISSING
        if value is None
        else _BARS[round(top * (value - low) / (high - low)) if high > low else top // 2]
        for value in values
    )


def _score(score: ScheduledScore) -> str:
    text = f"{score.estimate:.4g}"
    if score.low is not None and score.high is not None:
        text += f" \\[{score.low:.4g}, {score.high:.4g}]"
    if score.change is not None:
        text += f"  {score.change:+.4g} since the last accepted run"
    return text


def _print_ended(row: ScheduledRun) -> None:
    out.print(
        f"{escape(row.schedule)}: {row.run_id or 'no run'} {_state(row)}",
        highlight=False,
    )
    if row.result is None:
        return
    if row.result.error:
        print_text(f"  {row.result.error}")
    for score in row.result.scores:
        name = f"{score.route} {score.output}"
        if score.estimate is not None:
            out.print(f"  {escape(name)}  {_score(score)}", highlight=False, soft_wrap=True)
    for gate in row.result.gates:
        word = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        text = f"gate {escape(gate.gate)}: {escape(gate.route)} {word} ({escape(in_words(gate))})"
        out.print(text, highlight=False, soft_wrap=True)
    for text in row.result.undecided:
        out.print(f"gate {escape(text)}: there was no accepted run yet", highlight=False)
