"""Sends runs that have ended to MLflow: what they were made with, their numbers and their files.

    tracked = await tracker.send(run_id)            # MLflow's ids
    tracker.begin(run_id)                           # in the background; a failure is logged

Sending never changes a run, and never fails one. MLflow runs in a process of its own
(`mlflow_program.py`) that is ended when it takes too long.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
import os
import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

from evaluators.reports.report import Report
from evaluators.reports.table import to_table
from providers.errors import ConflictError, EvalrouterError, InputError, MissingExtraError
from providers.masking import Masks
from providers.plugins import in_one_line
from providers.shortening import shortened
from router.config.storage import S3
from router.config.tracking import Tracking, address_fault
from router.datasets.artifacts import open_artifacts, temporary_folder
from router.evals.export import export_run
from router.evals.mlflow_program import MlflowResult, MlflowRun
from router.evals.results import Outcome, Outcomes
from router.evals.stored_runs import find_run
from router.evals.tables import Format
from router.store.protocol import Store
from router.store.runs import Run

log = logging.getLogger("evalrouter")

# MLflow's names have letters, digits, `_ - . : /` and blanks; its values are bounded.
_NOT_IN_NAMES = re.compile(r"[^\w.:\- ]", re.ASCII)
_MAX_NAME, _MAX_PARAM, _MAX_TAG = 200, 5_000, 4_000
_MAX_REASON = 500
# Besides JSON lines.
_TABLES: tuple[Format, ...] = ("csv",)
_USER = re.compile(r"//[^/@\s]+@")


class TrackingError(EvalrouterError):
    """MLflow did not take a run, or did not answer in time."""

    status = 502
    code = "tracking_failed"


class TrackedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that MLflow has.

    Attributes:
        run: the run's id.
        mlflow: MLflow's address.
        experiment: the experiment of MLflow, by name.
        experiment_id, mlflow_run: MLflow's ids.
        url: MLflow's page of the run; "" where MLflow is no server.
    """

    run: str
    mlflow: str
    experiment: str
    experiment_id: str
    mlflow_run: str
    url: str = ""


