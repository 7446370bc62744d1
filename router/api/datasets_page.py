"""The page of all datasets: the list of their versions, and how to add one.

A file is looked at before it is stored: the browser sends it to `/pages/datasets/preview`, of a
large one only the beginning, and once more, whole, to be stored. So the server stores nothing in
between, and whatever was chosen stays in the form where a file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from litestar import Request, Response
from litestar.params import FromQuery, QueryParameter

from evaluators.data.formats import EXTENSIONS
from evaluators.data.rows import KNOWN
from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.datasets import Registration, register, store_upload, uploaded
from router.api.injection import Injected
from router.api.page_layout import (
    action,
    done,
    done_or_shown,
    html_response,
    page,
    part,
    utc,
)
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.datasets.artifacts import file_chunks
from router.datasets.registry import parse_columns, version_name
from router.loop.dataset_owners import key_of
from router.services import Services
from router.store.datasets import DatasetPage, DatasetRow, VersionOrder

# Of a file of lines that is larger, this much is looked at before it is stored.
BEGINNING_BYTES = 4 * 1024 * 1024
_READ_AT_ONCE = 500
# Of a table of rows.
MAX_COLUMNS = 30
_COLUMNS = (
    TableColumn("name", "Dataset", sorts=True),
    TableColumn("hash", "Version"),
    TableColumn("rows", "Rows", sorts=True, number=True),
    TableColumn("format", "Format", sorts=True),
    TableColumn("source", "Source"),
    TableColumn("created", "Added (UTC)", sorts=True),
)
# What a column can be, and what that means to a run.
MEANINGS: Mapping[str, str] = {
    "input": "the text to send to the model",
    "prompt": "a whole prompt to send",
    "messages": "a chat to send",
    "reference": "the right answer",
    "references": "several right answers",
    "answer": "an answer to be scored",
    "id": "the row's name",
    "cluster": "rows that belong together",
}
_NO_FIELDS = {"source": "", "name": "", "columns": "", "delimiter": ""}


@page("/pages/datasets")
async def dataset_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    q: FromQuery[str] = "",
    sort: FromQuery[str] = "-created",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the versions of the datasets; `q` is a part of a name, `after` the last `name@hash`."""
    view = TableView("/datasets", _COLUMNS, sort=sort, filters={"q": q}, after=after, export=export)
    return await _page(services, caller, view, q=q, after="" if export else after)


async def _page(
    services: Services,
    caller: Caller,
    view: TableView,
    *,
    q: str = "",
    after: str = "",
    typed: Mapping[str, str] = _NO_FIELDS,
    error: EvalrouterError | None = None,
) -> Response[Any]:
    rows = await _versions(services, caller, view, q, after)
    return await table_response(
        "datasets",
        caller,
        view,
        map(_cells, view.page(rows, _key)),
        q=q,
        may_add=caller.reach_of("POST /datasets") != "no",
        may_copy_requests=caller.reach_of("POST /datasets/from-traffic") != "no",
        max_bytes=services.datasets.max_bytes,
        beginning_bytes=BEGINNING_BYTES,
        extensions=tuple(EXTENSIONS),
        typed=typed,
        error=error,
    )


async def _versions(
    services: Services, caller: Caller, view: TableView, q: str, after: str
) -> list[DatasetRow]:
    """Return the versions of a page, and one more where there is one."""
    place: tuple[str, str] | None = None
    if after:
        name, at, content = after.rpartition("@")
        if not at:
            raise RequestError(f"after: {after!r} is not of the form name@hash.", param="after")
        place = name, content
    row_limit = view.size + 1
    versions: list[DatasetRow] = []
    while len(versions) < row_limit:
        page_of = DatasetPage(
            part=q,
            order=cast("VersionOrder", view.sort),
            descending=view.descending,
            after=place,
            limit=row_limit if caller.only is None else _READ_AT_ONCE,
        )
        rows = await services.store.dataset_page(page_of)
        versions += [row for row in rows if caller.only in {None, key_of(row)}]
        if len(rows) < page_of.limit:
            break
        place = rows[-1].name, rows[-1].hash
    return versions[:row_limit]


def _key(row: DatasetRow) -> str:
    return f"{row.name}@{row.hash}"


def _cells(row: DatasetRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "hash": row.hash,
        "version": version_name(row),
        "rows": row.rows,
        "format": row.format,
        "source": row.source,
        "created": utc(row.created_at),
    }


@action("/pages/datasets/preview", is_upload=True)
async def preview_file(
    services: Injected,
    request: Request[Any, Any, Any],
    is_part: Annotated[bool, QueryParameter(name="part")] = False,
) -> Response[str]:
    """Show the first rows of a file, or of its beginning, and what its columns can be."""
    try:
        async with uploaded(services, request) as upload:
            preview = await services.datasets.preview(
                file_chunks(upload.path),
                filename=upload.filename,
                name=upload.name,
                columns=upload.columns,
                delimiter=upload.delimiter,
                is_part=is_part,
            )
    except EvalrouterError as error:
        return await _problem(error)
    text = await part(
        "dataset_preview.html",
        preview=preview,
        meanings=MEANINGS,
        chosen=upload.columns,
        known=KNOWN,
        titles=column_titles(preview.columns, upload.columns),
        max_columns=MAX_COLUMNS,
    )
    return html_response(text)


@action("/pages/datasets/upload", is_upload=True)
async def store_file(services: Injected, request: Request[Any, Any, Any]) -> Response[Any]:
    """Store a file as a dataset, and lead to its page."""
    try:
        row = await store_upload(services, request)
    except EvalrouterError as error:
        return await _problem(error)
    return done(version_path(row))


async def _problem(error: EvalrouterError) -> Response[str]:
    return html_response(await part("problem.html", error=error), error.status)


@action("/pages/datasets/register")
async def register_address(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Fetch a dataset from an address, or a path below `datasets.roots`, and lead to its page."""
    fields = {**_NO_FIELDS, **await read_fields(request)}

    async def change() -> str:
        columns = parse_columns([line for line in fields["columns"].splitlines() if line.strip()])
        data = {name: fields[name].strip() for name in ("source", "name", "delimiter")}
        written = data | {"columns": columns}
        registration = convert_data(written, Registration, error=RequestError)
        return version_path(await register(services, registration))

    async def shown(error: EvalrouterError) -> Response[str]:
        view = TableView("/datasets", _COLUMNS, sort="-created", filters={})
        return await _page(services, caller, view, typed=fields, error=error)

    return await done_or_shown(change(), shown)


def column_titles(columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return the heading of each column, in their order.

    A column that is read under a known name is there once, as `text → input`, and not under its own
    name as well.

    Args:
        columns: all columns, mapped ones also under their known names.
        mapping: the file's own column names to known ones.
    """
    own_names: dict[str, list[str]] = {}
    for column, known in mapping.items():
        own_names.setdefault(known, []).append(column)
    read_as = {
        known: names[0]
        for known, names in own_names.items()
        if len(names) == 1 and names[0] != known and known in columns
    }
    return {
        name: f"{read_as[name]} → {name}" if name in read_as else name
        for name in columns
        if name not in read_as.values() or name in mapping.values()
    }


def version_path(row: DatasetRow) -> str:
    """Return the path of a version's page."""
    return f"/datasets/{version_name(row)}"
