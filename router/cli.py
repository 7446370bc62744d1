"""The command line. Exit codes: 0 done, 1 a gate or a run failed, 2 bad usage or config."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from evaluators import language_data
from evaluators.document import RunDocument
from evaluators.table import to_table
from providers.conformance import Report, Result
from providers.errors import ConfigError, EvalrouterError, InputError, RunDocumentError
from router.config import Config, load, source_of
from router.documents import convert, parse_yaml
from router.examine import examine_provider
from router.keys import PREFIX, ListedKey, create, expiry, listed
from router.runs import Live, Outcome, Runs
from router.services import Services
from router.store.base import BudgetPeriod, KeyRow, Run

_encode = msgspec.json.Encoder().encode

out = Console()
err = Console(stderr=True)


class Commands(click.Group):
    """A group whose errors are one line on stderr, and whose typos are answered."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected failure ends with its exit code, not with a traceback."""
        try:
            return super().invoke(ctx)
        except EvalrouterError as error:
            err.print(f"[bold red]error:[/] {_escape(error.message)}", soft_wrap=True)
            ctx.exit(2 if isinstance(error, InputError) else 1)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=None,
    help="The config file. Default: evalrouter.yaml if there is one, else the embedded default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evalrouter")
def main() -> None:
    """An OpenAI-compatible LLM router that weighs what it routes."""


@main.command()
@config_option
@click.option("--host", default=None, help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Default: 4000.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes."
)
def serve(config_path: Path | None, host: str | None, port: int | None, workers: int) -> None:
    """Start the server."""
    from router.server import Setup, listen, serve  # noqa: PLC0415  # Litestar takes long to import

    config = load(config_path)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    server = msgspec.structs.replace(config.server, **changes)
    config = msgspec.structs.replace(config, server=server)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with listen(config.server.host, config.server.port) as sock:
        bound_host, bound_port = sock.getsockname()[:2]
        refuse_open_door(config, bound_host)
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        err.print(f"evalrouter on http://{shown}:{bound_port} (Ctrl-C stops)", highlight=False)
        if not serve(Setup(config, source_of(config_path)), sock, workers):
            sys.exit(1)


def refuse_open_door(config: Config, address: str) -> None:
    """Others than this machine's users must not spend its provider keys unasked.

    Raises:
        ConfigError: `address` is not this machine's own, no key exists and none is required.
    """
    if config.server.allow_anonymous or config.server.require_keys:
        return
    if ip_address(address.partition("%")[0]).is_loopback:
        return

    async def any_key(services: Services) -> bool:
        return bool((await services.store.keys()).by_hash)

    if not _with_services(config, any_key):
        raise ConfigError(
            f"anybody who reaches {address} could use this server, because no key exists: make one "
            "with 'evalrouter key create NAME', or set server.allow_anonymous: true in the config"
        )


@main.command()
def demo() -> None:
    """Route, evaluate and compare, offline, in under a minute."""
    from router.demo.show import show  # noqa: PLC0415  # Litestar takes a while to import

    show(out)


@main.group(cls=Commands)
def config() -> None:
    """Work with config files."""


@config.command("check")
@click.argument("path", type=click.Path(path_type=Path))
def config_check(path: Path) -> None:
    """Check a config file, and say what it defines."""
    found = load(path)
    out.print(f"{path}: good. Providers: {', '.join(found.providers)}.", highlight=False)
    for name, route in found.routes.items():
        arms = ", ".join(f"{arm.model} ({arm.weight:g})" for arm in route.targets)
        then = f", then {', '.join(route.fallback)}" if route.fallback else ""
        out.print(f"  {name}: {arms}{then}", highlight=False)


@main.group(cls=Commands)
def data() -> None:
    """Data that some metrics need and that is never downloaded by itself."""


@data.command("install")
@click.argument("name", type=click.Choice(get_args(language_data.Name)))
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="The folder that has it. Default: where Debian (wordnet) or NLTK (punkt) keeps it.",
)
def data_install(name: language_data.Name, source: Path | None) -> None:
    """Copy WordNet or punkt's sentence data into your data folder, for the metric meteor."""
    out.print(f"{name} is in {language_data.install(name, source)}", highlight=False)


@main.group("eval", cls=Commands)
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

    runs = _with_services(load(config_path), read)
    if as_json:
        _print_json(runs)
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

    _print_outcome(_with_services(load(config_path), read), as_json=as_json)


@evaluate.command("cancel")
@click.argument("run_id")
@config_option
def eval_cancel(run_id: str, config_path: Path | None) -> None:
    """Stop a run that no process carries out any more; a server's own are cancelled over HTTP."""

    async def cancel(services: Services) -> Run:
        return await services.runs.cancel(run_id)

    out.print(f"{_with_services(load(config_path), cancel).id} cancelled", highlight=False)


@main.group(cls=Commands)
def key() -> None:
    """Make, list and revoke clients' keys."""