class Tracker:
    """Sends runs of a store.

    Args:
        store: has the runs.
        settings: where they are sent.
        masks: the secrets of the config, which are taken out of everything that is sent.
    """

    def __init__(self, store: Store, settings: Tracking, masks: Masks) -> None:
        self._store = store
        self._outcomes = Outcomes(store)
        self._settings = settings
        self._masks = masks
        # One after the other: sending reads all rows of a run.
        self._turn = asyncio.Semaphore(1)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, run_id: str) -> None:
        """Send a run that has ended in the background, where the config says so."""
        if not self._settings.mlflow or not self._settings.automatic:
            return
        task = asyncio.create_task(self._send_or_log(run_id), name=f"tracking {run_id}")
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run_id, None))

    async def _send_or_log(self, run_id: str) -> None:
        try:
            await self.send(run_id)
        except asyncio.CancelledError:
            self._warn(run_id, "the process ends")
            raise
        except EvalrouterError as error:
            self._warn(run_id, error.message)
        except Exception as error:  # noqa: BLE001  # a run must not end otherwise because of it
            self._warn(run_id, f"{type(error).__name__}: {error}")

    def _warn(self, run_id: str, why: str) -> None:
        log.warning(
            "%s was not sent to MLflow: %s. Send it with: evalrouter eval track %s",
            run_id,
            why,
            run_id,
        )

    async def finish(self) -> None:
        """Wait for the runs that are being sent; each has its limit."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """Stop sending; a log line names each run that was not sent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def send(
        self, run_id: str, *, address: str | None = None, experiment: str | None = None
    ) -> TrackedRun:
        """Send a run, or send it again.

        Args:
            run_id: the run, or a unique prefix.
            address: of MLflow, instead of the config's.
            experiment: of MLflow, instead of the config's.

        Raises:
            NotFoundError: no such run.
            InputError: MLflow's address is wrong, or the config has none.
            ConflictError: the run has not ended.
            MissingExtraError: MLflow is not installed.
            TrackingError: MLflow did not take it.
        """
        settings = self._settings
        address = settings.mlflow if address is None else address
        if not address:
            raise InputError(
                "name MLflow's address as tracking.mlflow in the config; "
                "the command also takes --mlflow"
            )
        if fault := address_fault(address):
            raise InputError(f"the address of MLflow {fault}")
        run = await find_run(self._store, run_id)
        if run.finished_at is None:
            raise ConflictError(f"{run.id} is {run.state}; it is sent when it has ended")
        if find_spec("mlflow") is None:
            raise MissingExtraError("sending runs to MLflow", "mlflow")
        async with self._turn:
            record, sent = await self._send(run, address, experiment or settings.experiment)
        return TrackedRun(
            run=run.id,
            mlflow=address,
            experiment=record.experiment,
            experiment_id=sent.experiment_id,
            mlflow_run=sent.run_id,
            url=_page(address, sent),
        )

    async def _send(
        self, run: Run, address: str, experiment: str
    ) -> tuple[MlflowRun, MlflowResult]:
        limit_s = self._settings.limit_s
        outcome = await self._outcomes.of(run)
        with temporary_folder() as folder:
            try:
                async with asyncio.timeout(limit_s):
                    await self._write_files(outcome, folder)
                    record = mlflow_run(outcome, address, experiment, folder)
                    return record, await self._execute(record)
            except TimeoutError:
                raise TrackingError(
                    f"MLflow did not take {run.id} within {limit_s:g} s (tracking.limit_s in the "
                    "config)"
                ) from None

    async def _write_files(self, outcome: Outcome, folder: Path) -> None:
        await asyncio.to_thread(_write_reports, outcome, folder)
        if self._settings.rows:
            artifacts = open_artifacts(str(folder), S3())
            await export_run(self._store, outcome.run, artifacts, "rows", formats=_TABLES)
        await asyncio.to_thread(self._mask_files, folder)

    def _mask_files(self, folder: Path) -> None:
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            masked = path.with_name(f"{path.name}.masked")
            with path.open("rb") as given, masked.open("wb") as written:
                for line in given:
                    written.write(self._masks.mask(line))
            masked.replace(path)

    async def _execute(self, record: MlflowRun) -> MlflowResult:
        """Have the program send the record. Raises TrackingError."""
        settings = self._settings
        secrets = {
            "MLFLOW_TRACKING_USERNAME": settings.username,
            "MLFLOW_TRACKING_PASSWORD": settings.password.reveal(),
            "MLFLOW_TRACKING_TOKEN": settings.token.reveal(),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "router.evals.mlflow_program",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                **{name: value for name, value in secrets.items() if value},
            },
        )
        try:
            payload = self._masks.mask(msgspec.json.encode(record))
            written, _ = await process.communicate(payload)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        try:
            result = msgspec.json.decode(written, type=MlflowResult)
        except msgspec.MsgspecError:
            raise TrackingError(
                f"the process that sends to MLflow ended with {process.returncode}"
            ) from None
        if result.error:
            raise TrackingError(f"MLflow: {self._reason(result.error)}")
        return result

    def _reason(self, error: str) -> str:
        """Return an error of MLflow in a line, without secrets and users in addresses."""
        settings = self._settings
        pair = f"{settings.username}:{settings.password.reveal()}".encode()
        for secret in (settings.password.reveal(), settings.token.reveal()):
            error = error.replace(secret or "\0", "***")
        # As it is sent, and as a server may repeat it.
        error = error.replace(base64.b64encode(pair).decode(), "***")
        line = in_one_line(self._masks.mask_text(_USER.sub("//***@", error)))
        return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"


