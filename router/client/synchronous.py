# Generated from `asynchronous.py` by `make client`: change that file, not this one.
"""`Client`: the SDK for programs that wait. `asynchronous.py` has the same methods, awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import httpx

from providers.errors import EvalrouterError
from router.client import calls
from router.client.calls import ApiCall, RunDocumentSource
from router.client.rows import Rows, entry_rows, flat_sample, frame, score_rows
from router.client.types import (
    Comparisons,
    Dataset,
    Estimate,
    Experiment,
    Leaderboard,
    Outcome,
    Progress,
    Run,
    RunState,
    SampleRow,
    ShownDataset,
)

if TYPE_CHECKING:
    import pandas as pd


class Client:
    """An evalrouter server.

    Args:
        base_url: where it listens, without /v1.
        api_key: an admin key (`er-...`), where the server asks for keys.
        timeout: seconds for one request; `wait` and uploads are not bound by it.
        http: an HTTP client of your own (proxies, certificates); it is not closed.

    Every method raises an exception of `providers.errors` when the server refuses, and
    UpstreamConnectError or UpstreamTimeoutError when it does not answer. A `RunDocumentSource` is a
    mapping, or the path of a YAML or JSON file; paths in it are the server's.

    Attributes:
        runs, datasets, experiments: their methods.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:4000",
        *,
        api_key: str | None = None,
        timeout: float = calls.TIMEOUT_S,
        http: httpx.Client | None = None,
    ) -> None:
        self._http = httpx.Client() if http is None else http
        self._own = http is None
        self._base_url = base_url.rstrip("/")
        self._headers = calls.headers(api_key)
        self._timeout = timeout
        self.runs = Runs(self)
        self.datasets = Datasets(self)
        self.experiments = Experiments(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._own:
            self._http.close()

    def compare(
        self,
        *runs: str,
        route_a: str | None = None,
        route_b: str | None = None,
        join: Literal["position", "id", "content"] | str | None = None,
        movers: int | None = None,
    ) -> Comparisons:
        """Hold two runs, or two routes of one, against each other.

        Args:
            runs: one or two run ids.
            route_a: a route of the first; every one that both have where none is named.
            route_b: a route of the second.
            join: how to pair samples of different datasets, which are refused without it.
            movers: how many of the samples that differ most are shown.
        """
        params = {"route_a": route_a, "route_b": route_b, "join": join, "movers": movers}
        return cast("Comparisons", self._ask(calls.compare(runs, params)))

    def tasks(self) -> Rows[dict[str, Any]]:
        """The tasks that a run document's `task` may name."""
        found = self._ask(ApiCall("GET", "/eval/tasks"))
        return Rows(found["data"])

    def _ask(self, call: ApiCall, **more: Any) -> Any:
        """The answer's JSON."""
        sent = call.sent()
        sent["url"] = self._base_url + sent["url"]
        sent["headers"] = {**self._headers, **sent["headers"]}
        try:
            response = self._http.request(**{"timeout": self._timeout, **sent, **more})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise calls.unreachable(error, self._base_url) from error
        return calls.decoded(response)


class Runs:
    """`client.runs`: evaluations. A run id may be shortened to a unique prefix."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, document: RunDocumentSource, **changes: Any) -> Run:
        """Begin a run; `changes` are keys of the document that are written anew.

        client.runs.create("nightly.yaml", limit=10, name="tried")
        """
        return cast("Run", self._client._ask(calls.create(document, changes)))

    def estimate(self, document: RunDocumentSource, **changes: Any) -> Estimate:
        """What the run would take in calls, tokens, money and time; nothing is kept or sent."""
        call = calls.create(document, changes, dry_run=True)
        return cast("Estimate", self._client._ask(call))

    def list(
        self,
        *,
        experiment: str | None = None,
        tag: str | None = None,
        state: RunState | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Rows[Run]:
        """Runs, newest first; `before` is the id of the last run of the page before."""
        params = {"experiment": experiment, "tag": tag, "state": state}
        call = ApiCall("GET", "/eval", {**params, "limit": limit, "before": before})
        found = self._client._ask(call)
        return Rows(found["data"])

    def report(self, run_id: str) -> Outcome:
        """The run, its report as far as it has got, and its gates."""
        return cast("Outcome", self._client._ask(calls.run(run_id)))

    def scores(self, run_id: str) -> Rows[dict[str, Any]]:
        """The report's scores as rows: one for each route and output, with its difference."""
        return Rows(score_rows(self.report(run_id)))

    def wait(
        self,
        run_id: str,
        *,
        progress: Callable[[Progress], object] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Wait until the run stops (completed, failed, cancelled or paused), and read its report.

        The server may be restarted meanwhile: it is looked for again for two minutes.

        Args:
            run_id: the run.
            progress: is called whenever there is news.
            timeout: seconds; None for as long as it takes.

        Raises:
            TimeoutError: it is still going on; nothing was done to it.
        """
        for news in self.events(run_id, timeout=timeout):
            if progress is not None:
                progress(news)
        return self.report(run_id)

    def events(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
    ) -> Iterator[Progress]:
        """Its progress whenever there is news, until it stops; otherwise as `wait`."""
        client = self._client
        call = calls.run(run_id, "events")
        started = heard = time.monotonic()
        pauses, before = calls.pauses(), None
        while True:
            left = None if timeout is None else timeout - (time.monotonic() - started)
            if left is not None and left <= 0:
                raise TimeoutError(f"{run_id} is still going on after {timeout:g} s")
            quiet = calls.QUIET_S if left is None else min(calls.QUIET_S, left)
            problem: EvalrouterError | None = None
            try:
                with client._http.stream(
                    call.method,
                    client._base_url + call.path,
                    headers=client._headers,
                    timeout=httpx.Timeout(client._timeout, read=quiet),
                ) as response:
                    if response.is_error:
                        response.read()
                        problem = calls.failure(response)
                    else:
                        found = calls.Events()
                        for line in response.iter_lines():
                            event = found.line(line)
                            if event is None:
                                continue
                            heard, pauses = time.monotonic(), calls.pauses()
                            if event != before:
                                before = event
                                yield event[1]
                            if event[0] == "end":
                                return
                            if timeout is not None and heard - started > timeout:
                                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise calls.unreachable(error, client._base_url) from error
            except httpx.HTTPError as error:
                # Also where nothing has changed for a while: a server that is there says so anew.
                problem = calls.unreachable(error, client._base_url)
            if problem is not None and (
                problem.status < 500 or time.monotonic() - heard > calls.PATIENCE_S
            ):
                raise problem
            time.sleep(next(pauses))

    def samples(self, run_id: str, *, route: str | None = None, page: int = 100) -> Samples:
        """The run's answers with their scores, sample by sample, read `page` samples at a time.

        for row in client.runs.samples(run_id):
            print(row["sample"]["id"], row["route"], row["answer"])
        """
        return Samples(self._client, run_id, route, page)

    def pause(self, run_id: str) -> Run:
        """Ask nothing more; what is in flight is finished. `resume` goes on."""
        return cast("Run", self._client._ask(calls.run(run_id, "pause", method="POST")))

    def cancel(self, run_id: str) -> Run:
        """Stop it at once. What is answered stays, and `resume` goes on."""
        return cast("Run", self._client._ask(calls.run(run_id, "cancel", method="POST")))

    def resume(
        self,
        run_id: str,
        *,
        retry_failed: bool = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Run:
        """Go on where it stopped; no finished request is sent again.

        Args:
            run_id: the run.
            retry_failed: ask again where the target failed.
            limits: those of the document's `limits` that change.
        """
        call = calls.run(run_id, "resume", method="POST")
        call = call._replace(
            params={"retry_failed": retry_failed}, body={"limits": dict(limits or {})}
        )
        return cast("Run", self._client._ask(call))

    def rescore(self, run_id: str, metrics: Sequence[str | Mapping[str, Any]] = ()) -> Run:
        """Score its answers with other metrics, or with its own anew; nothing is asked."""
        call = calls.run(run_id, "rescore", method="POST")._replace(body={"metrics": list(metrics)})
        return cast("Run", self._client._ask(call))

    def extend(self, run_id: str, *, limit: int | None = None, repeats: int | None = None) -> Run:
        """Ask more samples (`limit` in all) or more repeats (`repeats` in all)."""
        body = {
            key: value
            for key, value in (("limit", limit), ("repeats", repeats))
            if value is not None
        }
        call = calls.run(run_id, "extend", method="POST")._replace(body=body)
        return cast("Run", self._client._ask(call))

    def export(self, run_id: str) -> dict[str, Any]:
        """Have the server write its rows as files; the manifest says which, and where."""
        found = self._client._ask(calls.run(run_id, "export", method="POST"))
        return cast("dict[str, Any]", found)

    def delete(self, run_id: str) -> None:
        """The run with its answers and scores. One under way has to be cancelled first."""
        self._client._ask(calls.run(run_id, method="DELETE"))


class Samples:
    """A run's rows; each loop over it reads them anew."""

    def __init__(self, client: Client, run_id: str, route: str | None, page: int) -> None:
        self._client = client
        self._call = calls.run(run_id, "samples")._replace(params={"route": route, "limit": page})

    def __iter__(self) -> Iterator[SampleRow]:
        after: int | None = 0
        while after is not None:
            params = {**self._call.params, "after": after}
            page = self._client._ask(self._call._replace(params=params))
            yield from page["data"]
            after = page["next"]

    def to_pandas(self) -> pd.DataFrame:
        """All of it as a DataFrame; columns `row.NAME` are the dataset's, `score.NAME` scores.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame([flat_sample(row) for row in self])


class Datasets:
    """`client.datasets`: datasets that the server keeps. `name@hash` names one version."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, name: str | None = None) -> Rows[Dataset]:
        """Versions, newest first."""
        found = self._client._ask(ApiCall("GET", "/datasets", {"name": name}))
        return Rows(found["data"])

    def upload(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Dataset:
        """Send a file of this machine; the same content again changes nothing.

        Args:
            path: a JSONL, JSON, CSV, TSV or parquet file.
            name: what to call it; the file's name without extension when None.
            columns: the file's own column names mapped to known ones, {"article": "input"}.
        """
        call, file = calls.upload(path, name, columns)
        content = _chunks(file)
        return cast("Dataset", self._client._ask(call, content=content, timeout=None))

    def register(
        self, source: str, *, name: str = "", columns: Mapping[str, str] | None = None
    ) -> Dataset:
        """Have the server fetch one: a path of its own, https://, s3:// or hf://."""
        body = {"source": source, "name": name, "columns": dict(columns or {})}
        call = ApiCall("POST", "/datasets", {}, body)
        return cast("Dataset", self._client._ask(call, timeout=None))

    def show(self, name: str, *, rows: int = 5) -> ShownDataset:
        """A version, what its columns hold, and its first rows."""
        call = calls.dataset(name, params={"rows": rows})
        return cast("ShownDataset", self._client._ask(call))

    def download(self, name: str, path: str | Path) -> Path:
        """Write its file to `path`, byte for byte as it came."""
        client, target = self._client, Path(path)
        url = client._base_url + calls.dataset(name).path + "/content"
        try:
            with client._http.stream(
                "GET", url, headers=client._headers, timeout=client._timeout
            ) as response:
                if response.is_error:
                    response.read()
                    raise calls.failure(response)
                with target.open("wb") as file:
                    for chunk in response.iter_bytes(calls.CHUNK_BYTES):
                        file.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise calls.unreachable(error, client._base_url) from error
        return target

    def delete(self, name: str, *, every: bool = False) -> Sequence[str]:
        """Forget a version, or with `every` all of a name; which, as `name@hash`."""
        call = calls.dataset(name, method="DELETE", params={"all": every})
        found = self._client._ask(call)
        return cast("Sequence[str]", found["deleted"])


class Experiments:
    """`client.experiments`: runs under one name. A run joins by its document's `experiment`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, tag: str | None = None) -> Rows[Experiment]:
        """Experiments, the one with the newest run first."""
        found = self._client._ask(ApiCall("GET", "/experiments", {"tag": tag}))
        return Rows(found["data"])

    def leaderboard(self, name: str) -> Leaderboard:
        """Tables of what is comparable, what is not and why, and how to read them."""
        return cast("Leaderboard", self._client._ask(calls.experiment(name)))

    def entries(self, name: str) -> Rows[dict[str, Any]]:
        """The leaderboard's tables as rows: one for each output, run and route."""
        return Rows(entry_rows(self.leaderboard(name)))

    def change(
        self, name: str, *, tags: Sequence[str] | None = None, notes: str | None = None
    ) -> Experiment:
        """Set its tags or notes; None leaves them."""
        change = {"tags": None if tags is None else list(tags), "notes": notes}
        call = calls.experiment(name, method="PATCH", body=change)
        return cast("Experiment", self._client._ask(call))

    def delete(self, name: str, *, runs: bool = False) -> int:
        """Forget it; how many runs were deleted with it, which is none unless asked for."""
        call = calls.experiment(name, method="DELETE", runs=runs)
        found = self._client._ask(call)
        return int(found["deleted_runs"])


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(calls.CHUNK_BYTES):
            yield chunk