@key.command("create")
@click.argument("name")
@click.option("--route", "routes", multiple=True, help="A model it may ask for. Default: all.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens per minute.")
@click.option("--parallel", type=click.IntRange(min=1), help="Requests at a time.")
@click.option("--budget", type=float, help="US dollars per period.")
@click.option(
    "--per",
    type=click.Choice(get_args(BudgetPeriod)),
    default="total",
    show_default=True,
    help="When the budget begins anew (UTC).",
)
@click.option("--expires", help="12h, 30d, 2w, or a date. Default: never.")
@click.option("--admin", is_flag=True, help="May also see and manage evaluations and traffic.")
@config_option
@json_option
def key_create(
    *,
    name: str,
    routes: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    parallel: int | None,
    budget: float | None,
    per: BudgetPeriod,
    expires: str | None,
    admin: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    now = time.time()

    async def make(services: Services) -> tuple[str, KeyRow]:
        return await create(
            services.store,
            name,
            now=now,
            routes=routes or None,
            rpm=rpm,
            tpm=tpm,
            parallel=parallel,
            budget_usd=budget,
            budget_period=per,
            expires_at=None if expires is None else expiry(expires, now),
            admin=admin,
        )

    made, row = _with_services(load(config_path), make)
    if as_json:
        _print_json({"key": made, **msgspec.structs.asdict(row)})
        return
    err.print(f"{row.id} ({row.name}); it is not shown again:", highlight=False)
    sys.stdout.write(made + "\n")


@key.command("list")
@config_option
@json_option
def key_list(config_path: Path | None, as_json: bool) -> None:
    """List keys, what they may do and what they spent in the current period."""
    now = time.time()

    async def read(services: Services) -> list[ListedKey]:
        return await listed(services.store, now)

    keys = _with_services(load(config_path), read)
    if as_json:
        _print_json(keys)
        return
    # Nothing is cut short: half an id or half a model's name would be of no use.
    rest = (
        Column(name, overflow="fold") for name in ("name", "models", "limits", "spent", "state")
    )
    table = Table(Column("key", no_wrap=True), *rest)
    for one in keys:
        table.add_row(*_key_cells(one))
    out.print(table if keys else "No keys yet.")


def _key_cells(one: ListedKey) -> tuple[str, ...]:
    key, spent = one.key, one.spent
    limits = [f"{key.rpm} rpm"] if key.rpm else []
    limits += [f"{key.tpm} tpm"] if key.tpm else []
    limits += [f"{key.parallel} parallel"] if key.parallel else []
    budget = "" if key.budget_usd is None else f" of ${key.budget_usd:g}"
    per = "" if key.budget_period == "total" else f" per {key.budget_period}"
    unpriced = f", {spent.unpriced} requests unpriced" if spent.unpriced else ""
    until = ""
    if one.state == "active" and key.expires_at is not None:
        until = f" until {datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%d %H:%M}"
    return (
        key.id,
        key.name,
        "all, admin" if key.admin else ", ".join(key.routes or ("all",)),
        ", ".join(limits) or "none",
        f"${spent.usd:.4f}{budget}{per}{unpriced}",
        one.state + until,
    )


@key.command("revoke")
@click.argument("name")
@config_option
def key_revoke(name: str, config_path: Path | None) -> None:
    """Revoke a key by its id or name; running servers refuse it within two seconds."""
    if name.startswith(PREFIX):
        raise InputError("give the key's id or name, as 'evalrouter key list' shows it")

    async def revoke(services: Services) -> KeyRow:
        return await services.store.revoke_key(name, time.time())

    row = _with_services(load(config_path), revoke)
    out.print(f"{row.id} ({row.name}) revoked", highlight=False)


@main.group("providers", cls=Commands)
def providers() -> None:
    """Work with the providers of the config."""


@providers.command("test")
@click.argument("name")
@click.option("--model", default="", help="Default: the first model that it lists.")
@click.option("--long", is_flag=True, help="Also send a prompt that is too long; may cost money.")
@config_option
@json_option
def providers_test(
    name: str, model: str, long: bool, config_path: Path | None, as_json: bool
) -> None:
    """Ask a provider how well it speaks OpenAI's API; some fifty checks with their evidence."""
    table = Table("check", "", "evidence", title=name)

    def told(result: Result) -> None:
        colors = {"pass": "green", "fail": "bold red", "unsupported": "yellow"}
        outcome = f"[{colors[result.outcome]}]{result.outcome}[/]"
        table.add_row(_escape(result.title), outcome, _escape(result.evidence[:160]))
        err.print(f"{result.name}: {result.outcome}", highlight=False)

    async def examine(services: Services) -> Report:
        return await examine_provider(services, name, model=model, long=long, told=told)

    report: Report = _with_services(load(config_path), examine)
    if as_json:
        _print_json(report)
    else:
        out.print(table)
        words = ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items())
        out.print(f"{name}/{report.model}, {report.date}: {words}", highlight=False)
    if report.counts["fail"]:
        sys.exit(1)


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


def _with_services(config: Config, work: Callable[[Services], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with Services(config) as services:
            return await work(services)

    return uvloop.run(inside())


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
        outcome: Outcome = _with_services(config, work)
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
        _print_json(outcome)
        return
    run = outcome.run
    out.print(
        f"{run.name} ({run.id}, {run.state}): {run.dataset}, {run.dataset_rows} samples, "
        f"sha256 {run.dataset_hash[:12]}",
        highlight=False,
    )
    if run.error:
        out.print(f"  {_escape(run.error)}", highlight=False)
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


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(_encode(value), indent=2).decode() + "\n")