def mlflow_run(outcome: Outcome, address: str, experiment: str, folder: Path) -> MlflowRun:
    """Return a run as MLflow has it."""
    run = outcome.run
    document = msgspec.json.encode(run.document, order="sorted").decode()
    params = {
        "dataset": run.dataset,
        "dataset_hash": run.dataset_hash,
        "samples": str(run.dataset_rows),
        "routes": ", ".join(run.document.get("routes", ())),
        "baseline": str(run.document.get("baseline") or ""),
        "repeats": str(run.document.get("repeats", 1)),
        "document": document,
        **{f"metric {_name(metric)}": signature for metric, signature in run.metrics.items()},
        **{f"version {name}": version for name, version in run.versions.items()},
    }
    params = {name: shortened(value, _MAX_PARAM) for name, value in params.items() if value}
    # MLflow's parameters cannot change. A run that was scored again or extended is another run.
    made_with = hashlib.sha256(msgspec.json.encode(params, order="sorted")).hexdigest()
    tags = {
        "evalrouter.state": run.state,
        "evalrouter.experiment": run.experiment,
        "evalrouter.tags": ", ".join(run.tags),
        "evalrouter.warnings": "\n".join(outcome.report.warnings),
        "evalrouter.gates": "; ".join(
            f"{gate.gate} ({gate.route}): {'passed' if gate.passed else 'failed'}"
            for gate in outcome.gates
        ),
        "mlflow.note.content": run.notes,
        "mlflow.source.name": "evalrouter",
    }
    ended = run.finished_at or run.created_at
    return MlflowRun(
        address=address,
        experiment=experiment,
        name=f"{run.name} {run.id}",
        identity={"evalrouter.run": run.id, "evalrouter.made_with": made_with},
        tags={name: shortened(value, _MAX_TAG) for name, value in tags.items() if value},
        params=params,
        metrics=numbers(outcome.report),
        folder=str(folder),
        started_ms=int((run.started_at or run.created_at) * 1000),
        ended_ms=int(ended * 1000),
        succeeded=run.state == "completed",
    )


def numbers(report: Report) -> dict[str, float]:
    """Return the numbers of a report, as `OUTPUT/ROUTE`: those of an output stand together.

    The ends of the interval are `OUTPUT.low/ROUTE` and `OUTPUT.high/ROUTE`. A slash of a route is
    a blank, because MLflow's folders cannot have a number and more below it under one name.
    """
    values: dict[str, float | None] = {}
    for route in report.routes:
        name = _route_name(route.route)
        for score in route.scores:
            output = _name(score.output)
            values[f"{output}/{name}"] = score.estimate
            values[f"{output}.low/{name}"] = score.low
            values[f"{output}.high/{name}"] = score.high
            values[f"{output}.coverage/{name}"] = score.coverage
        values[f"answered/{name}"] = route.answered
        values[f"failed/{name}"] = route.failed
        values[f"cost_usd/{name}"] = route.cost.total_usd
        values[f"seconds.p50/{name}"] = route.times.p50_s
        values[f"seconds.p95/{name}"] = route.times.p95_s
        values[f"tokens/{name}"] = route.tokens.total
    for comparison in report.comparisons:
        name, output = _route_name(comparison.route), _name(comparison.output)
        values[f"{output}.difference/{name}"] = comparison.difference
        values[f"{output}.difference.low/{name}"] = comparison.low
        values[f"{output}.difference.high/{name}"] = comparison.high
    return {name: float(value) for name, value in values.items() if value is not None}


def _route_name(route: str) -> str:
    name = _name(route.replace("/", " "))
    # A blank of its own must not be read as a slash.
    return f"{name}-{_digest(route)}" if " " in route else name


def _name(text: str) -> str:
    """Return a text as a part of one of MLflow's names, where two texts never become one."""
    name = _NOT_IN_NAMES.sub("_", text)
    if name == text and 0 < len(name) <= _MAX_NAME:
        return name
    return f"{name[:_MAX_NAME]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_reports(outcome: Outcome, folder: Path) -> None:
    report = msgspec.json.format(msgspec.json.encode(outcome), indent=2)
    (folder / "report.json").write_bytes(report)
    (folder / "report.md").write_text(_markdown(outcome), encoding="utf-8")


def _markdown(outcome: Outcome) -> str:
    """Return the report as a page of Markdown: the tables that a terminal shows, and warnings."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        console.print(to_table(outcome.report, width=120))
    run = outcome.run
    gates = [
        f"- {'passed' if gate.passed else 'failed'}: `{gate.gate}` ({gate.route})"
        for gate in outcome.gates
    ]
    lines = [f"# {run.name}", "", f"Run `{run.id}`, {run.state}, on `{run.dataset}`.", ""]
    lines += ["```text", capture.get().rstrip(), "```", ""]
    lines += ["## Gates", "", *gates, ""] if gates else []
    return "\n".join(lines)


def _page(address: str, sent: MlflowResult) -> str:
    if urlsplit(address).scheme not in ("http", "https"):
        return ""
    return f"{address.rstrip('/')}/#/experiments/{sent.experiment_id}/runs/{sent.run_id}"
