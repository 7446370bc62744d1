"""`/datasets`: upload, register, label, list, show, download and delete datasets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Request, delete, get, post, put
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import ServerSentEvent, Stream
from litestar.types import SSEData

from providers.errors import EvalrouterError, NotFoundError, RequestError, RunDocumentError
from router.api.access import Caller, InjectedCaller
from router.api.bodies import body_as, bounded_document_of, document_of
from router.api.file_responses import file_response
from router.api.injection import Injected
from router.api.multipart import is_form, read_form
from router.api.paging import Offset
from router.config.documents import convert, convert_data
from router.datasets.artifacts import file_chunks, temporary_folder
from router.datasets.registry import (
    DatasetRows,
    DatasetView,
    check_dataset_name,
    name_of,
    parse_columns,
)
from router.datasets.sources import too_large
from router.evals.labelling import LabelRequest, begin, finish
from router.loop.dataset_owners import key_of
from router.loop.traffic_dataset import (
    TrafficDatasetPlan,
    TrafficDatasetProgress,
    TrafficSelection,
    prepare,
)
from router.services import Services
from router.store.datasets import DatasetRow
from router.store.runs import Run

# How often the progress of a dataset that is being made is sent.
PROGRESS_EVERY_S = 1.0


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dataset to be registered.

    Attributes:
        source: a path below one of `datasets.roots`, or an address: https://, s3://, hf://.
        name: the dataset's name; made of the source's name when empty.
        columns: the known name of each of the file's columns, or of a dotted path into one.
        delimiter: what separates the cells of CSV and TSV; "" to find out.
    """

    source: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""
    columns: dict[str, str] = {}
    delimiter: Annotated[str, msgspec.Meta(max_length=16)] = ""


class LabelName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a labelled dataset is to be called.

    Attributes:
        name: by default that of the dataset, which gets a new version.
    """

    name: str = ""


class DatasetList(msgspec.Struct):
    """Versions, newest first; `statistics` are left to `/datasets/{name}`."""

    data: list[DatasetRow]
    object: str = "list"


class DeletedVersions(msgspec.Struct):
    """The versions that were deleted, as `name@hash`."""

    deleted: list[str]


@get("/datasets", tags=["datasets"], summary="List datasets")
async def list_datasets(
    services: Injected, caller: InjectedCaller, name: FromQuery[str | None] = None
) -> DatasetList:
    """List every version, newest first; a client's key sees those that it made of its requests."""
    rows = await services.store.datasets(name)
    if caller.only is not None:
        rows = [row for row in rows if key_of(row) == caller.only]
    return DatasetList([msgspec.structs.replace(row, statistics=()) for row in rows])


class UploadFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of an upload's form besides `file`.

    Attributes:
        name: the dataset's name; made of the file's name when empty.
        column: `own=known` for each of the file's columns that has another name.
        delimiter: what separates the cells of CSV and TSV; "" to find out.
    """

    name: Annotated[list[str], msgspec.Meta(max_length=1)] = []
    column: list[str] = []
    delimiter: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=16)]], msgspec.Meta(max_length=1)
    ] = []


@post(
    "/datasets",
    tags=["datasets"],
    summary="Register or upload a dataset",
    # `datasets.max_bytes` is the limit of a form, `server.max_body_bytes` that of JSON.
    request_max_body_size=None,
)
async def register_dataset(
    services: Injected, request: Request[Any, Any, Any], name: FromQuery[str] = ""
) -> DatasetRow:
    """Fetch and store the dataset that the body names. The same content again changes nothing.

    A body of the type `multipart/form-data` is an upload: its field `file` is the file, whose name
    ends in its format; `name`, `column` (`own=known`, may be repeated) and `delimiter` are as for
    `PUT`. The query's `name` counts where the body has none.
    """
    if is_form(request):
        return await store_upload(services, request, name=name)
    document = await bounded_document_of(request, services.config.server.max_body_bytes)
    return await register(services, convert(document, Registration, error=RequestError), name=name)


async def register(services: Services, registration: Registration, *, name: str = "") -> DatasetRow:
    """Fetch and store the dataset that a client names; `name` counts where it gives none."""
    await services.datasets.confine(registration.source)
    return await services.datasets.add(
        registration.source,
        name=registration.name or name,
        columns=registration.columns,
        delimiter=registration.delimiter,
        over_http=True,
    )


class Upload(NamedTuple):
    """A file that a form brought, and what its fields say of it.

    Attributes:
        path: where it is, for the while.
        filename: its name at the client.
        name: what the dataset is to be called; "" for a name made of the file's.
        columns: the file's own column names to known ones.
        delimiter: what separates the cells of CSV and TSV; "" to find out.
    """

    path: Path
    filename: str
    name: str
    columns: dict[str, str]
    delimiter: str


@asynccontextmanager
async def uploaded(services: Services, request: Request[Any, Any, Any]) -> AsyncIterator[Upload]:
    """Open what a form brings, for the while. Raises RequestError, BodyTooLargeError."""
    with temporary_folder() as folder:
        form = await read_form(
            request, folder, file_field="file", max_bytes=services.config.datasets.max_bytes
        )
        fields = convert_data(form.fields, UploadFields, error=RequestError)
        yield Upload(
            form.path,
            form.filename,
            name="".join(fields.name),
            columns=parse_columns(fields.column),
            delimiter="".join(fields.delimiter),
        )


async def store_upload(
    services: Services, request: Request[Any, Any, Any], *, name: str = ""
) -> DatasetRow:
    """Store the file that a form brings as a dataset; `name` counts where the form has none."""
    async with uploaded(services, request) as upload:
        return await services.datasets.upload(
            file_chunks(upload.path),
            filename=upload.filename,
            name=upload.name or name,
            columns=upload.columns,
            delimiter=upload.delimiter,
        )


@put(
    "/datasets/{name:str}",
    tags=["datasets"],
    summary="Upload a dataset",
    # `datasets.max_bytes` is the limit here.
    request_max_body_size=None,
)
async def upload_dataset(
    services: Injected,
    request: Request[Any, Any, Any],
    name: FromPath[str],
    *,
    filename: FromQuery[str],
    column: FromQuery[list[str] | None] = None,
    delimiter: Annotated[str, QueryParameter(max_length=16)] = "",
) -> DatasetRow:
    """Store the body as a file; `filename` ends in its format, `column` is `own=known`.

    `delimiter` is what separates the cells of CSV and TSV, where it is not to be found out.

    The body is read as it comes and never held in memory. The same content again changes nothing;
    other content is a new version.
    """
    max_bytes = services.config.datasets.max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(filename, max_bytes)
    return await services.datasets.upload(
        request.stream(),
        filename=filename,
        name=name,
        columns=parse_columns(column or []),
        delimiter=delimiter,
    )


@post(
    "/datasets/label",
    tags=["datasets"],
    summary="Begin to label a dataset",
    status_code=202,
)
async def begin_labels(services: Injected, request: Request[Any, Any, Any]) -> Run:
    """Start a run that sends each row without a reference to one route.

    Follow it on `/eval/{id}/events`; `POST /datasets/label/{run}` then registers its answers.
    """
    written = convert(await document_of(request), LabelRequest, error=RunDocumentError)
    roots = services.config.evaluation.roots
    return await begin(services.runs, written, base=Path(), runner="server", within=roots)


@post(
    "/datasets/label/{run_id:str}",
    tags=["datasets"],
    summary="Register a labelled dataset",
    status_code=200,
)
async def register_labels(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> DatasetRow:
    """Store the dataset with the run's answers as references; 409 until every row is answered."""
    named = await body_as(request, LabelName, default=b"{}")
    if named.name:
        check_dataset_name(named.name)
    run = await services.runs.find(run_id)
    name = named.name or name_of(run.dataset)
    return await finish(services.store, services.datasets, run, name=name)


