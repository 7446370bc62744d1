"""`evalrouter eval`: run evaluations and look at them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from evaluators.data.sampling import MAX_ROWS
from evaluators.reports.junit import in_words
from evaluators.reports.slice_table import to_slice_table
from evaluators.reports.slices import SliceReport
from evaluators.reports.table import to_table
from providers.errors import EvalrouterError
from router.cli.commands import (
    CommandsOnDemand,
    config_option,
    counted,
    err,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    widen,
    with_services,
)
from router.cli.completion import complete_runs
from router.cli.estimates import print_estimate
from router.cli.judges import embedding_line, judge_line, machine_line
from router.cli.junit import junit_file, junit_option, write_junit
from router.cli.run_options import filter_options, read_run, run_options
from router.config.loading import load
from router.config.schema import Config
from router.evals.estimate import Estimate
from router.evals.executor import RunProgress
from router.evals.results import Outcome
from router.gateway.key_administration import find_key
from router.store.run_logs import LogLine
from router.store.runs import SORT_FIELDS, STOPPED, Run, RunFilter, RunOrder

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

# Seconds between two looks at a run that is followed.
POLL_S = 0.5


@click.group(
    "eval",
    cls=CommandsOnDemand,
    on_demand={
        "compare": (
            "router.cli.compare:eval_compare",
            "Compare two runs, or the routes of one, sample by sample.",
        ),
        "export": (
            "router.cli.export:eval_export",
            "Write a run's rows and judgements with a manifest into a folder of its name.",
        ),
        "note": (
            "router.cli.sample_notes:eval_note",
            "Write TEXT about the sample of RUN at POSITION, in place of what you wrote before.",
        ),
        "notes": (
            "router.cli.sample_notes:eval_notes",
            "List people's labels and notes on the sample of RUN at POSITION, from 1.",
        ),
        "submit": (
            "router.cli.submit:eval_submit",
            "Execute a run on a Ray cluster, as a job of its Jobs API, and follow its log.",
        ),
        "tasks": ("router.cli.tasks:tasks", "List the tasks that fill in a run document."),
        "track": (
            "router.cli.tracking:eval_track",
            "Send a run that has ended to MLflow, with its numbers and files.",
        ),
    },
)
def evaluate() -> None:
    """Run evaluations and look at them."""


@evaluate.command("run")
@click.argument("document", type=click.Path(path_type=Path), required=False)
@run_options
@junit_option
@click.option("--dry-run", is_flag=True, help="Show what the run would take; send nothing.")
@click.option("--key", help="The id or name of the client's key that the run belongs to.")
@config_option
@json_option
def eval_run(
    document: Path | None,
    dry_run: bool,
    key: str | None,
    config_path: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Execute a run document, or a task on a dataset; paths in a document start beside it."""
    source = read_run(document, given)
    if dry_run:

        async def estimate(services: Services) -> Estimate:
            return await services.runs.estimate(source.document, base=source.base)

        estimated = with_services(load(config_path), estimate)
        (print_json if as_json else print_estimate)(estimated)
        return

    async def create(services: Services) -> Run:
        key_id = "" if key is None else (await find_key(services.store, key)).id
        return await services.runs.create(source.document, base=source.base, key_id=key_id)

    _execute(load(config_path), create, as_json=as_json)


