"""Each method of the clients as a request, each refusal as an exception; no sockets here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from providers import yaml_documents
from providers.errors import (
    ArtifactError,
    EvalrouterError,
    InputError,
    RateLimitError,
    RequestError,
    RunDocumentError,
    StoreError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from providers.wire import UNREADABLE

RunDocumentSource = Mapping[str, Any] | str | Path

# A report over many samples takes the server a while.
TIMEOUT_S = 120.0
# The server sends nothing while nothing changes; a connection that died is noticed after this.
QUIET_S = 60.0
# How long `wait` tries to reach a server that is gone, and how long it waits in between.
PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
CHUNK_BYTES = 1 << 20


class ApiCall(NamedTuple):
    """A request to the server. `params` that are None are left out."""

    method: str
    path: str
    params: Mapping[str, Any] = {}
    body: Any = None
    headers: Mapping[str, str] = {}

    def sent(self) -> dict[str, Any]:
        """Return the arguments of httpx's `request`."""
        params = {
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in self.params.items()
            if value is not None
        }
        headers = dict(self.headers)
        sent: dict[str, Any] = {"method": self.method, "url": self.path, "params": params}
        if self.body is not None:
            sent["content"] = msgspec.json.encode(self.body)
            headers["content-type"] = "application/json"
        sent["headers"] = headers
        return sent


def run(run_id: str, action: str = "", *, method: str = "GET") -> ApiCall:
    """Return the request for a run, or for an action on it."""
    return ApiCall(method, f"/eval/{quoted(run_id)}" + (f"/{action}" if action else ""))


def notes(run_id: str, position: int, *, method: str = "GET") -> ApiCall:
    """Return the request for people's notes on a sample of a run."""
    return run(run_id, f"samples/{position}/notes", method=method)