@post(
    "/datasets/from-traffic",
    tags=["datasets"],
    summary="Make a dataset of recorded requests",
    status_code=200,
    media_type="text/event-stream",
)
async def make_from_traffic(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> ServerSentEvent:
    """Send events: `progress` while records are read, then `end` with the dataset, or `error`.

    A client's key makes datasets of its own requests, and sees them alone. `mask: false` is for
    keys of the role admin. Closing the connection stops the work.
    """
    selection = await body_as(request, TrafficSelection)
    plan = traffic_plan(selection, caller, now=time.time())
    services.traffic_datasets.check_room()
    made = _made(services, plan, caller.only)
    # What is wrong at once is an error of the usual form, which can only be sent before an event.
    first = await anext(made)

    async def events() -> AsyncIterator[SSEData]:
        async with aclosing(made):
            yield first
            async for event in made:
                yield event

    return ServerSentEvent(events())


def may_unmask(caller: Caller) -> bool:
    """Return whether a caller may have texts of requests as they are in a dataset."""
    return caller.key is None or caller.key.role == "admin"


def traffic_plan(selection: TrafficSelection, caller: Caller, *, now: float) -> TrafficDatasetPlan:
    """Check a selection of a caller, as `prepare` does."""
    return prepare(selection, now=now, may_unmask=may_unmask(caller), only=caller.only)


async def _made(
    services: Services, plan: TrafficDatasetPlan, only: str | None
) -> AsyncGenerator[SSEData]:
    """Yield events until the dataset is made. Raises what goes wrong before the first of them."""
    has_begun = False
    progress: list[TrafficDatasetProgress] = []
    making = asyncio.create_task(
        services.traffic_datasets.create(plan, only=only, progress=progress.append)
    )
    try:
        while not making.done():
            await asyncio.wait([making], timeout=PROGRESS_EVERY_S)
            if making.done() and making.exception() is not None:
                break
            if progress:
                yield _event("progress", progress[-1]._asdict())
                progress.clear()
            else:
                # Proxies end connections on which nothing is sent.
                yield {"comment": "reading"}
            has_begun = True
        yield _event("end", making.result())
    except EvalrouterError as error:
        if not has_begun:
            raise
        yield _event("error", {"status": error.status, **error.as_openai()})
    finally:
        making.cancel()
        await asyncio.wait([making])


def _event(kind: str, value: Any) -> SSEData:
    return {"event": kind, "data": msgspec.json.encode(value).decode()}


async def find_version(services: Services, caller: Caller, name: str) -> DatasetRow:
    """Return a version. Raises NotFoundError where there is none, or it is another key's."""
    try:
        row = await services.datasets.find(name)
    except NotFoundError:
        if caller.only is None:
            raise
        row = None
    if row is None or (caller.only is not None and key_of(row) != caller.only):
        # The registry's message names datasets of others.
        raise NotFoundError(f"There is no dataset {name!r}.")
    return row


@get("/datasets/{name:str}", tags=["datasets"], summary="Show a dataset")
async def show_dataset(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    rows: Annotated[int, QueryParameter(ge=0, le=100)] = 5,
) -> DatasetView:
    """Show a version (`name`, or `name@hash`), statistics of its columns, and its first rows."""
    await find_version(services, caller, name)
    return await services.datasets.show(name, rows=rows)


@get("/datasets/{name:str}/rows", tags=["datasets"], summary="Page through a dataset's rows")
async def list_rows(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    after: Offset = 0,
) -> DatasetRows:
    """Page through the rows of a version, whole; `after` is the number of the row before."""
    row = await find_version(services, caller, name)
    return await services.datasets.rows(row, after=after, limit=limit)


@get("/datasets/{name:str}/content", tags=["datasets"], summary="Download a dataset")
async def download_dataset(
    services: Injected, caller: InjectedCaller, name: FromPath[str]
) -> Stream:
    """Send the file, byte for byte as it came."""
    row = await find_version(services, caller, name)
    return await file_response(
        services.datasets.artifacts.get(row.path),
        f"{row.name}.{row.format}",
        {"content-length": str(row.size), "etag": f'"{row.hash}"'},
    )


@delete("/datasets/{name:str}", tags=["datasets"], summary="Delete a dataset", status_code=200)
async def delete_dataset(
    services: Injected,
    name: FromPath[str],
    every: Annotated[bool, QueryParameter(name="all")] = False,
) -> DeletedVersions:
    """Delete one version, or with `all` every version of a name. Runs keep their samples."""
    deleted = await services.datasets.delete(name, every=every)
    return DeletedVersions([f"{row.name}@{row.hash}" for row in deleted])
