"""`AsyncClient`: the SDK for programs with an event loop.

`make client` writes `synchronous.py` from this file; its methods wait instead of being awaited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import httpx

from providers.errors import EvalrouterError, UpstreamProtocolError
from router.client import calls
from router.client.calls import ApiCall, RunDocumentSource
from router.client.rows import Rows, entry_rows, flat_judgement, flat_sample, frame, score_rows
from router.client.types import (
    AlertReport,
    AlertState,
    AlertView,
    ChangedKey,
    Comparisons,
    CreatedKey,
    Dataset,
    DatasetLine,
    DeletedRequests,
    Delivery,
    Estimate,
    EvidenceBundle,
    Experiment,
    FeedbackRow,
    Frontier,
    JudgementRow,
    Key,
    KeyAccess,
    Leaderboard,
    LearnedModel,
    LearnedReport,
    ListedKey,
    LogLine,
    Outcome,
    Progress,
    PublishedRows,
    RetiringModel,
    ReviewArrival,
    ReviewRow,
    Role,
    Rollout,
    RolloutReport,
    RouteVersion,
    RouteView,
    Run,
    RunState,
    SampleNote,
    SampleRow,
    Schedule,
    ScheduledRun,
    ScheduleReport,
    ShadowView,
    ShownDataset,
    ShownKey,
    SliceReport,
    Study,
    StudyKind,
    TargetRow,
    TargetVersions,
    TrafficDataset,
    TrafficRow,
    WatchProbe,
    WatchView,
    WhatIf,
)

if TYPE_CHECKING:
    import pandas as pd


class AsyncConnection:
    """Where the server is, and how requests to it are sent.

    Args:
        base_url: where it listens, without /v1.
        api_key: a key; None where the server needs no keys.
        timeout: seconds for one request.
        http: the program's own HTTP client, which is not closed; None for a new one.
    """

    def __init__(
        self, base_url: str, api_key: str | None, timeout: float, http: httpx.AsyncClient | None
    ) -> None:
        self.timeout = timeout
        self._http = httpx.AsyncClient() if http is None else http
        self._closes_http = http is None
        self._base_url = base_url.rstrip("/")
        self._headers = calls.headers(api_key)

    async def close(self) -> None:
        """Close the connections, unless the HTTP client is the program's own."""
        if self._closes_http:
            await self._http.aclose()

    async def request(self, call: ApiCall, **options: Any) -> Any:
        """Send a request; return its answer's JSON."""
        return calls.decoded(await self._sent(call, options))

    async def text(self, call: ApiCall) -> str:
        """Send a request; return its answer as text."""
        response = await self._sent(call, {})
        if response.is_error:
            raise calls.failure(response)
        return response.text

    async def _sent(self, call: ApiCall, options: Mapping[str, Any]) -> httpx.Response:
        sent = call.sent()
        sent["url"] = self._base_url + sent["url"]
        sent["headers"] = {**self._headers, **sent["headers"]}
        try:
            return await self._http.request(**{"timeout": self.timeout, **sent, **options})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.unreachable(error) from error

    def stream(
        self, call: ApiCall, *, timeout: httpx.Timeout | float
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Send a request whose answer is read as it comes; errors are httpx's."""
        sent = call.sent()
        sent["url"] = self._base_url + sent["url"]
        sent["headers"] = {**self._headers, **sent["headers"]}
        return self._http.stream(**sent, timeout=timeout)

    async def download(self, call: ApiCall, path: str | Path) -> Path:
        """Write a request's answer to a file, as it comes; return the file's path."""
        target = Path(path)
        try:
            async with self.stream(call, timeout=self.timeout) as response:
                if response.is_error:
                    await response.aread()
                    raise calls.failure(response)
                with await asyncio.to_thread(target.open, "wb") as file:
                    async for chunk in response.aiter_bytes(calls.CHUNK_BYTES):
                        await asyncio.to_thread(file.write, chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.unreachable(error) from error
        return target

    def unreachable(self, error: httpx.HTTPError | httpx.InvalidURL) -> EvalrouterError:
        """Return the exception for a server that did not answer."""
        return calls.unreachable(error, self._base_url)


class AsyncClient:
    """An evalrouter server.

    Args:
        base_url: where it listens, without /v1.
        api_key: a key (`er-...`), if the server needs keys; most methods need an admin's.
        timeout: seconds for one request; `wait` and uploads are not bound by it.
        http: an HTTP client of your own (for proxies or certificates); it is not closed.

    Every method raises an exception of `providers.errors` when the server refuses, and
    UpstreamConnectError or UpstreamTimeoutError when it does not answer. A `RunDocumentSource` is a
    mapping, or the path of a YAML or JSON file; paths in it are the server's.

    Attributes:
        runs, datasets, experiments, evidence, judges, models, routes, rollouts, watches, schedules,
            alerts, providers, traffic, feedback, keys, server: the methods for each of them.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:4000",
        *,
        api_key: str | None = None,
        timeout: float = calls.TIMEOUT_S,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._connection = AsyncConnection(base_url, api_key, timeout, http)
        self.runs = AsyncRuns(self._connection)
        self.datasets = AsyncDatasets(self._connection)
        self.experiments = AsyncExperiments(self._connection)
        self.evidence = AsyncEvidence(self._connection)
        self.review = AsyncReview(self._connection)
        self.traffic = AsyncTraffic(self._connection)
        self.feedback = AsyncFeedback(self._connection)
        self.keys = AsyncKeys(self._connection)
        self.judges = AsyncJudges(self._connection)
        self.models = AsyncModels(self._connection)
        self.routes = AsyncRoutes(self._connection)
        self.rollouts = AsyncRollouts(self._connection)
        self.watches = AsyncWatches(self._connection)
        self.schedules = AsyncSchedules(self._connection)
        self.alerts = AsyncAlerts(self._connection)
        self.providers = AsyncProviders(self._connection)
        self.server = AsyncServer(self._connection)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def compare(
        self,
        *runs: str,
        route_a: str | None = None,
        route_b: str | None = None,
        join: Literal["position", "id", "content"] | str | None = None,
        movers: int | None = None,
        margins: Mapping[str, float] | None = None,
    ) -> Comparisons:
        """Compare two runs, or two routes of one run.

        Args:
            runs: one or two run ids.
            route_a: a route of the first run; None for every route that both have.
            route_b: a route of the second run.
            join: how to pair samples of different datasets, which are refused without it.
            movers: how many of the samples that differ most are shown.
            margins: output to the largest difference that makes no difference.
        """
        params = {
            "route_a": route_a,
            "route_b": route_b,
            "join": join,
            "movers": movers,
            "margin": calls.margins(margins or {}),
        }
        return cast("Comparisons", await self._connection.request(calls.compare(runs, params)))

    async def tasks(self) -> Rows[dict[str, Any]]:
        """Return the tasks that a run document's `task` may name."""
        answer = await self._connection.request(ApiCall("GET", "/eval/tasks"))
        return Rows(answer["data"])

    async def metrics(self) -> Rows[dict[str, Any]]:
        """Return the metrics that run documents may name, those of installed packages as well."""
        answer = await self._connection.request(ApiCall("GET", "/eval/metrics"))
        return Rows(answer["data"])

    async def plugins(self) -> Rows[dict[str, Any]]:
        """Return what installed packages add to the server, with an `error` where it is broken."""
        answer = await self._connection.request(ApiCall("GET", "/plugins"))
        return Rows(answer["data"])


class AsyncRuns:
    """`client.runs`: evaluations. A run id may be shortened to a unique prefix."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self, document: RunDocumentSource, *, key: str | None = None, **changes: Any
    ) -> Run:
        """Begin a run; `changes` replace keys of the document.

        await client.runs.create("nightly.yaml", limit=10, name="tried")

        Args:
            document: the run document.
            key: the id or name of the client's key that the run belongs to; None for the caller's.
            changes: keys of the document.
        """
        call = calls.create(document, changes, key=key)
        return cast("Run", await self._connection.request(call))

    async def estimate(self, document: RunDocumentSource, **changes: Any) -> Estimate:
        """Return what a run would take in calls, tokens, money and time, without creating it."""
        call = calls.create(document, changes, dry_run=True)
        return cast("Estimate", await self._connection.request(call))

    async def list(
        self,
        *,
        experiment: str | None = None,
        tag: str | None = None,
        state: RunState | None = None,
        dataset: str | None = None,
        sort: str = "-created",
        limit: int = 50,
        before: str | None = None,
    ) -> Rows[Run]:
        """Return runs, newest first, or as `sort` says.

        Args:
            experiment: only those of this experiment.
            tag: only those that have it.
            state: only those in this state.
            dataset: only those of a registered version: `name@hash`, or `name` for its newest.
            sort: `created`, `name`, `state`, `finished`, `duration`, `cost` or `samples`, with `-`
                before it for descending.
            limit: the largest number of runs.
            before: the id of the last run of the page before, newest first.
        """
        params = {"experiment": experiment, "tag": tag, "state": state, "dataset": dataset}
        params |= {"sort": sort}
        call = ApiCall("GET", "/eval", {**params, "limit": limit, "before": before})
        answer = await self._connection.request(call)
        return Rows(answer["data"])

    async def report(self, run_id: str) -> Outcome:
        """Return the run, its report as far as it has got, and its gates."""
        return cast("Outcome", await self._connection.request(calls.run(run_id)))

    async def scores(self, run_id: str) -> Rows[dict[str, Any]]:
        """Return the report's scores as rows, one for each route and output, with differences."""
        return Rows(score_rows(await self.report(run_id)))

    async def wait(
        self,
        run_id: str,
        *,
        progress: Callable[[Progress], object] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as the other client's
    ) -> Outcome:
        """Wait until the run stops (completed, failed, cancelled or paused), and read its report.

        The server may be restarted meanwhile: it is looked for again for two minutes.

        Args:
            run_id: the run.
            progress: called whenever the progress has changed.
            timeout: seconds; None for as long as it takes.

        Raises:
            TimeoutError: the run is still going on; nothing was done to it.
        """
        async for news in self.events(run_id, timeout=timeout):
            if progress is not None:
                progress(news)
        return await self.report(run_id)

    async def events(
        self,
        run_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as the other client's
    ) -> AsyncIterator[Progress]:
        """Yield a run's progress whenever it has changed, until the run stops; else as `wait`."""
        async for event in self._follow(run_id, calls.run(run_id, "events"), timeout):
            yield event[1]

    def logs(self, run_id: str, *, after: int = 0, page: int = 500) -> AsyncLogLines:
        """Return the run's log, oldest line first, read `page` lines at a time.

        async for line in client.runs.logs(run_id):
            print(line["kind"], line["source"], line["text"], line["times"])

        Args:
            run_id: the run.
            after: the `number` of the last line that is known already.
            page: the lines that are read at a time.
        """
        call = calls.run(run_id, "logs")._replace(params={"limit": page})
        return AsyncLogLines(self._connection, call, after)

    async def follow_logs(
        self,
        run_id: str,
        *,
        after: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as the other client's
    ) -> AsyncIterator[LogLine]:
        """Yield the lines of the run's log as they are written, until the run stops.

        A connection that is lost is made anew, as for `wait`, and no line comes twice.

        Args:
            run_id: the run.
            after: the `number` of the last line that is known already.
            timeout: seconds; None for as long as it takes.
        """
        call = calls.run(run_id, "logs")._replace(params={"follow": True, "after": after})
        async for event in self._follow(run_id, call, timeout):
            if event[0] == "log":
                yield event[1]

    async def _follow(
        self,
        run_id: str,
        call: ApiCall,
        timeout: float | None,  # noqa: ASYNC109 - the same as the other client's
    ) -> AsyncIterator[tuple[str, Any]]:
        """Yield each new event's name and data, until one named `end`."""
        connection = self._connection
        started = heard = time.monotonic()
        pauses, before = calls.pauses(), None
        while True:
            left = None if timeout is None else timeout - (time.monotonic() - started)
            if left is not None and left <= 0:
                raise TimeoutError(f"{run_id} is still going on after {timeout:g} s")
            quiet = calls.QUIET_S if left is None else min(calls.QUIET_S, left)
            problem: EvalrouterError | None = None
            try:
                timeouts = httpx.Timeout(connection.timeout, read=quiet)
                async with connection.stream(call, timeout=timeouts) as response:
                    if response.is_error:
                        await response.aread()
                        problem = calls.failure(response)
                    else:
                        events = calls.Events()
                        async for line in response.aiter_lines():
                            event = events.line(line)
                            if event is None:
                                continue
                            heard, pauses = time.monotonic(), calls.pauses()
                            if event != before:
                                before = event
                                call = calls.after_event(call, event)
                                yield event
                            if event[0] == "end":
                                return
                            if timeout is not None and heard - started > timeout:
                                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise connection.unreachable(error) from error
            except httpx.HTTPError as error:
                # Also when nothing has changed for a while: a server that still runs answers anew.
                problem = connection.unreachable(error)
            if problem is not None and (
                problem.status < 500 or time.monotonic() - heard > calls.PATIENCE_S
            ):
                raise problem
            await asyncio.sleep(next(pauses))

    async def slices(self, run_id: str, column: str, *, output: str | None = None) -> SliceReport:
        """Return a score of the run by the values of one column of its dataset.

        for one in (await client.runs.slices(run_id, "language"))["slices"]:
            print(one["name"], [score["estimate"] for score in one["scores"]])

        Args:
            run_id: the run.
            column: a column, or a path into one, such as `metadata.topic`.
            output: the score; None for the one that decides, else the first.
        """
        call = calls.run(run_id, "slices")._replace(params={"column": column, "output": output})
        return cast("SliceReport", await self._connection.request(call))

    def samples(
        self, run_id: str, *, route: str | None = None, after: int = 0, page: int = 100
    ) -> AsyncSamples:
        """Return the run's answers with their scores, sample by sample, read `page` at a time.

        async for row in client.runs.samples(run_id):
            print(row["sample"]["id"], row["route"], row["answer"])

        Args:
            run_id: the run.
            route: only the answers of this route.
            after: the number of samples before the first of them.
            page: the samples that are read at a time.
        """
        call = calls.run(run_id, "samples")._replace(params={"route": route, "limit": page})
        return AsyncSamples(self._connection, call, after)

    async def notes(self, run_id: str, position: int) -> Sequence[SampleNote]:
        """Return people's labels and notes on the sample at a place in the run, from 1."""
        answer = await self._connection.request(calls.notes(run_id, position))
        return cast("Sequence[SampleNote]", answer["data"])

    async def note(
        self,
        run_id: str,
        position: int,
        note: str = "",
        *,
        label: str = "",
        before: float | None = None,
    ) -> SampleNote:
        """Write a note on a sample, in place of what this key wrote before.

        Args:
            run_id: the run.
            position: the sample's place in the run, from 1.
            note: a text.
            label: a short word.
            before: the `at` of the note that this one replaces, 0 for none: refused with a
                ConflictError if there is another one by now. None for whatever there is.
        """
        call = calls.notes(run_id, position, method="PUT")
        body = {"label": label, "note": note, "before": before}
        return cast("SampleNote", await self._connection.request(call._replace(body=body)))

    async def delete_note(self, run_id: str, position: int, *, before: float | None = None) -> None:
        """Delete what this key wrote about a sample; `before` is as for `note`."""
        call = calls.notes(run_id, position, method="DELETE")
        await self._connection.request(call._replace(params={"before": before}))

    def judgements(
        self, run_id: str, *, sample_id: str | None = None, page: int = 100
    ) -> AsyncJudgements:
        """Return what judges answered, in the order it came, read `page` at a time.

        What an answer was read as is in the `verdicts` of a row's scores: see `samples`.
        """
        params = {"sample_id": sample_id, "limit": page}
        call = calls.run(run_id, "judgements")._replace(params=params)
        return AsyncJudgements(self._connection, call)

    async def label(
        self,
        run_id: str,
        labels: Sequence[Mapping[str, Any]],
        *,
        route: str | None = None,
        output: str | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        """Store people's scores of a route's answers, by which the run's judge is corrected.

        client.runs.label("run_...", [{"sample_id": "s1", "answer": "Hi.", "scores": [4, 5]}])

        Args:
            run_id: the run.
            labels: all of the route's labels, each with `sample_id`, the `answer`'s text and
                `scores`, and with the `chance` that a label plan gives.
            route: the route; needed where the run has several.
            output: the judge's score that people gave; needed where the run has several.
            replace: whether earlier labels that are not among these are dropped.
        """
        body = {"labels": labels, "route": route, "output": output, "replace": replace}
        call = calls.run(run_id, "labels", method="PUT")._replace(body=body)
        return cast("dict[str, Any]", await self._connection.request(call))

    async def label_plan(
        self,
        run_id: str,
        *,
        width: float,
        route: str | None = None,
        output: str | None = None,
        people: str | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Plan which answers people should score for a judge's corrected interval to be narrow.

        plan = client.runs.label_plan("run_...", width=0.1)
        for label in plan["labels"]:                      # those of `label_next` need scores
            if label["sample_id"] in plan["label_next"]:
                label["scores"] = people_score(label["answer"])
        client.runs.label("run_...", plan["labels"])

        Args:
            run_id: the run.
            width: of the corrected 95% interval, from end to end.
            route: the route; needed where the run has several.
            output: the judge's score to correct; needed where the run has several.
            people: the column with people's scores so far; None for the metric's own.
            seed: of the draw.
        """
        params = {"width": width, "route": route, "output": output, "people": people}
        params["seed"] = seed
        call = calls.run(run_id, "label-plan")._replace(params=params)
        return cast("dict[str, Any]", await self._connection.request(call))

    async def labels(self, run_id: str) -> Rows[dict[str, Any]]:
        """Return people's labels of a run's answers."""
        answer = await self._connection.request(calls.run(run_id, "labels"))
        return Rows(answer["data"])

    async def pause(self, run_id: str) -> Run:
        """Send no further requests; what is in flight is finished. `resume` continues the run."""
        return cast(
            "Run", await self._connection.request(calls.run(run_id, "pause", method="POST"))
        )

    async def cancel(self, run_id: str) -> Run:
        """Stop a run at once. Its answers stay, and `resume` continues it."""
        return cast(
            "Run", await self._connection.request(calls.run(run_id, "cancel", method="POST"))
        )

    async def resume(
        self,
        run_id: str,
        *,
        retry_failed: bool = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Run:
        """Continue a run where it stopped; no finished request is sent again.

        Args:
            run_id: the run.
            retry_failed: send requests again that failed at their target.
            limits: keys of the document's `limits` to change.
        """
        call = calls.run(run_id, "resume", method="POST")
        call = call._replace(
            params={"retry_failed": retry_failed}, body={"limits": dict(limits or {})}
        )
        return cast("Run", await self._connection.request(call))

    async def rescore(self, run_id: str, metrics: Sequence[str | Mapping[str, Any]] = ()) -> Run:
        """Score a run's answers with more metrics, or with its own anew; no request is sent."""
        call = calls.run(run_id, "rescore", method="POST")._replace(body={"metrics": list(metrics)})
        return cast("Run", await self._connection.request(call))

    async def extend(
        self, run_id: str, *, limit: int | None = None, repeats: int | None = None
    ) -> Run:
        """Continue with more samples (`limit` in all) or more repeats (`repeats` in all)."""
        body = {
            key: value
            for key, value in (("limit", limit), ("repeats", repeats))
            if value is not None
        }
        call = calls.run(run_id, "extend", method="POST")._replace(body=body)
        return cast("Run", await self._connection.request(call))

    async def export(self, run_id: str) -> dict[str, Any]:
        """Have the server write a run's rows as files; return the manifest, which says where."""
        answer = await self._connection.request(calls.run(run_id, "export", method="POST"))
        return cast("dict[str, Any]", answer)

    async def show_export(self, run_id: str) -> dict[str, Any]:
        """Return the manifest of the run's last export into the server's artifact store."""
        answer = await self._connection.request(calls.run(run_id, "export"))
        return cast("dict[str, Any]", answer)

    async def download_export(self, run_id: str, name: str, path: str | Path) -> Path:
        """Write a file of the last export to `path`, by its name in the manifest."""
        call = calls.run(run_id, f"export/{calls.quoted(name)}")
        return await self._connection.download(call, path)

    async def download(
        self,
        run_id: str,
        path: str | Path,
        *,
        format: Literal["csv", "jsonl", "parquet"] = "jsonl",  # noqa: A002 - the name it has elsewhere
    ) -> Path:
        """Write the run's rows to `path`, with all columns, feedback and labels, as they are now.

        Args:
            run_id: the run.
            path: the file.
            format: `csv` and `parquet` are tables, `jsonl` has all that is stored.
        """
        return await self._connection.download(calls.run(run_id, f"rows.{format}"), path)

    async def track(self, run_id: str) -> dict[str, Any]:
        """Have the server send a run that has ended to its MLflow; return MLflow's ids."""
        answer = await self._connection.request(calls.run(run_id, "track", method="POST"))
        return cast("dict[str, Any]", answer)

    async def delete(self, run_id: str) -> None:
        """Delete a run with its answers and scores. Cancel a run that is going on first."""
        await self._connection.request(calls.run(run_id, method="DELETE"))


_Row = TypeVar("_Row")


class _AsyncPaged(Generic[_Row]):
    """Rows of the server's pages, read anew by each loop over them."""

    def __init__(self, connection: AsyncConnection, call: ApiCall, after: int = 0) -> None:
        self._connection = connection
        self._call = call
        self._after = after

    async def __aiter__(self) -> AsyncIterator[_Row]:
        after: int | None = self._after
        while after is not None:
            params = {**self._call.params, "after": after}
            page = await self._connection.request(self._call._replace(params=params))
            for row in page["data"]:
                yield row
            after = page["next"]


class AsyncJudgements(_AsyncPaged[JudgementRow]):
    """What a run's judges answered, read anew by each loop over it."""

    async def to_pandas(self) -> pd.DataFrame:
        """Return all judgements as a DataFrame; `feedback` is the judge's text as it came.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([flat_judgement(row) async for row in self])


class AsyncLogLines(_AsyncPaged[LogLine]):
    """The lines of a run's log, read anew by each loop over them."""

    async def to_pandas(self) -> pd.DataFrame:
        """Return all lines as a DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([dict(line) async for line in self])


class AsyncDatasetLines(_AsyncPaged[DatasetLine]):
    """The rows of a version of a dataset, read anew by each loop over them."""

    async def to_pandas(self) -> pd.DataFrame:
        """Return the columns of all rows as a DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([row["fields"] async for row in self])


class AsyncSamples(_AsyncPaged[SampleRow]):
    """A run's rows, read anew by each loop over them."""

    async def to_pandas(self) -> pd.DataFrame:
        """Return all rows as a DataFrame. `row.NAME` is the dataset's column, `score.NAME` a score.

        `score.NAME.JUDGE.REPEAT` is the score that a judge gave the answer in one repeat.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([flat_sample(row) async for row in self])


class AsyncDatasets:
    """`client.datasets`: datasets that the server stores. `name@hash` names one version."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, name: str | None = None) -> Rows[Dataset]:
        """Return versions, newest first."""
        answer = await self._connection.request(ApiCall("GET", "/datasets", {"name": name}))
        return Rows(answer["data"])

    async def upload(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
        delimiter: str = "",
    ) -> Dataset:
        """Upload a file of this machine; the same content again changes nothing.

        Args:
            path: a JSONL, JSON, CSV, TSV or parquet file.
            name: what to call it; the file's name without extension when None.
            columns: the file's column names mapped to known ones, {"article": "input"}.
            delimiter: what separates the cells of CSV and TSV; "" to find out.
        """
        call, file = calls.upload(path, name, columns, delimiter)
        content = _chunks(file)
        return cast("Dataset", await self._connection.request(call, content=content, timeout=None))

    async def add(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        """Store rows as a dataset; the same rows again change nothing.

        await client.datasets.add("greetings", [{"input": "Say hi.", "reference": "Hi."}])
        """
        call, content = calls.rows_as_file(name, rows)
        return cast("Dataset", await self._connection.request(call, content=content))

    async def register(
        self,
        source: str,
        *,
        name: str = "",
        columns: Mapping[str, str] | None = None,
        delimiter: str = "",
    ) -> Dataset:
        """Have the server fetch a dataset: a path of its own, https://, s3:// or hf://."""
        body: dict[str, Any] = {"source": source, "name": name, "columns": dict(columns or {})}
        if delimiter:
            body["delimiter"] = delimiter
        call = ApiCall("POST", "/datasets", {}, body)
        return cast("Dataset", await self._connection.request(call, timeout=None))

    async def from_traffic(  # one for each field of the request
        self,
        name: str,
        route: str,
        *,
        since: str | float | None = None,
        until: str | float | None = None,
        where: str | None = None,
        sample: int | None = None,
        seed: int | None = None,
        stratify: Sequence[str] | None = None,
        dedupe: bool | None = None,
        mask: bool | None = None,
        review: bool | None = None,
        progress: Callable[[Mapping[str, int]], None] | None = None,
    ) -> TrafficDataset:
        """Make a dataset of the requests that clients sent to a route.

        Args:
            name: what to call it; a name that exists gets a new version.
            route: a route, or `provider/model`.
            since: seconds since the epoch, ISO 8601, or how long ago (`7d`).
            until: likewise; now by default.
            where: a condition, such as `feedback.thumb == false`.
            sample: how many rows, drawn at random.
            seed: another one draws other rows.
            stratify: fields each of whose values gets its share of the sample.
            dedupe: whether requests with the same or nearly the same words become one row.
            mask: False to store personal data as it is, which is for an admin's key.
            review: whether the rows wait for a review, instead of becoming a version at once.
            progress: gets the numbers of records that were read and of rows that were written.
        """
        fields = {
            "name": name, "route": route, "since": since, "until": until, "where": where,
            "sample": sample, "seed": seed, "stratify": stratify, "dedupe": dedupe, "mask": mask,
            "review": review,
        }  # fmt: skip
        connection = self._connection
        events = calls.Events()
        timeouts = httpx.Timeout(connection.timeout, read=calls.QUIET_S)
        try:
            async with connection.stream(calls.from_traffic(fields), timeout=timeouts) as response:
                if response.is_error:
                    await response.aread()
                    raise calls.failure(response)
                async for line in response.aiter_lines():
                    event = events.line(line)
                    if event is None:
                        continue
                    if event[0] == "end":
                        return cast("TrafficDataset", event[1])
                    if event[0] == "error":
                        raise calls.failure_in_stream(event[1])
                    if progress is not None:
                        progress(event[1])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection.unreachable(error) from error
        raise UpstreamProtocolError("the server ended its answer before the dataset was made")

    async def label(  # one for each field of the request
        self,
        dataset: str,
        route: str,
        *,
        name: str = "",
        task: str | Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt: str | None = None,
        columns: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        limit: int | None = None,
        overwrite: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as the other client's
    ) -> Dataset:
        """Have a route write the references that rows lack; return the new version.

        Args:
            dataset: a registered dataset, or what the server may read.
            route: a route, or `provider/model`.
            name: what to call the new version; the dataset's name when empty.
            task: a task that has messages and parameters.
            messages: chat messages, their contents templates over the row's columns.
            prompt: short for one user message.
            columns: the dataset's column names mapped to known ones.
            parameters: sent with every request.
            limit: only the first so many rows.
            overwrite: whether rows that have a reference get another one.
            timeout: seconds to wait for the run; None for no limit.
        """
        run, register = calls.label(
            {
                "dataset": dataset,
                "route": route,
                "task": task,
                "messages": messages,
                "prompt": prompt,
                "columns": columns,
                "parameters": parameters,
                "limit": limit,
                "overwrite": overwrite,
            },
            name,
        )
        begun = await self._connection.request(run)
        await AsyncRuns(self._connection).wait(begun["id"], timeout=timeout)
        answer = await self._connection.request(register(begun["id"]), timeout=None)
        return cast("Dataset", answer)

    async def show(self, name: str, *, rows: int = 5) -> ShownDataset:
        """Return a version, what its columns hold, and its first rows."""
        call = calls.dataset(name, params={"rows": rows})
        return cast("ShownDataset", await self._connection.request(call))

    def rows(self, name: str, *, after: int = 0, page: int = 20) -> AsyncDatasetLines:
        """Return the rows of a version, read `page` at a time.

        Args:
            name: `name`, or `name@hash`.
            after: the number of the row before the first of them.
            page: the rows that are read at a time.
        """
        return AsyncDatasetLines(self._connection, calls.dataset_rows(name, page), after)

    async def download(self, name: str, path: str | Path) -> Path:
        """Write a version's file to `path`, byte for byte as it was uploaded."""
        return await self._connection.download(calls.dataset_content(name), path)

    async def delete(self, name: str, *, every: bool = False) -> Sequence[str]:
        """Delete a version, or with `every` all versions of a name; return them as `name@hash`."""
        call = calls.dataset(name, method="DELETE", params={"all": every})
        answer = await self._connection.request(call)
        return cast("Sequence[str]", answer["deleted"])


class AsyncExperiments:
    """`client.experiments`: runs under one name. A run joins by its document's `experiment`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, tag: str | None = None) -> Rows[Experiment]:
        """Return experiments, the one with the newest run first."""
        answer = await self._connection.request(ApiCall("GET", "/experiments", {"tag": tag}))
        return Rows(answer["data"])

    async def leaderboard(self, name: str) -> Leaderboard:
        """Return tables of what is comparable, what is not and why, and how to read them."""
        return cast("Leaderboard", await self._connection.request(calls.experiment(name)))

    async def entries(self, name: str) -> Rows[dict[str, Any]]:
        """Return the leaderboard's tables as rows: one for each output, run and route."""
        return Rows(entry_rows(await self.leaderboard(name)))

    async def change(
        self, name: str, *, tags: Sequence[str] | None = None, notes: str | None = None
    ) -> Experiment:
        """Set an experiment's tags or notes; None leaves them as they are."""
        change = {"tags": None if tags is None else list(tags), "notes": notes}
        call = calls.experiment(name, method="PATCH", body=change)
        return cast("Experiment", await self._connection.request(call))

    async def delete(self, name: str, *, runs: bool = False) -> int:
        """Delete an experiment, with `runs` its runs too; return how many runs were deleted."""
        call = calls.experiment(name, method="DELETE", runs=runs)
        answer = await self._connection.request(call)
        return int(answer["deleted_runs"])


class AsyncReview:
    """`client.review`: rows that wait for a person before they become part of a dataset."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self,
        *,
        state: str = "waiting",
        dataset: str | None = None,
        origin: str | None = None,
        route: str | None = None,
        limit: int = 50,
        after: int = 0,
    ) -> Rows[ReviewRow]:
        """Return rows, oldest first.

        Args:
            state: `waiting`, `accepted`, `rejected` or `all`.
            dataset: what they are to become rows of.
            origin: where they came from: `feedback`, `traffic` or `import`.
            route: of the requests that they are about.
            limit: the largest number of rows.
            after: the `number` of the last row of the page before.
        """
        params = {
            "state": state,
            "dataset": dataset,
            "origin": origin,
            "route": route,
            "limit": limit,
            "after": after,
        }
        answer = await self._connection.request(ApiCall("GET", "/review", params))
        return Rows(answer["data"])

    async def show(self, row_id: str) -> ReviewRow:
        """Return a row, what its checks noticed, and what was decided."""
        return cast("ReviewRow", await self._connection.request(calls.review(row_id)))

    async def add(
        self, rows: Sequence[Mapping[str, Any]], *, dataset: str = ""
    ) -> Sequence[ReviewArrival]:
        """Let rows wait for a review; return the id and the findings of each.

        Args:
            rows: each with `messages`, and `answer`, `reference` and `metadata` where it has them.
            dataset: what they are to become rows of; the config's where empty.
        """
        body = {"rows": [dict(row) for row in rows], "dataset": dataset}
        answer = await self._connection.request(ApiCall("POST", "/review", {}, body))
        return cast("Sequence[ReviewArrival]", answer["data"])

    async def edit(self, row_id: str, **changes: Any) -> ReviewRow:
        """Change a row that waits: its `messages`, `answer`, `reference` or `dataset`.

        Give the `version` that was read, and the change is a conflict if the row has changed since.
        """
        call = calls.review(row_id, method="PATCH", body=changes)
        return cast("ReviewRow", await self._connection.request(call))

    async def accept(self, row_id: str, **changes: Any) -> ReviewRow:
        """Accept a row, with changes as for `edit`."""
        call = calls.review(row_id, "accept", method="POST", body=changes)
        return cast("ReviewRow", await self._connection.request(call))

    async def reject(
        self, row_id: str, *, reason: str = "", version: int | None = None
    ) -> ReviewRow:
        """Reject a row; it is deleted when it expires."""
        body = {"reason": reason, "version": version}
        call = calls.review(row_id, "reject", method="POST", body=body)
        return cast("ReviewRow", await self._connection.request(call))

    async def undo(self, row_id: str) -> ReviewRow:
        """Let a row wait again that was decided and is in no version of its dataset."""
        call = calls.review(row_id, "undo", method="POST", body={})
        return cast("ReviewRow", await self._connection.request(call))

    async def publish(self, dataset: str = "") -> PublishedRows:
        """Register a new version of a dataset with the rows that were accepted for it."""
        call = ApiCall("POST", "/review/publish", {}, {"dataset": dataset})
        return cast("PublishedRows", await self._connection.request(call, timeout=None))


class AsyncTraffic:
    """`client.traffic`: the records of requests.

    Filters are what the query of `GET /traffic` may have: `route`, `target`, `key`, `user`,
    `request_id`, `response_id`, `conversation`, `rollout`, `arm`, `status`, `since`, `until`, and
    `class` (within `**{}`). Only `list` takes `where`, `text` and `metadata`.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self, *, limit: int = 50, before: int | None = None, **filters: str | float
    ) -> Rows[TrafficRow]:
        """Return requests, newest first.

        With `where`, `text` or `metadata`, all requests that the other filters select are looked
        through until there are enough, which may take the server a while: set `since`.

        Args:
            limit: the largest number of requests.
            before: the `number` of the last request of the page before.
            filters: see the class.
        """
        rows: Rows[TrafficRow] = Rows()
        while True:
            params = {**filters, "limit": limit - len(rows), "before": before}
            answer = await self._connection.request(ApiCall("GET", "/traffic", params))
            rows += answer["data"]
            search = answer.get("search")
            if search is None or not search["stopped"]:
                return rows
            before = answer["next"]

    async def show(self, request_id: str, *, key: str | None = None) -> TrafficRow:
        """Return a request, with its bodies where they were stored.

        Args:
            request_id: its `x-evalrouter-record`, or its `x-request-id`.
            key: the id of the key that has sent that `x-request-id`; by default the client's own.
        """
        call = ApiCall("GET", f"/traffic/{calls.quoted(request_id)}", {"key": key})
        return cast("TrafficRow", await self._connection.request(call))

    async def totals(
        self, by: Sequence[str] = (), *, limit: int = 50, **filters: str | float
    ) -> Rows[dict[str, Any]]:
        """Return requests, failures, tokens and cost, added up in groups, the largest first.

        Args:
            by: what to group by: `route`, `target`, `key`, `user`, `class`, `status`.
            limit: the largest number of groups.
            filters: see the class; of the last day, where they have no `since`.
        """
        params = {**filters, "by": ",".join(by) or None, "limit": limit}
        answer = await self._connection.request(ApiCall("GET", "/traffic/totals", params))
        return Rows(answer["data"])

    async def delete(
        self, request_id: str | None = None, **filters: str | float
    ) -> DeletedRequests:
        """Delete the records of a request, or of those that filters select, with their bodies.

        Args:
            request_id: its `x-evalrouter-record`, or an `x-request-id`.
            filters: see the class; beside `request_id` only `key`, which has sent that
                `x-request-id`, by default the client's own.

        Returns:
            How many were deleted, and where else their texts may be.
        """
        deleted = related = 0
        while True:
            answer = await self._connection.request(calls.delete_traffic(request_id, filters))
            deleted += answer["deleted"]
            related += answer["related"]
            if answer["complete"]:
                return DeletedRequests(
                    deleted=deleted, related=related, elsewhere=answer["elsewhere"]
                )


class AsyncFeedback:
    """`client.feedback`: what people and programs say of answers.

    Filters are what the query of `GET /feedback` may have: `request_id`, `conversation`, `name`,
    `kind`, `user`, `route`, `rollout`, `key`, `since`, `until` and `history`.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def give(
        self,
        request_id: str | None = None,
        *,
        name: str,
        value: bool | float | str | None = None,
        correction: str | Mapping[str, Any] | None = None,
        conversation: str | None = None,
        comment: str = "",
        user: str = "",
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        answer: str | None = None,
        model: str | None = None,
        consent: bool | None = None,
    ) -> FeedbackRow:
        """Give feedback about a request, a conversation, or a text that is sent along.

        Args:
            request_id: the answer's header `x-evalrouter-record`, its `x-request-id` or its `id`.
            name: what it says something about.
            value: a truth value, a number or a text.
            correction: in place of a value, the answer that should have been given.
            conversation: what it is about in place of a request.
            comment: why.
            user: who gives it; later feedback of the same user supersedes it.
            metadata: anything else.
            idempotency_key: what the request is repeated by.
            messages: the conversation itself, where no body of it is stored.
            answer: what was answered, with `messages`.
            model: the route that answered, where there is no request_id.
            consent: whether whoever the conversation belongs to wants it to be stored.
        """
        given = {
            "request_id": request_id,
            "conversation": conversation,
            "name": name,
            "value": value if correction is None else {"correction": correction},
            "comment": comment,
            "user": user,
            "metadata": metadata,
            "idempotency_key": idempotency_key,
            "messages": messages,
            "answer": answer,
            "model": model,
            "consent": consent,
        }
        body = {key: value for key, value in given.items() if value is not None}
        call = ApiCall("POST", "/feedback", body=body)
        return cast("FeedbackRow", await self._connection.request(call))

    async def list(
        self, *, limit: int = 50, before: int | None = None, **filters: str | float
    ) -> Rows[FeedbackRow]:
        """Return feedback, newest first.

        Args:
            limit: the largest number of rows.
            before: the `number` of the last row of the page before.
            filters: see the class.
        """
        params = {**filters, "limit": limit, "before": before}
        answer = await self._connection.request(ApiCall("GET", "/feedback", params))
        return Rows(answer["data"])

    async def show(self, feedback_id: str) -> FeedbackRow:
        """Return feedback with what was sent along."""
        call = ApiCall("GET", f"/feedback/{calls.quoted(feedback_id)}")
        return cast("FeedbackRow", await self._connection.request(call))

    async def delete(self, feedback_id: str) -> int:
        """Delete feedback and what it has superseded; return how many rows that were."""
        call = ApiCall("DELETE", f"/feedback/{calls.quoted(feedback_id)}")
        answer = await self._connection.request(call)
        return cast("int", answer["deleted"])


class AsyncJudges:
    """`client.judges`: calibrations, comparisons and tournaments of judges."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self,
        *,
        judge: str | None = None,
        kind: StudyKind | None = None,
        rubric: str | None = None,
        limit: int = 50,
    ) -> Rows[Study]:
        """Return studies, newest first, without their `detail`.

        Args:
            judge: only those of this judge.
            kind: only those of this kind.
            rubric: only those that used it: a stock rubric, or the twelve digits after `rubric:`
                in the `grading` of a study.
            limit: the largest number of studies.
        """
        params = {"judge": judge, "kind": kind, "rubric": rubric, "limit": limit}
        answer = await self._connection.request(ApiCall("GET", "/eval/judges", params))
        return Rows(answer["data"])

    async def show(self, study_id: str) -> Study:
        """Return a study with its report and what it was computed from."""
        call = ApiCall("GET", f"/eval/judges/studies/{calls.quoted(study_id)}")
        return cast("Study", await self._connection.request(call))

    async def html(self, study_id: str) -> str:
        """Return a study as a section of HTML."""
        call = ApiCall("GET", f"/eval/judges/studies/{calls.quoted(study_id)}/fragment")
        return await self._connection.text(call)

    async def calibration(self, judge: str) -> dict[str, Any]:
        """Return a judge's newest calibration, and its change since the one before."""
        call = ApiCall("GET", f"/eval/judges/{calls.model_path(judge)}/calibration")
        return cast("dict[str, Any]", await self._connection.request(call))


class AsyncModels:
    """`client.models`: what `model` may be in a request; OpenAI's package sends requests."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Rows[dict[str, Any]]:
        """Return every route, and the providers' models as far as they could be listed."""
        answer = await self._connection.request(ApiCall("GET", "/v1/models"))
        return Rows(answer["data"])

    async def show(self, name: str) -> dict[str, Any]:
        """Return one route or `provider/model`."""
        call = ApiCall("GET", f"/v1/models/{calls.model_path(name)}")
        return cast("dict[str, Any]", await self._connection.request(call))

    async def versions(self, target: str | None = None) -> Rows[TargetVersions]:
        """Return what one `provider/model`, or each, claimed to be in its answers."""
        call = ApiCall("GET", "/models/versions", {"target": target})
        answer = await self._connection.request(call)
        return Rows(answer["data"])

    async def retirements(
        self, *, target: str | None = None, candidate: str | None = None
    ) -> Rows[RetiringModel]:
        """Return models of routes and watches that will be shut down, with proposed migrations.

        Args:
            target: only this `provider/model`.
            candidate: the model that migrations of `target` are to go to.
        """
        params = {"target": target, "candidate": candidate}
        answer = await self._connection.request(ApiCall("GET", "/models/retirements", params))
        return Rows(answer["data"])


class AsyncWatches:
    """`client.watches`: what is sent to models again and again, to see whether they change."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Rows[WatchView]:
        """Return every watch, with its state and the evidence of a change."""
        answer = await self._connection.request(ApiCall("GET", "/watches"))
        return Rows(answer["data"])

    async def show(
        self,
        name: str,
        *,
        signal: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> WatchView:
        """Return a watch with its `references`, its newest `probes`, and `versions`.

        Args:
            name: the watch's name.
            signal: only its probes of this signal: `probe`, or one of its live signals.
            before: only those with smaller numbers.
            limit: how many probes.
        """
        params = {"signal": signal, "before": before, "limit": limit}
        call = ApiCall("GET", f"/watches/{calls.quoted(name)}", params)
        return cast("WatchView", await self._connection.request(call))

    async def probe(self, name: str) -> WatchProbe:
        """Send a probe now, and return what came of it."""
        call = ApiCall("POST", f"/watches/{calls.quoted(name)}/probe")
        return cast("WatchProbe", await self._connection.request(call))

    async def pin(self, name: str, reason: str) -> WatchView:
        """Begin a new reference, which the next probes make."""
        call = ApiCall("POST", f"/watches/{calls.quoted(name)}/pin", {}, {"reason": reason})
        return cast("WatchView", await self._connection.request(call))


class AsyncRoutes:
    """`client.routes`: the routes as they stand, and how to change them while the server runs."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Rows[RouteView]:
        """Return every route, and whether it was set at run time."""
        answer = await self._connection.request(ApiCall("GET", "/routes"))
        return Rows(answer["data"])

    async def show(self, name: str) -> RouteView:
        """Return one route."""
        call = ApiCall("GET", f"/routes/{calls.quoted(name)}")
        return cast("RouteView", await self._connection.request(call))

    async def set(
        self, name: str, route: Mapping[str, Any], *, version: str | None = None, reason: str = ""
    ) -> RouteView:
        """Set a route, new or not, without dropping a request.

        await client.routes.set("summarizer", {"targets": [{"model": "openai/gpt-4o-mini"}]})

        Args:
            name: the route's name.
            route: as in the config file.
            version: the version that it was shown with, to be refused where the route has another
                by now; "" for a new route, None for whatever there is.
            reason: why; it is stored with the new version.
        """
        params = {"version": version, "reason": reason or None}
        call = ApiCall("PUT", f"/routes/{calls.quoted(name)}", params, dict(route))
        return cast("RouteView", await self._connection.request(call))

    async def delete(self, name: str, *, version: str | None = None, reason: str = "") -> None:
        """Drop what was set at run time; the config file's route, if it has one, is back."""
        params = {"version": version, "reason": reason or None}
        await self._connection.request(ApiCall("DELETE", f"/routes/{calls.quoted(name)}", params))

    async def versions(
        self, name: str, *, before: int | None = None, limit: int = 50
    ) -> Rows[RouteVersion]:
        """Return what a route was, newest first: each version, who made it so, and why."""
        params = {"before": before, "limit": limit}
        answer = await self._connection.request(
            ApiCall("GET", f"/routes/{calls.quoted(name)}/versions", params)
        )
        return Rows(answer["data"])

    async def learn(self, name: str) -> LearnedModel:
        """Begin to learn a route with the strategy `learned`; `learned` says when it is done."""
        call = ApiCall("POST", f"/routes/{calls.quoted(name)}/learned")
        return cast("LearnedModel", await self._connection.request(call))

    async def learned(self, name: str) -> LearnedReport:
        """Return a learned route's model, its held-out test, and what it did lately."""
        call = ApiCall("GET", f"/routes/{calls.quoted(name)}/learned")
        return cast("LearnedReport", await self._connection.request(call))

    async def targets(self) -> Rows[TargetRow]:
        """Return every target of the routes, its health in the process that answers, its price."""
        answer = await self._connection.request(ApiCall("GET", "/targets"))
        return Rows(answer["data"])

    async def shadows(self) -> Rows[ShadowView]:
        """Return the routes that have a shadow, with what was judged and why the rest was not."""
        answer = await self._connection.request(ApiCall("GET", "/shadows"))
        return Rows(answer["data"])

    async def shadow(self, name: str) -> ShadowView:
        """Return a route's shadow: its `report` has the candidates beside what clients got."""
        call = ApiCall("GET", f"/routes/{calls.quoted(name)}/shadow")
        return cast("ShadowView", await self._connection.request(call))

    async def pause_shadow(self, name: str, reason: str) -> ShadowView:
        """Send no request of a route to its candidates until the shadow is resumed."""
        return await self._change_shadow(name, {"action": "pause", "reason": reason})

    async def resume_shadow(self, name: str, reason: str = "") -> ShadowView:
        """Send requests of a route to its candidates again."""
        return await self._change_shadow(name, {"action": "resume", "reason": reason})

    async def what_if(
        self,
        policy: Mapping[str, Any],
        *,
        route: str = "",
        value: str = "",
        since: str | float | None = None,
        until: str | float | None = None,
    ) -> WhatIf:
        """Return what a routing policy would have brought that was never run.

        await client.routes.what_if({"weights": {"openai/gpt-4o-mini": 1}}, route="chat")

        Args:
            policy: `weights`, a `strategy` or `rules`, as in the file of `evalrouter what-if`.
            route: whose requests are read; by default the policy's `route`.
            value: what is to be high: `feedback:NAME` or `shadow:OUTPUT`.
            since: seconds since the epoch, ISO 8601, or how long ago (`30d`); by default all.
            until: likewise; by default now.
        """
        body = {
            "policy": dict(policy),
            "route": route,
            "value": value,
            "since": since,
            "until": until,
        }
        call = ApiCall("POST", "/what-if", {}, body)
        return cast("WhatIf", await self._connection.request(call))

    async def frontier(
        self,
        route: str,
        *,
        quality: str = "errors",
        since: str | float | None = None,
        run: str = "",
    ) -> Frontier:
        """Return a route's targets by quality, cost and time, and which are worth having.

        Args:
            route: the route's name.
            quality: `feedback:NAME`, `errors`, `shadow:OUTPUT`, or the output of a run.
            since: seconds since the epoch, ISO 8601, or how long ago (`30d`); by default all.
            run: the run that has the output; by default the newest.
        """
        params = {"route": route, "quality": quality, "since": since, "run": run}
        answer = await self._connection.request(ApiCall("GET", "/frontier", params))
        return cast("Frontier", answer)

    async def _change_shadow(self, name: str, change: Mapping[str, Any]) -> ShadowView:
        call = ApiCall("POST", f"/routes/{calls.quoted(name)}/shadow", {}, dict(change))
        return cast("ShadowView", await self._connection.request(call))


class AsyncEvidence:
    """`client.evidence`: files from which others recompute the numbers of runs and rollouts."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self, *, subject: str | None = None, before: str | None = None, limit: int = 50
    ) -> Rows[EvidenceBundle]:
        """Return bundles, newest first, of one run or rollout or of all.

        Args:
            subject: the id of a run or a rollout.
            before: the id of the last bundle of the page before.
            limit: the largest number of bundles.
        """
        params = {"subject": subject, "before": before, "limit": limit}
        answer = await self._connection.request(ApiCall("GET", "/evidence", params))
        return Rows(answer["data"])

    async def create(
        self, subject: str, *, bodies: Literal["masked", "keep", "hashes"] = "masked"
    ) -> EvidenceBundle:
        """Have the server write a bundle, signed with its own key if it has one.

        Args:
            subject: the id of a run that has ended, or of a rollout.
            bodies: whether texts are without personal data, as they were, or only their hashes.
        """
        call = ApiCall("POST", "/evidence", {}, {"subject": subject, "bodies": bodies})
        return cast("EvidenceBundle", await self._connection.request(call))

    async def download(self, bundle_id: str, path: str | Path) -> Path:
        """Write a bundle to `path`; `evalrouter verify` reads it."""
        call = ApiCall("GET", f"/evidence/{calls.quoted(bundle_id)}")
        return await self._connection.download(call, path)

    async def delete(self, bundle_id: str) -> None:
        """Delete a bundle from the server; copies of it stay where they are."""
        await self._connection.request(ApiCall("DELETE", f"/evidence/{calls.quoted(bundle_id)}"))


class AsyncRollouts:
    """`client.rollouts`: candidates that get a growing share of a route's requests."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, route: str | None = None, limit: int = 50) -> Rows[Rollout]:
        """Return rollouts, newest first, of one route or of all."""
        params = {"route": route, "limit": limit}
        answer = await self._connection.request(ApiCall("GET", "/rollouts", params))
        return Rows(answer["data"])

    async def start(
        self, route: str, candidate: str, *, reason: str = "", force: bool = False, **settings: Any
    ) -> Rollout:
        """Give a candidate the first step's share of a route's requests.

        await client.rollouts.start("summarizer", "mistral/mistral-small", steps=[5, 25, 50])

        Args:
            route: the route's name.
            candidate: `provider/model`.
            reason: why, for the record.
            force: whether to start it although its goals cannot be shown with the route's traffic.
            settings: as in a route's `rollout` in the config file.
        """
        body = {**settings, "candidate": candidate, "reason": reason, "force": force}
        call = ApiCall("POST", f"/routes/{calls.quoted(route)}/rollout", {}, body)
        return cast("Rollout", await self._connection.request(call))

    async def show(self, route: str, *, rollout: str | None = None) -> RolloutReport:
        """Return a route's newest rollout, or the one of an id, with what was seen and decided."""
        call = ApiCall("GET", f"/routes/{calls.quoted(route)}/rollout", {"rollout": rollout})
        return cast("RolloutReport", await self._connection.request(call))

    async def pause(self, route: str, reason: str, *, revision: int | None = None) -> Rollout:
        """Keep the candidate's share as it is, and decide nothing until it is resumed.

        Args:
            route: the route's name.
            reason: why, for the record.
            revision: the rollout's when it was looked at, to be refused where it has changed since.
        """
        return await self._decide(route, "pause", reason, revision)

    async def resume(self, route: str, reason: str, *, revision: int | None = None) -> Rollout:
        """Go on where it was paused; see `pause`."""
        return await self._decide(route, "resume", reason, revision)

    async def promote(self, route: str, reason: str, *, revision: int | None = None) -> Rollout:
        """Give the candidate all of the route's requests, whatever was shown; see `pause`."""
        return await self._decide(route, "promote", reason, revision)

    async def rollback(self, route: str, reason: str, *, revision: int | None = None) -> Rollout:
        """Take all requests from the candidate, also after its promotion; see `pause`."""
        return await self._decide(route, "rollback", reason, revision)

    async def _decide(self, route: str, action: str, reason: str, revision: int | None) -> Rollout:
        body = {"reason": reason, "revision": revision}
        call = ApiCall("POST", f"/routes/{calls.quoted(route)}/rollout/{action}", {}, body)
        return cast("Rollout", await self._connection.request(call))


class AsyncSchedules:
    """`client.schedules`: runs that are executed at their times."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Rows[Schedule]:
        """Return every schedule of the server's config, with what came of the last time."""
        answer = await self._connection.request(ApiCall("GET", "/schedules"))
        return Rows(answer["data"])

    async def show(
        self, name: str, *, limit: int = 50, before: float | None = None
    ) -> ScheduleReport:
        """Return a schedule with the times that it was due, newest first, and their scores.

        Args:
            name: the schedule's name.
            limit: how many times at most.
            before: only times that were due before, in seconds since the epoch.
        """
        params = {"limit": limit, "before": before}
        call = ApiCall("GET", f"/schedules/{calls.quoted(name)}", params)
        return cast("ScheduleReport", await self._connection.request(call))

    async def run(self, name: str, reason: str = "") -> ScheduledRun:
        """Begin a run now; its `run_id` can be followed as any run."""
        return cast("ScheduledRun", await self._post(name, "run", {"reason": reason}))

    async def pause(self, name: str, reason: str) -> Schedule:
        """Begin no run at its times until it is resumed."""
        return cast("Schedule", await self._post(name, "pause", {"reason": reason}))

    async def resume(self, name: str, reason: str) -> Schedule:
        """Execute it at its times again, from now on."""
        return cast("Schedule", await self._post(name, "resume", {"reason": reason}))

    async def accept(self, name: str, reason: str, *, run: str | None = None) -> Schedule:
        """Compare the next runs with a run of the schedule.

        Args:
            name: the schedule's name.
            reason: why, for the record.
            run: the run's id; None for the last one that completed, if it passed its gates.
        """
        return cast("Schedule", await self._post(name, "accept", {"reason": reason, "run": run}))

    async def _post(self, name: str, action: str, body: Mapping[str, Any]) -> Any:
        call = ApiCall("POST", f"/schedules/{calls.quoted(name)}/{action}", {}, dict(body))
        return await self._connection.request(call)


class AsyncAlerts:
    """`client.alerts`: what is wrong or was, and the messages about it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self, *, state: AlertState | None = None, limit: int = 50, before: str | None = None
    ) -> Rows[AlertView]:
        """Return alerts, newest first, with what became of the messages about them.

        Args:
            state: `pending`, `firing` or `resolved`; None for all.
            limit: at most so many.
            before: the id of the previous page's last alert.
        """
        params = {"state": state, "limit": limit, "before": before}
        answer = await self._connection.request(ApiCall("GET", "/alerts", params))
        return Rows(answer["data"])

    async def show(self, alert_id: str) -> AlertReport:
        """Return an alert, and the other times when it was there."""
        call = ApiCall("GET", f"/alerts/{calls.quoted(alert_id)}")
        return cast("AlertReport", await self._connection.request(call))

    async def silence(self, alert_id: str, reason: str, *, seconds: float) -> AlertView:
        """Silence an alert for so many seconds, also when it comes back; 0 ends the silence."""
        body = {"reason": reason, "seconds": seconds}
        call = ApiCall("POST", f"/alerts/{calls.quoted(alert_id)}/silence", {}, body)
        return cast("AlertView", await self._connection.request(call))

    async def test(self, receiver: str) -> Delivery:
        """Send a receiver of the config a test alert, and return what became of it."""
        call = ApiCall("POST", "/alerts/test", {}, {"receiver": receiver})
        return cast("Delivery", await self._connection.request(call))


class AsyncProviders:
    """`client.providers`: the providers of the server's config."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Rows[dict[str, Any]]:
        """Return every provider with its kind."""
        return Rows(await self._connection.request(ApiCall("GET", "/providers")))

    async def conformance(self, name: str, *, model: str = "") -> dict[str, Any]:
        """Return the report of the last examination since the server started."""
        call = calls.conformance(name, model)
        return cast("dict[str, Any]", await self._connection.request(call))

    async def examine(self, name: str, *, model: str = "") -> dict[str, Any]:
        """Examine how well a provider speaks OpenAI's API; some seconds, some cents at most."""
        call = calls.conformance(name, model, method="POST")
        return cast("dict[str, Any]", await self._connection.request(call, timeout=None))


class AsyncServer:
    """`client.server`: the server itself."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def live(self) -> dict[str, str]:
        """Return `{"status": "alive"}` as long as the server answers."""
        answer = await self._connection.request(ApiCall("GET", "/health/live"))
        return cast("dict[str, str]", answer)

    async def ready(self) -> dict[str, str]:
        """Return the server's status; raise an exception while it can take no requests."""
        answer = await self._connection.request(ApiCall("GET", "/health/ready"))
        return cast("dict[str, str]", answer)

    async def metrics(self) -> str:
        """Return the server's metrics in Prometheus's text format."""
        return await self._connection.text(ApiCall("GET", "/metrics"))


class AsyncKeys:
    """`client.keys`: clients' keys; all but `current` need an admin key."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def current(self) -> KeyAccess:
        """Return the name and role of the client's own key, and what it may request."""
        return cast("KeyAccess", await self._connection.request(ApiCall("GET", "/key")))

    async def list(self) -> Rows[ListedKey]:
        """Return all keys, oldest first, with what each spent in its budget period."""
        answer = await self._connection.request(ApiCall("GET", "/keys"))
        return Rows(answer["data"])

    async def create(
        self,
        name: str,
        *,
        role: Role = "client",
        routes: Sequence[str] | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        parallel: int | None = None,
        budget_usd: float | None = None,
        budget_period: Literal["day", "week", "month", "total"] = "total",
        expires: str | None = None,
    ) -> CreatedKey:
        """Create a key; its `secret` is in this answer only.

        Args:
            name: what people call it.
            role: what it may do besides calling models.
            routes: the values of `model` that its requests may have; None for all.
            rpm: requests per minute.
            tpm: tokens per minute.
            parallel: requests at a time.
            budget_usd: US dollars per budget period.
            budget_period: when the budget begins anew.
            expires: `12h`, `30d`, `2w`, or a date; None for never.
        """
        body = {
            "name": name,
            "role": role,
            "routes": None if routes is None else list(routes),
            "rpm": rpm,
            "tpm": tpm,
            "parallel": parallel,
            "budget_usd": budget_usd,
            "budget_period": budget_period,
            "expires": expires,
        }
        call = ApiCall("POST", "/keys", {}, body)
        return cast("CreatedKey", await self._connection.request(call))

    async def show(self, name: str) -> ShownKey:
        """Return a key by its id or name, what it spent, and who changed it when."""
        call = ApiCall("GET", f"/keys/{calls.quoted(name)}")
        return cast("ShownKey", await self._connection.request(call))

    async def change(self, key: str, /, **changes: Any) -> ChangedKey:
        """Change a key.

        Args:
            key: the key's id or name.
            changes: arguments of `create`, with their new values; None takes a limit away.
        """
        call = ApiCall("PATCH", f"/keys/{calls.quoted(key)}", {}, changes)
        return cast("ChangedKey", await self._connection.request(call))

    async def revoke(self, name: str) -> Key:
        """Revoke a key by its id or name."""
        call = ApiCall("DELETE", f"/keys/{calls.quoted(name)}")
        return cast("Key", await self._connection.request(call))


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, calls.CHUNK_BYTES):
            yield chunk