@evaluate.command("resume")
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--retry-failed", is_flag=True, help="Repeat requests that failed at their target.")
@click.option("--cost-usd", type=float, help="Change the run's limit of US dollars.")
@click.option("--tokens", type=int, help="Change the run's limit of tokens.")
@click.option("--seconds", type=float, help="Change the run's limit of seconds, in all attempts.")
@junit_option
@config_option
@json_option
def eval_resume(  # noqa: PLR0917 - one parameter for each option
    run_id: str,
    retry_failed: bool,
    cost_usd: float | None,
    tokens: int | None,
    seconds: float | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Continue a run that was stopped; no finished request is sent again."""
    limits = {"cost_usd": cost_usd, "tokens": tokens, "seconds": seconds}
    changed = {name: limit for name, limit in limits.items() if limit is not None}

    async def resume(services: Services) -> Run:
        run = await services.runs.find(run_id)
        if run.state == "completed" and not retry_failed and not changed:
            err.print(f"{run.id} is complete: no request is left to send.", highlight=False)
        return await services.runs.resume(
            run_id, runner="command", retry_failed=retry_failed, limits=changed
        )

    _execute(load(config_path), resume, as_json=as_json)


@evaluate.command("rescore")
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--metrics", default="", help="Metrics' names, with commas between. Default: all.")
@junit_option
@config_option
@json_option
def eval_rescore(run_id: str, metrics: str, config_path: Path | None, as_json: bool) -> None:
    """Score a run's answers with more metrics; no request is sent.

    A metric that the run has already is scored anew; the others keep their scores.
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]

    async def rescore(services: Services) -> Run:
        return await services.runs.rescore(run_id, names, base=Path(), runner="command")

    _execute(load(config_path), rescore, as_json=as_json)


@evaluate.command("extend")
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), help="The number of samples in all.")
@click.option(
    "--repeats", type=click.IntRange(1, 1000), help="The number of answers to each sample in all."
)
@junit_option
@config_option
@json_option
def eval_extend(
    run_id: str, limit: int | None, repeats: int | None, config_path: Path | None, as_json: bool
) -> None:
    """Continue a run with more samples of its dataset, or with more repeats."""

    async def extend(services: Services) -> Run:
        return await services.runs.extend(run_id, runner="command", limit=limit, repeats=repeats)

    _execute(load(config_path), extend, as_json=as_json)


@evaluate.command("watch")
@click.argument("run_id", shell_complete=complete_runs)
@junit_option
@config_option
@json_option
def eval_watch(run_id: str, config_path: Path | None, as_json: bool) -> None:
    """Follow a run of a server or another process to its end, then show its report."""

    async def follow(services: Services) -> Outcome:
        run = await services.runs.find(run_id)
        live = RunProgress(cells=run.cells)
        task = asyncio.create_task(services.runs.follow(run.id, live))
        try:
            await _watch(run, live, task)
            await task
        finally:
            task.cancel()
        return await services.runs.outcome(run.id)

    outcome: Outcome = with_services(load(config_path), follow)
    _print_outcome(outcome, as_json=as_json)
    if not outcome.passed:
        sys.exit(1)


@evaluate.command("logs")
@click.argument("run_id")
@click.option("--follow", is_flag=True, help="Go on as lines are written, until the run stops.")
@config_option
@json_option
def eval_logs(run_id: str, follow: bool, config_path: Path | None, as_json: bool) -> None:
    """Show what happened to a run: states, retries, errors by target, and metrics' output.

    With `--json`, each line is an object on a line of its own.
    """

    async def read(services: Services) -> None:
        run = await services.runs.find(run_id)
        after, stopped = 0, False
        while True:
            for line in await services.store.run_log(run.id, limit=1000, after=after):
                _print_log_line(services, line, as_json=as_json)
                after = line.number
            if stopped or not follow:
                if after >= await services.store.last_logged(run.id):
                    return
                continue
            await asyncio.sleep(POLL_S)
            # Before the lines: those that were written until it stopped are then read as well.
            stopped = (await services.runs.find(run.id)).state in STOPPED

    with_services(load(config_path), read)


def _print_log_line(services: Services, line: LogLine, *, as_json: bool) -> None:
    line = msgspec.structs.replace(line, text=services.masks.mask_text(line.text))
    if as_json:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        return
    times = f" ({line.times} times)" if line.times > 1 else ""
    source = f"{line.source}: " if line.source else ""
    # A line is a line, and no escape sequence of a metric's output reaches the terminal.
    text = "".join(
        mark if mark.isprintable() else repr(mark)[1:-1] for mark in f"{source}{line.text}"
    )
    at = f"{local_time(line.at)}:{int(line.at) % 60:02d}"
    sys.stdout.write(f"{at} {line.kind:6} {text}{times}\n")
    sys.stdout.flush()


