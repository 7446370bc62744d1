"""The page of one version of a dataset: its rows, columns, other versions and runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from litestar import Request, Response
from litestar.params import FromPath, FromQuery, QueryParameter

from evaluators.data.rows import PROMPTS, REFERENCES
from providers.errors import EvalrouterError, RunDocumentError
from router.api.access import Caller, InjectedCaller
from router.api.datasets import find_version
from router.api.datasets_page import MAX_COLUMNS, column_titles, version_path
from router.api.form_numbers import whole_number
from router.api.injection import Injected
from router.api.page_layout import action, done, done_or_shown, page, rendered
from router.api.paging import MAX_OFFSET
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.datasets.differences import MAX_COMPARED, MAX_EXAMPLES
from router.datasets.registry import check_dataset_name, version_name
from router.evals.labelling import LabelRequest, begin, finish
from router.services import Services
from router.store.datasets import DatasetRow
from router.store.runs import ENDED, Run, RunFilter

ROWS = 20
_LONGEST = 160  # characters of a text
_SHOWN_VERSIONS = 50
_SHOWN_RUNS = 20
# What rows are read for comes first; of other columns, those beyond so many are folded.
_FIRST = ("id", *PROMPTS, *REFERENCES, "answer", "feedback")
_SHOWN_COLUMNS = 8
# A dataset with all of these is one of recorded requests: how each came about is folded.
_OF_REQUESTS = {"at", "target", "total_s", "turns"}
_FEW_OF_REQUESTS = frozenset(_FIRST) - {"id"}
# Numbers in columns of such names are moments where they are of this century.
_MOMENTS = (978307200.0, 4102444800.0)
_NO_LABEL = {"route": "", "prompt": "", "limit": "", "overwrite": ""}


@page("/pages/datasets/{name:str}")
async def dataset_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    after: Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)] = 0,
    compare: FromQuery[str] = "",
    published: Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)] = 0,
) -> Response[str]:
    """Show a version (`name`, or `name@hash`).

    Its rows begin after the number `after`; `compare` is the hash of the version that it is
    compared with; `published` is how many rows a review has just added.
    """
    row = await find_version(services, caller, name)
    return await _page(
        services, caller, row, after=after, compare=compare, published=min(published, row.rows)
    )


async def _page(
    services: Services,
    caller: Caller,
    row: DatasetRow,
    *,
    after: int = 0,
    compare: str = "",
    published: int = 0,
    typed: Mapping[str, str] = _NO_LABEL,
    error: EvalrouterError | None = None,
) -> Response[str]:
    other = None if not compare else await find_version(services, caller, f"{row.name}@{compare}")
    older, newer = (
        (row, None) if other is None else sorted((row, other), key=lambda each: each.created_at)
    )
    rows = None
    unreadable = ""
    try:
        rows = await services.datasets.rows(row, after=after, limit=ROWS, longest=_LONGEST)
        changes = None if newer is None else await services.datasets.differences(older, newer)
    except EvalrouterError as wrong:
        # Its file is gone, or cannot be read; all else of the version is still known.
        unreadable, changes = wrong.message, None
    runs = await services.store.runs(
        RunFilter(dataset_hash=row.hash, key_id=caller.only), limit=_SHOWN_RUNS
    )
    titles = column_titles(row.columns, row.mapping)
    shown, folded = _arranged(list(titles))
    return await rendered(
        "dataset.html",
        caller,
        title=version_name(row),
        current="/datasets",
        row=row,
        path=version_path(row),
        rows=rows,
        after=after,
        unreadable=unreadable,
        versions=await _other_versions(services, row),
        published=published,
        compared=changes,
        older=older,
        newer=newer,
        max_compared=MAX_COMPARED,
        max_examples=MAX_EXAMPLES,
        max_columns=MAX_COLUMNS,
        titles=titles,
        shown_columns=shown,
        folded_columns=folded,
        moments=_moments(row),
        longest=_LONGEST,
        runs=[(run, _labels(run)) for run in runs],
        shown_runs=_SHOWN_RUNS,
        may_run=caller.reach_of("POST /eval") != "no",
        may_change=caller.reach_of("POST /datasets") != "no",
        typed=typed,
        error=error,
    )


def _arranged(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the columns that a table of rows has, and those that each row has folded."""
    first = [name for name in _FIRST if name in names]
    if set(names) >= _OF_REQUESTS:
        shown = [name for name in first if name in _FEW_OF_REQUESTS]
    else:
        shown = [*first, *(name for name in names if name not in first)][:_SHOWN_COLUMNS]
    return shown, [name for name in names if name not in shown][: MAX_COLUMNS - len(shown)]


def _moments(row: DatasetRow) -> set[str]:
    """Return the columns whose numbers are moments, in seconds since the epoch."""
    earliest, latest = _MOMENTS
    return {
        column.name
        for column in row.statistics
        if (column.name in {"at", "timestamp"} or column.name.endswith("_at"))
        and column.lowest is not None
        and column.highest is not None
        and earliest <= column.lowest <= column.highest < latest
    }


async def _other_versions(services: Services, row: DatasetRow) -> list[DatasetRow]:
    """Return those of the newest versions of a name that are not this one."""
    versions = await services.store.datasets(row.name)
    return [each for each in versions[:_SHOWN_VERSIONS] if each.hash != row.hash]


def _labels(run: Run) -> bool:
    """Return whether a run's answers can become references: it has one for each sample."""
    document = run.document
    return (
        run.state in ENDED
        and not document.get("metrics")
        and len(document.get("routes") or ()) == 1
        and document.get("repeats", 1) == 1
    )


@action("/pages/datasets/{name:str}/delete")
async def delete_version(services: Injected, name: FromPath[str]) -> Response[Any]:
    """Delete a version, and lead to the list."""
    await services.datasets.delete(name)
    return done("/datasets")


@action("/pages/datasets/{name:str}/label")
async def begin_labels(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any], name: FromPath[str]
) -> Response[Any]:
    """Begin a run whose answers are to be the references, and lead to it."""
    fields = {**_NO_LABEL, **await read_fields(request)}
    row = await find_version(services, caller, name)
    data: dict[str, Any] = {
        "route": fields["route"].strip(),
        "dataset": version_name(row),
        "overwrite": bool(fields["overwrite"]),
    }
    if fields["prompt"].strip():
        data["prompt"] = fields["prompt"]

    async def change() -> str:
        if limit := fields["limit"].strip():
            data["limit"] = whole_number(limit, "limit")
        written = convert_data(data, LabelRequest, error=RunDocumentError)
        roots = services.config.evaluation.roots
        run = await begin(services.runs, written, base=Path(), runner="server", within=roots)
        return f"/runs/{run.id}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, row, typed=fields, error=error)

    return await done_or_shown(change(), shown)


@action("/pages/datasets/{name:str}/labelled")
async def register_labels(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any], name: FromPath[str]
) -> Response[Any]:
    """Store a version that has a run's answers as its references, and lead to it."""
    fields = {"run": "", **await read_fields(request)}
    row = await find_version(services, caller, name)

    async def change() -> str:
        check_dataset_name(row.name)
        run = await services.runs.find(fields["run"])
        return version_path(await finish(services.store, services.datasets, run, name=row.name))

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, row, error=error)

    return await done_or_shown(change(), shown)
