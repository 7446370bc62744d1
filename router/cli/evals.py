"""`evalrouter eval`: run evaluations and look at them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from evaluators.document import RunDocument
from evaluators.table import to_table
from providers.errors import EvalrouterError, RunDocumentError
from router.cli.border import (
    Commands,
    config_option,
    err,
    escape,
    json_option,
    out,
    print_json,
    with_services,
)
from router.config import Config, load
from router.documents import convert, parse_yaml
from router.outcome import Outcome
from router.replay import Live
from router.runs import Runs
from router.services import Services
from router.store.base import Run


@click.group("eval", cls=Commands)
def evaluate() -> None:
    """Run evaluations and look at them."""


@evaluate.command("run")
@click.argument("document", type=click.Path(path_type=Path))
@config_option
@json_option
def eval_run(document: Path, config_path: Path | None, as_json: bool) -> None:
    """Carry out a run document; dataset paths in it are relative to it."""
    parsed = read_document(document)

    async def create(runs: Runs) -> Run:
        return await runs.create(parsed, base=document.parent)

    _carry_out(load(config_path), create, as_json=as_json)


@evaluate.command("resume")
@click.argument("run_id")
@click.option("--retry-failed", is_flag=True, help="Ask again where the target failed.")
@config_option
@json_option
def eval_resume(run_id: str, retry_failed: bool, config_path: Path | None, as_json: bool) -> None:
    """Go on with a run that was stopped; no finished request is sent again."""

    async def find(runs: Runs) -> Run:
        return await runs.find(run_id)

    _carry_out(load(config_path), find, as_json=as_json, retry_failed=retry_failed)


@evaluate.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@config_option
@json_option
def eval_list(limit: int, config_path: Path | None, as_json: bool) -> None:
    """List runs, newest first."""

    async def read(services: Services) -> list[Run]:
        return await services.store.runs(limit=limit)

    runs = with_services(load(config_path), read)
    if as_json:
        print_json(runs)
        return
    # An id that is cut off cannot be copied.
    table = Table(Column("run", no_wrap=True), "name", "state", "dataset", "samples", "routes")
    for run in runs:
        routes = ", ".join(run.document["routes"])
        table.add_row(run.id, run.name, run.state, run.dataset, str(run.dataset_rows), routes)
    out.print(table if runs else "No runs yet.")


@evaluate.command("show")
@click.argument("run_id")
@config_option
@json_option
def eval_show(run_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show a run's report."""

    async def read(services: Services) -> Outcome:
        return await services.runs.outcome(run_id)

    _print_outcome(with_services(load(config_path), read), as_json=as_json)


@evaluate.command("cancel")
@click.argument("run_id")
@config_option
def eval_cancel(run_id: str, config_path: Path | None) -> None:
    """Stop a run that no process carries out any more; a server's own are cancelled over HTTP."""

    async def cancel(services: Services) -> Run:
        return await services.runs.cancel(run_id)

    out.print(f"{with_services(load(config_path), cancel).id} cancelled", highlight=False)


def read_document(path: Path) -> RunDocument:
    """A run document from a file.

    Raises:
        RunDocumentError: it cannot be read; names file, line and path in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunDocumentError(f"{path}: no such file") from None
    except UnicodeDecodeError as problem:
        raise RunDocumentError(f"{path}: not UTF-8 at byte {problem.start}") from None
    except OSError as problem:
        raise RunDocumentError(f"{path}: {problem.strerror}") from None
    document = parse_yaml(text, str(path), error=RunDocumentError)
    if not isinstance(document.data, dict):
        raise RunDocumentError(f"{path}: a run document is a mapping with dataset, routes, metrics")
    return convert(document, RunDocument, error=RunDocumentError)


def _carry_out(
    config: Config,
    begin: Callable[[Runs], Awaitable[Run]],
    *,
    as_json: bool,
    retry_failed: bool = False,
) -> None:
    """Carry a run out in this process, with progress on stderr; exit 1 unless it passed."""
    started: list[str] = []

    async def work(services: Services) -> Outcome:
        run = await begin(services.runs)
        started.append(run.id)
        live = Live(cells=run.cells)
        task = asyncio.create_task(
            services.runs.carry_out(run.id, live=live, retry_failed=retry_failed)
        )
        try:
            await _watch(run, live, task)
            await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, EvalrouterError):
                await task
        return await services.runs.outcome(run.id)

    try:
        outcome: Outcome = with_services(config, work)
    except KeyboardInterrupt:
        for run_id in started:
            err.print(f"\nstopped; go on with: evalrouter eval resume {run_id}", highlight=False)
        sys.exit(1)
    except Exception:
        for run_id in started:
            err.print(f"go on with: evalrouter eval resume {run_id}", highlight=False)
        raise
    _print_outcome(outcome, as_json=as_json)
    if not outcome.passed:
        sys.exit(1)


async def _watch(run: Run, live: Live, task: asyncio.Task[Run]) -> None:
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


async def _watch_plainly(run: Run, live: Live, task: asyncio.Task[Run]) -> None:
    """One line at the start, then one per tenth."""
    err.print(f"{run.id}: {live.cells} requests", highlight=False)
    told = 0
    while not task.done():
        await asyncio.wait({task}, timeout=0.1)
        tenth = 10 * live.done // max(live.cells, 1)
        if tenth > told:
            told = tenth
            failed = f", {live.failed} failed" if live.failed else ""
            err.print(f"{run.id}: {live.done}/{live.cells}{failed}", highlight=False)


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    run = outcome.run
    out.print(
        f"{run.name} ({run.id}, {run.state}): {run.dataset}, {run.dataset_rows} samples, "
        f"sha256 {run.dataset_hash[:12]}",
        highlight=False,
    )
    if run.error:
        out.print(f"  {escape(run.error)}", highlight=False)
    if run.interrupted:
        out.print(
            f"  {run.interrupted} requests were in flight when the run was interrupted; they were "
            "sent again.",
            highlight=False,
        )
    out.print(to_table(outcome.report, width=out.width))
    for gate in outcome.gates:
        word = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        found = "no score" if gate.found is None else f"{gate.found:.4g}"
        bound = "no score" if gate.bound is None else f"{gate.bound:.4g}"
        out.print(
            f"gate {gate.gate}: {gate.route} {word} ({found} against {bound})", highlight=False
        )