@evaluate.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@filter_options
@click.option("--dataset", help="Only of this registered version: NAME@HASH, or NAME's newest.")
@click.option(
    "--sort",
    default="-created",
    show_default=True,
    help=f"{', '.join(SORT_FIELDS)}; with '-' before it for descending.",
)
@config_option
@json_option
def eval_list(
    limit: int,
    dataset: str | None,
    sort: str,
    config_path: Path | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List runs, newest first, or as --sort says."""
    order = RunOrder.parse(sort)

    async def read(services: Services) -> list[Run]:
        digest = None if dataset is None else (await services.datasets.find(dataset)).hash
        run_filter = RunFilter(**filters, dataset_hash=digest)
        return await services.store.runs(run_filter, limit=limit, order=order)

    runs = with_services(load(config_path), read)
    if as_json:
        print_json(runs)
        return
    names = ("run", "name", "state", "created", "ended", "cost", "dataset", "samples", "routes")
    table = Table(*(Column(name, no_wrap=True) for name in names), box=None, pad_edge=False)
    for run in runs:
        cells: tuple[str, ...] = (run.id, run.name, run.state, local_time(run.created_at))
        cost = "" if run.cost_usd is None else f"${run.cost_usd:.4f}"
        cells += (local_time(run.finished_at), cost, run.dataset, str(run.dataset_rows))
        table.add_row(*map(escape, (*cells, ", ".join(run.document.get("routes", ())))))
    if not runs:
        out.print("No runs yet.")
        return
    # Nothing is cut short: half an id cannot be copied, and half a time says nothing.
    widen(table)
    out.print(table, soft_wrap=True)


@evaluate.command("show")
@click.argument("run_id", shell_complete=complete_runs)
@click.option(
    "--by", metavar="COLUMN", help="Show a score by the values of a column of the dataset instead."
)
@click.option("--output", help="With --by: the score. Default: the one that decides, or the first.")
@junit_option
@config_option
@json_option
def eval_show(
    run_id: str, by: str | None, output: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Show a run's report."""
    if by is not None:
        if junit_file() is not None:
            raise click.UsageError("--junit has the run's gates, which --by does not show")
        _show_slices(run_id, by, output or "", load(config_path), as_json=as_json)
        return
    if output is not None:
        raise click.UsageError("--output names the score that --by COLUMN shows")

    async def read(services: Services) -> Outcome:
        return await services.runs.outcome(run_id)

    _print_outcome(with_services(load(config_path), read), as_json=as_json)


def _show_slices(run_id: str, column: str, output: str, config: Config, *, as_json: bool) -> None:
    async def read(services: Services) -> SliceReport:
        run = await services.runs.find(run_id)
        return await services.runs.slices.report(run, column, output)

    report = with_services(config, read)
    if as_json:
        print_json(report)
    else:
        out.print(to_slice_table(report, width=out.width))


@evaluate.command("cancel")
@click.argument("run_id", shell_complete=complete_runs)
@config_option
def eval_cancel(run_id: str, config_path: Path | None) -> None:
    """Stop a run at once, whichever process executes it; it can be resumed."""

    async def cancel(services: Services) -> Run:
        return await services.jobs.cancel(run_id)

    _print_stopped(with_services(load(config_path), cancel))


@evaluate.command("pause")
@click.argument("run_id", shell_complete=complete_runs)
@config_option
def eval_pause(run_id: str, config_path: Path | None) -> None:
    """Stop a run after the requests in flight, whichever process executes it."""

    async def pause(services: Services) -> Run:
        return await services.jobs.pause(run_id)

    _print_stopped(with_services(load(config_path), pause))


@evaluate.command("delete")
@click.argument("run_id", shell_complete=complete_runs)
@config_option
def eval_delete(run_id: str, config_path: Path | None) -> None:
    """Delete a run with its answers and scores. A run under way has to be cancelled first."""

    async def delete(services: Services) -> str:
        return await services.runs.delete(run_id)

    out.print(f"{with_services(load(config_path), delete)} deleted", highlight=False)


def _print_stopped(run: Run) -> None:
    state = run.state if run.state in STOPPED else f"{run.state}, about to be {run.wish}"
    out.print(f"{run.id} {state}", highlight=False)


def _execute(
    config: Config,
    begin: Callable[[Services], Awaitable[Run]],
    *,
    as_json: bool,
) -> None:
    """Execute a run in this process, with progress on stderr; exit 1 unless it passed."""
    started: list[str] = []

    async def execute_run(services: Services) -> Outcome:
        run = await begin(services)
        started.append(run.id)
        await execute(services, run)
        return await services.runs.outcome(run.id)

    try:
        outcome: Outcome = with_services(config, execute_run)
    except KeyboardInterrupt:
        for run_id in started:
            err.print(f"\nstopped; continue with: evalrouter eval resume {run_id}", highlight=False)
        sys.exit(1)
    except Exception:
        for run_id in started:
            err.print(f"continue with: evalrouter eval resume {run_id}", highlight=False)
        raise
    _print_outcome(outcome, as_json=as_json)
    if not outcome.passed:
        sys.exit(1)


async def execute(services: Services, run: Run) -> Run:
    """Execute a run with progress on stderr; when interrupted, finish the requests in flight."""
    live = RunProgress(cells=run.cells)
    task = asyncio.create_task(services.jobs.execute(run.id, live=live))
    try:
        await _watch(run, live, task)
        ended = await task
        await services.tracker.finish()
        return ended
    except asyncio.CancelledError:
        err.print("\nfinishing what is in flight, for up to 5 s", highlight=False)
        await services.jobs.close()
        raise
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, EvalrouterError):
            await task