def quoted(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


def model_path(name: str) -> str:
    """Return a route or `provider/model` as the end of a path."""
    return quote(name, safe="/")


def conformance(name: str, model: str, *, method: str = "GET") -> ApiCall:
    """Return the request about a provider's conformance."""
    path = f"/providers/{quoted(name)}/conformance"
    return ApiCall(method, path, {"model": model or None})


def create(
    document: RunDocumentSource,
    changes: Mapping[str, Any],
    *,
    key: str | None = None,
    dry_run: bool = False,
) -> ApiCall:
    """Return the request for a new run, from a document or its file, with changed keys."""
    read = _read(document) if isinstance(document, str | Path) else _as_object(document)
    params = {"dry_run": True if dry_run else None, "key": key}
    return ApiCall("POST", "/eval", params, {**read, **changes})


def _read(path: str | Path) -> Mapping[str, Any]:
    try:
        document = yaml_documents.decode_file(Path(path))
    except OSError as error:
        raise RunDocumentError(f"{path}: {error.strerror}") from None
    except UNREADABLE as error:
        raise RunDocumentError(f"{path}: not YAML: {error}") from None
    return _as_object(document, f"{path}: ")


def _as_object(document: Any, where: str = "") -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        kind = yaml_documents.kind_of(document)
        raise RunDocumentError(f"{where}the document must be an object (got {kind})")
    return document


def dataset(name: str, *, method: str = "GET", params: Mapping[str, Any] | None = None) -> ApiCall:
    """Return the request for a dataset, `name` or `name@hash`."""
    return ApiCall(method, f"/datasets/{quote(name, safe='@')}", params or {})


def dataset_content(name: str) -> ApiCall:
    """Return the request for a dataset's file."""
    call = dataset(name)
    return call._replace(path=f"{call.path}/content")


def dataset_rows(name: str, limit: int) -> ApiCall:
    """Return the request for the rows of a dataset, without where they begin."""
    call = dataset(name, params={"limit": limit})
    return call._replace(path=f"{call.path}/rows")


def upload(
    source: str | Path, name: str | None, columns: Mapping[str, str] | None, delimiter: str
) -> tuple[ApiCall, Path]:
    """Return the request for an upload without its content, and the file that is the content.

    Raises:
        InputError: the file does not exist.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    params = {
        "filename": path.name,
        "column": [f"{column}={known}" for column, known in (columns or {}).items()],
        "delimiter": delimiter or None,
    }
    # So that a file that is too large is refused before it has been sent.
    headers = {"content-length": str(path.stat().st_size)}
    call = dataset(name or path.stem, method="PUT", params=params)
    return call._replace(headers=headers), path


def rows_as_file(name: str, rows: Iterable[Mapping[str, Any]]) -> tuple[ApiCall, bytes]:
    """Return the request for an upload without its content, and the content: the rows as JSONL."""
    content = b"".join(msgspec.json.encode(dict(row)) + b"\n" for row in rows)
    return dataset(name, method="PUT", params={"filename": "rows.jsonl"}), content


def from_traffic(fields: Mapping[str, Any]) -> ApiCall:
    """Return the request that makes a dataset of recorded requests."""
    body = {name: value for name, value in fields.items() if value is not None}
    return ApiCall("POST", "/datasets/from-traffic", {}, body)


def label(fields: Mapping[str, Any], name: str) -> tuple[ApiCall, Callable[[str], ApiCall]]:
    """Return the request that begins to label a dataset, and, by run, the one that registers it."""
    body = {key: value for key, value in fields.items() if value is not None}

    def register(run_id: str) -> ApiCall:
        path = f"/datasets/label/{quoted(run_id)}"
        return ApiCall("POST", path, {}, {"name": name})

    return ApiCall("POST", "/datasets/label", {}, body), register


def experiment(name: str, *, method: str = "GET", body: Any = None, **params: Any) -> ApiCall:
    """Return the request for an experiment."""
    return ApiCall(method, f"/experiments/{quoted(name)}", params, body)


def review(row_id: str, action: str = "", *, method: str = "GET", body: Any = None) -> ApiCall:
    """Return the request for a row to review, or for an action on it."""
    return ApiCall(method, f"/review/{quoted(row_id)}{action and f'/{action}'}", {}, body)


def delete_traffic(request_id: str | None, filters: Mapping[str, str | float]) -> ApiCall:
    """Return the request that deletes records of a request, or of those that filters select.

    Raises:
        InputError: both are given, so that it is not clear which of them is meant.
    """
    if request_id is None:
        return ApiCall("DELETE", "/traffic", filters)
    if filters.keys() - {"key"}:
        raise InputError("delete the records of a request_id or of filters, not of both")
    return ApiCall("DELETE", f"/traffic/{quoted(request_id)}", filters)


def compare(runs: tuple[str, ...], params: Mapping[str, Any]) -> ApiCall:
    """Return the request that compares two runs, or the routes of one."""
    return ApiCall("GET", "/eval/compare", {"runs": ",".join(runs), **params})


def margins(of_outputs: Mapping[str, float]) -> str | None:
    """Return margins as the query has them; None without any."""
    return ",".join(f"{name}={margin!r}" for name, margin in of_outputs.items()) or None


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


# Answers


def decoded(response: httpx.Response) -> Any:
    """Return the JSON of an answer that has been read.

    Raises:
        EvalrouterError: the server refused; see `failure`.
        UpstreamProtocolError: the answer is not JSON.
    """
    if response.is_error:
        raise failure(response)
    if not response.content:
        return None
    try:
        return msgspec.json.decode(response.content)
    except UNREADABLE as error:
        raise UpstreamProtocolError(f"{response.url} did not answer with JSON: {error}") from None


def failure(response: httpx.Response) -> EvalrouterError:
    """Return the exception that a refusal stands for, from OpenAI's error object."""
    try:
        body = msgspec.json.decode(response.content)["error"]
        message, code, param = str(body["message"]), body.get("code"), body.get("param")
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        text = response.text[:500]
        message, code, param = (
            f"HTTP {response.status_code} from {response.url}: {text}",
            None,
            None,
        )
    error = _exception(response.status_code, message, code, param)
    if isinstance(error, RateLimitError):
        error.headers = dict(response.headers)
        try:
            error.retry_after = float(response.headers["retry-after"])
        except (KeyError, ValueError):
            error.retry_after = None
    return error


def failure_in_stream(event: Mapping[str, Any]) -> EvalrouterError:
    """Return the exception that an event named `error` stands for."""
    error = event["error"]
    return _exception(event["status"], error["message"], error["code"], error["param"])


def _exception(status: int, message: str, code: str | None, param: str | None) -> EvalrouterError:
    kind = (None if code is None else _BY_CODE.get(code)) or _BY_STATUS.get(status)
    if kind is None:
        kind = RequestError if status < 500 else EvalrouterError
    # The message already has what the constructors would add to it.
    error = kind.__new__(kind, message)
    EvalrouterError.__init__(error, message, param=param, code=code)
    error.status = status
    return error


def unreachable(error: httpx.HTTPError | httpx.InvalidURL, base_url: str) -> EvalrouterError:
    """Return the exception for a server that did not answer."""
    if isinstance(error, httpx.TimeoutException):
        phase = "connect" if isinstance(error, httpx.ConnectTimeout) else "first_byte"
        return UpstreamTimeoutError(f"{base_url} did not answer in time", phase=phase)
    return UpstreamConnectError(f"{base_url}: {error or type(error).__name__}")


def _kinds(kind: type[EvalrouterError]) -> Iterator[type[EvalrouterError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


_BY_CODE = {
    kind.code: kind
    for top in (InputError, StoreError, ArtifactError)
    for kind in _kinds(top)
    if kind.code is not None and "code" in vars(kind)
}
_BY_STATUS = {
    kind.status: kind
    for kind in reversed(RequestError.__subclasses__())
    if kind.status != RequestError.status
}


# Events


class Events:
    """Server-sent events from their lines; only the fields that this server uses."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def line(self, line: str) -> tuple[str, Any] | None:
        """Return the event that this line ends; None where it ends none.

        Raises:
            UpstreamProtocolError: the event is not JSON.
        """
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not data:
            return None
        try:
            return name, msgspec.json.decode(data)
        except UNREADABLE as error:
            raise UpstreamProtocolError(f"an event is not JSON: {error}") from None


def after_event(call: ApiCall, event: tuple[str, Any]) -> ApiCall:
    """Return the request that follows on where a stream broke off after an event."""
    if event[0] != "log":
        return call
    return call._replace(params={**call.params, "after": event[1]["number"]})


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each try to reach a lost server, twice as long each time."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)
