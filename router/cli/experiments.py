"""`evalrouter experiment`: runs under one name, with their results side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from evaluators.reports.scores import decimals
from evaluators.stats.comparison import Verdict
from providers.errors import RequestError
from router.cli.commands import (
    Commands,
    config_option,
    counted,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    with_services,
    with_store,
)
from router.config.documents import convert_data
from router.config.loading import load
from router.evals.experiments import (
    ExperimentChange,
    Leaderboard,
    LeaderboardEntry,
    LeaderboardTable,
)
from router.store.experiments import Experiment

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services
    from router.store.protocol import Store

_MARKS: dict[Verdict, str] = {
    "better": "[green]▲[/]",
    "worse": "[red]▼[/]",
    "equivalent": "[cyan]≈[/]",
    "no difference shown": "",
}


@click.group(cls=Commands)
def experiment() -> None:
    """Look at several runs under one name; a run joins with `eval run --experiment NAME`."""


@experiment.command("list")
@click.option("--tag", help="Only with this tag.")
@config_option
@json_option
def experiment_list(tag: str | None, config_path: Path | None, as_json: bool) -> None:
    """List experiments, the one with the newest run first."""

    async def read(store: Store) -> list[Experiment]:
        return await store.experiments(tag=tag)

    experiments = with_store(load(config_path), read)
    if as_json:
        print_json(experiments)
        return
    table = Table(Column("experiment", no_wrap=True), "runs", "states", "last run", "tags", "notes")
    for row in experiments:
        table.add_row(
            escape(row.name),
            str(row.runs),
            ", ".join(f"{count} {state}" for state, count in row.states.items()),
            local_time(row.last_run_at),
            escape(", ".join(row.tags)),
            escape(row.notes),
        )
    print_table(table, empty="No experiments yet.")


@experiment.command("show")
@click.argument("name")
@config_option
@json_option
def experiment_show(name: str, config_path: Path | None, as_json: bool) -> None:
    """Show an experiment's leaderboard."""

    async def read(services: Services) -> Leaderboard:
        return await services.experiments.leaderboard(name)

    board: Leaderboard = with_services(load(config_path), read)
    if as_json:
        print_json(board)
    else:
        _print(board)


@experiment.command("note")
@click.argument("name")
@click.argument("text", required=False)
@config_option
def experiment_note(name: str, text: str | None, config_path: Path | None) -> None:
    """Set an experiment's notes to TEXT, or without it to the standard input."""
    notes = sys.stdin.read().strip() if text is None else text
    _change(name, {"notes": notes}, config_path)
    out.print(f"{escape(name)} has these notes now", highlight=False)


@experiment.command("tag")
@click.argument("name")
@click.argument("tags", nargs=-1)
@click.option("--remove", multiple=True, help="A tag to remove. Repeatable.")
@config_option
def experiment_tag(
    name: str, tags: tuple[str, ...], remove: tuple[str, ...], config_path: Path | None
) -> None:
    """Add TAGS to an experiment."""

    async def read(services: Services) -> Experiment:
        return await services.experiments.find(name)

    before = with_services(load(config_path), read).tags
    remaining = [tag for tag in dict.fromkeys((*before, *tags)) if tag not in remove]
    after = _change(name, {"tags": remaining}, config_path)
    out.print(f"{escape(name)}: {escape(', '.join(after.tags)) or 'no tags'}", highlight=False)


@experiment.command("delete")
@click.argument("name")
@click.option("--runs", is_flag=True, help="Delete its runs as well.")
@config_option
def experiment_delete(name: str, runs: bool, config_path: Path | None) -> None:
    """Delete an experiment; its runs stay unless --runs is given."""

    async def delete(services: Services) -> int:
        return await services.experiments.delete(name, runs=runs)

    deleted: int = with_services(load(config_path), delete)
    out.print(
        f"{escape(name)} deleted, {'with ' + counted(deleted, 'run') if runs else 'its runs stay'}",
        highlight=False,
    )


def _change(name: str, data: dict[str, object], config_path: Path | None) -> Experiment:
    change = convert_data(data, ExperimentChange, error=RequestError)

    async def apply(services: Services) -> Experiment:
        return await services.experiments.change(name, change)

    changed: Experiment = with_services(load(config_path), apply)
    return changed


def _print(board: Leaderboard) -> None:
    shown = board.experiment
    tags = f" ({', '.join(shown.tags)})" if shown.tags else ""
    out.print(
        f"[bold]{escape(shown.name)}[/]{escape(tags)}: {counted(shown.runs, 'run')}",
        highlight=False,
    )
    if shown.notes:
        out.print(escape(shown.notes), highlight=False)
    runs = {entry.run_id: entry.run for table in board.boards for entry in table.entries}
    # Ids sort by age.
    numbers = {run_id: f"#{n}" for n, run_id in enumerate(sorted(runs), 1)}
    for run_id, number in numbers.items():
        out.print(f"  {number} {run_id} {escape(runs[run_id])}", highlight=False)
    before: tuple[str, str] | None = None
    for table in board.boards:
        samples = f"{table.dataset}, {table.samples:,} samples, sha256 {table.dataset_hash[:12]}"
        if (samples, table.apart) != before:
            out.print(f"\n[bold]{escape(samples)}[/]", highlight=False)
            if table.apart:
                out.print(f"set apart: {escape(table.apart)}", highlight=False)
            before = samples, table.apart
        out.print(_table(table, numbers))
    if any(entry.verdict for table in board.boards for entry in table.entries):
        out.print("▲ better, ▼ worse than its run's baseline, ≈ equivalent to it")
    if board.left_out:
        out.print("\n[bold]In no table[/]", highlight=False)
    for run in board.left_out:
        out.print(f"  {escape(f'{run.run} ({run.run_id}): {run.reason}')}", highlight=False)
    out.print()
    for note in board.notes:
        out.print(f"!  {escape(note)}", highlight=False)


def _table(board: LeaderboardTable, numbers: Mapping[str, str]) -> Table:
    arrow = {True: " ↑", False: " ↓", None: ""}[board.output.higher_is_better]
    table = Table(
        Column("", justify="right"),
        Column("run", no_wrap=True),
        Column("route", overflow="fold"),
        Column(f"{board.output.name}{arrow}", no_wrap=True),
        Column("n", justify="right", no_wrap=True),
        Column("difference", no_wrap=True),
        box=None,
    )
    for entry in board.entries:
        complete = "" if entry.coverage >= 1 else f" ({entry.coverage:.0%})"
        table.add_row(
            "" if entry.rank is None else str(entry.rank),
            numbers[entry.run_id],
            escape(entry.route),
            _interval(board, entry.estimate, entry.low, entry.high),
            f"{entry.n:,}{complete}",
            _against(board, entry),
        )
    return table


def _interval(
    board: LeaderboardTable, value: float, low: float | None, high: float | None, *, sign: str = ""
) -> str:
    form = f"{sign},.{decimals(board.output, value)}f"
    if low is None or high is None:
        return f"{value:{form}}"
    return escape(f"{value:{form}} [{low:{form}}, {high:{form}}]")


def _against(board: LeaderboardTable, entry: LeaderboardEntry) -> str:
    if entry.difference is None:
        return ""
    low, high = entry.difference_low, entry.difference_high
    interval = _interval(board, entry.difference, low, high, sign="+")
    return interval if entry.verdict is None else f"{interval} {_MARKS[entry.verdict]}".rstrip()