async def _watch(run: Run, live: RunProgress, task: asyncio.Task[Run]) -> None:
    if not err.is_terminal:
        await _watch_plainly(run, live, task)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as progress:
        bar = progress.add_task(run.id, total=live.cells)
        while not task.done():
            await asyncio.wait({task}, timeout=0.1)
            failed = f", {live.failed} failed" if live.failed else ""
            progress.update(
                bar, completed=live.done, total=live.cells, description=f"{run.id}{failed}"
            )


async def _watch_plainly(run: Run, live: RunProgress, task: asyncio.Task[Run]) -> None:
    """Print a line at the start, then one for each tenth of the run."""
    err.print(f"{run.id}: {counted(live.cells, 'answer')}", highlight=False)
    printed = 0
    while not task.done():
        await asyncio.wait({task}, timeout=0.1)
        tenth = 10 * live.done // max(live.cells, 1)
        if tenth > printed:
            printed = tenth
            failed = f", {live.failed} failed" if live.failed else ""
            err.print(f"{run.id}: {live.done}/{live.cells}{failed}", highlight=False)


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    write_junit(outcome)
    if as_json:
        print_json(outcome)
        return
    run = outcome.run
    out.print(
        f"{run.name} ({run.id}, {run.state}): {run.dataset}, "
        f"{counted(run.dataset_rows, 'sample')}, "
        f"sha256 {run.dataset_hash[:12]}",
        highlight=False,
    )
    if run.error or run.stopped:
        out.print(f"  {escape(run.error or run.stopped)}", highlight=False)
    if run.interrupted:
        out.print(
            f"  {run.interrupted} requests were in flight when the run was interrupted; they were "
            "sent again.",
            highlight=False,
        )
    out.print(to_table(outcome.report, width=out.width))
    for judge in outcome.judges:
        out.print(judge_line(judge), highlight=False)
    for use in outcome.embeddings:
        out.print(embedding_line(use), highlight=False)
    for machine in outcome.hardware:
        out.print(machine_line(machine), highlight=False)
    for gate in outcome.gates:
        word = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        out.print(
            f"gate {escape(gate.gate)}: {gate.route} {word} ({escape(in_words(gate))})",
            highlight=False,
        )
