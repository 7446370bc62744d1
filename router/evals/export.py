"""Writes a run's rows as JSON lines, CSV and parquet, with a `manifest.json` of their hashes.

    manifest = await export_run(store, run, artifacts, f"runs/{run.id}")
    await verify(artifacts, f"runs/{run.id}")

A row of `rows` is a cell: the sample and the route, the answer, its scores, and what judges wrote
about it. A row of `judgements` is one judgement of one answer. The manifest is written last and has
the run document, hashes, versions, and the size and SHA-256 of each file.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from evaluators.base import Cell, Sample
from providers.errors import ArtifactError, ConflictError
from router.datasets.artifacts import Artifacts, StoredFile, file_chunks, temporary_folder
from router.evals.judges.judged_samples import whole_samples
from router.evals.judges.label_plans import answer_hash
from router.evals.judges.run_export import (
    JUDGEMENT_TYPES,
    ExportedJudgement,
    judgements_of_run,
)
from router.evals.tables import FORMATS, Format, check_parquet, write_table
from router.store.people_labels import PeopleLabel
from router.store.protocol import Store
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run

FORMAT = 1
JSONL, JUDGEMENTS, MANIFEST = "rows.jsonl", "judgements.jsonl", "manifest.json"
# The names of all files that an export may have.
EXPORT_FILES = (
    MANIFEST,
    *(f"{table}.{kind}" for table in ("rows", "judgements") for kind in FORMATS),
)

_TABLES: tuple[Literal["csv", "parquet"], ...] = ("csv", "parquet")

_Row = TypeVar("_Row", bound=msgspec.Struct)

# Rows that are read from a file together: a row group of parquet.
_BATCH = 500

_encode = msgspec.json.Encoder().encode


class ExportedFile(msgspec.Struct, frozen=True):
    """One file of an export. `sha256` is the hash of its bytes, hex."""

    name: str
    size: int
    sha256: str
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export holds.

    Attributes:
        format: 1.
        run: as the store has it: its document, dataset hash, metric signatures, versions, state.
        rows: how many cells the files have, each once.
        outputs: names of the scores, each a column `score.NAME` of the tables.
        files: see ExportedFile.
        exported_at: seconds since the epoch, UTC.
        location: where it was written.
    """

    format: int = FORMAT
    run: Run
    rows: int
    outputs: tuple[str, ...]
    files: tuple[ExportedFile, ...]
    exported_at: float
    location: str


class ExportedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `rows.jsonl`: a sample and one cell of it.

    Attributes:
        sample: the sample.
        result: the cell's answer and scores.
        judgements: of the answer.
        labels: what people say of this answer.
    """

    sample: Sample
    result: ScoredAnswer
    judgements: tuple[ExportedJudgement, ...] = ()
    labels: tuple[PeopleLabel, ...] = ()


async def export_run(
    store: Store,
    run: Run,
    artifacts: Artifacts,
    prefix: str,
    *,
    formats: Collection[Format] = FORMATS,
    now: Callable[[], float] = time.time,
) -> Manifest:
    """Write a run's rows and the manifest, in place of an earlier export.

    Args:
        store: has the run.
        run: the run; no process may be executing it.
        artifacts: where the files go.
        prefix: the files' keys begin with it and a slash.
        formats: the files' formats; JSON lines are always written. parquet needs an extra.
        now: the time.

    Raises:
        ConflictError: a process is executing the run.
        MissingExtraError: parquet without pyarrow.
        ArtifactError: the place refuses, or the disk for temporary files is full.
    """
    if run.state == "running":
        raise ConflictError(f"{run.id} is running; wait for its end, or pause it")
    tables = [kind for kind in _TABLES if kind in formats]
    if "parquet" in tables:
        check_parquet()
    with temporary_folder() as folder:
        try:
            written = await _write_jsonl(store, run, folder)
            for kind in tables:
                await asyncio.to_thread(_write_table, folder, kind, written.columns)
                if written.judgements:
                    await asyncio.to_thread(_write_judgement_table, folder, kind)
        except OSError as error:
            raise ArtifactError(f"cannot export {run.id}: {folder}: {error.strerror}") from error
        files = []
        for name, rows in _names(tables, written):
            stored = await artifacts.put(f"{prefix}/{name}", file_chunks(folder / name))
            files.append(ExportedFile(name, stored.size, stored.sha256, rows))
    manifest = Manifest(
        run=run,
        rows=written.rows,
        outputs=tuple(written.columns.outputs),
        files=tuple(files),
        exported_at=now(),
        location=f"{artifacts.root}/{prefix}",
    )
    await artifacts.put(f"{prefix}/{MANIFEST}", _single(msgspec.json.format(_encode(manifest))))
    return manifest


def _names(tables: Sequence[str], written: _Written) -> Iterator[tuple[str, int]]:
    """Yield the names of an export's files with the numbers of their rows."""
    for kind in ("jsonl", *tables):
        yield f"rows.{kind}", written.rows
        if written.judgements:
            yield f"judgements.{kind}", written.judgements


async def rows_of(store: Store, run: Run, kind: Format) -> AsyncGenerator[bytes]:
    """Yield the bytes of the file `rows.KIND` that an export would have, as far as the run is.

    JSON lines come as they are read. A table is written into a temporary file first, because its
    columns are known at the end only. Neither is ever in memory as a whole.

    Raises:
        MissingExtraError: parquet without pyarrow.
        ArtifactError: the disk for temporary files is full.
    """
    if kind == "jsonl":
        async with aclosing(_exported(store, run.id)) as batches:
            async for batch, _ in batches:
                yield await asyncio.to_thread(_lines, batch)
        return
    if kind == "parquet":
        check_parquet()
    with temporary_folder() as folder:
        try:
            written = await _write_jsonl(store, run, folder)
            await asyncio.to_thread(_write_table, folder, kind, written.columns)
        except OSError as error:
            raise ArtifactError(f"cannot export {run.id}: {folder}: {error.strerror}") from error
        for name in (JSONL, JUDGEMENTS):
            await asyncio.to_thread((folder / name).unlink)
        async with aclosing(file_chunks(folder / f"rows.{kind}")) as chunks:
            async for chunk in chunks:
                yield chunk


def _lines(batch: Sequence[ExportedRow]) -> bytes:
    return b"".join(_encode(row) + b"\n" for row in batch)


async def read_manifest(artifacts: Artifacts, prefix: str) -> Manifest:
    """Return the manifest of an export.

    Raises:
        NotFoundError: there is none.
        ArtifactError: it cannot be read.
    """
    text = b"".join([chunk async for chunk in artifacts.get(f"{prefix}/{MANIFEST}")])
    try:
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{artifacts.root}/{prefix}/{MANIFEST}: {error}") from error


async def verify(artifacts: Artifacts, prefix: str) -> Manifest:
    """Read an export back and compare it with its manifest.

    Raises:
        NotFoundError: the manifest or a file of it is gone.
        ArtifactError: a file is not what was written.
    """
    manifest = await read_manifest(artifacts, prefix)
    for file in manifest.files:
        stored = await _measure(artifacts, f"{prefix}/{file.name}")
        if (stored.size, stored.sha256) != (file.size, file.sha256):
            raise ArtifactError(
                f"{artifacts.root}/{stored.key} is not what was exported: {stored.size} bytes with "
                f"SHA-256 {stored.sha256}, and the manifest says {file.size} and {file.sha256}"
            )
    return manifest


async def _measure(artifacts: Artifacts, key: str) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    async for chunk in artifacts.get(key):
        size += len(chunk)
        await asyncio.to_thread(digest.update, chunk)
    return StoredFile(key, size, digest.hexdigest())


async def _single(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


# JSON lines


class _Columns(NamedTuple):
    """What varies from run to run in the columns of its rows.

    Attributes:
        outputs: the scores' names, in the order they first appear.
        verdicts: output, judge and repeat of the verdicts.
        labels: the outputs that people have scored, too.
    """

    outputs: dict[str, None]
    verdicts: dict[tuple[str, str, int], None]
    labels: dict[str, None]


class _Written(NamedTuple):
    """The numbers of rows in the files, and the columns of those about cells."""

    rows: int
    judgements: int
    columns: _Columns


async def _exported(
    store: Store, run_id: str
) -> AsyncGenerator[tuple[list[ExportedRow], list[ExportedJudgement]]]:
    """Yield rows in batches, each with judgements of its samples that are of no current answer."""
    judged = bool(await store.judge_use(run_id))
    labels: dict[Cell, list[PeopleLabel]] = {}
    for label in await store.labels(run_id):
        labels.setdefault(label.cell, []).append(label)
    rows = _rows(store, run_id)
    async with aclosing(whole_samples(rows, lambda row: row.sample.id)) as batches:
        async for plain in batches:
            batch = plain
            others: list[ExportedJudgement] = []
            if judged:
                batch, others = await _with_judgements(store, run_id, plain)
            if labels:
                batch = await asyncio.to_thread(_with_labels, batch, labels)
            yield batch, others


async def _write_jsonl(store: Store, run: Run, folder: Path) -> _Written:
    """Write the rows and, where the run has judges, their judgements."""
    columns = _Columns({}, {}, {})
    rows = judgements = 0

    def write(batch: list[ExportedRow], others: list[ExportedJudgement]) -> int:
        for row in batch:
            cells.write(_encode(row) + b"\n")
        written = [*(judgement for row in batch for judgement in row.judgements), *others]
        for judgement in written:
            verdicts.write(_encode(judgement) + b"\n")
        return len(written)

    with (
        await asyncio.to_thread((folder / JSONL).open, "wb") as cells,
        await asyncio.to_thread((folder / JUDGEMENTS).open, "wb") as verdicts,
    ):
        async with aclosing(_exported(store, run.id)) as batches:
            async for batch, others in batches:
                rows += len(batch)
                _note_columns(columns, batch)
                judgements += await asyncio.to_thread(write, batch, others)
    return _Written(rows, judgements, columns)


async def _with_judgements(
    store: Store, run_id: str, batch: list[ExportedRow]
) -> tuple[list[ExportedRow], list[ExportedJudgement]]:
    of_cells, others = await judgements_of_run(store, run_id, [row.result for row in batch])
    rows = [
        msgspec.structs.replace(row, judgements=tuple(of_cell))
        for row, of_cell in zip(batch, of_cells, strict=True)
    ]
    return rows, others


def _with_labels(
    batch: list[ExportedRow], labels: Mapping[Cell, Sequence[PeopleLabel]]
) -> list[ExportedRow]:
    """Return rows with the labels of their answers; those of earlier answers are left out."""

    def of(result: ScoredAnswer) -> tuple[PeopleLabel, ...]:
        given = labels.get(result.cell, ())
        if not given or result.answer is None or result.answer.text is None:
            return ()
        current = answer_hash(result.answer.text)
        return tuple(label for label in given if label.answer_hash == current)

    return [msgspec.structs.replace(row, labels=of(row.result)) for row in batch]


def _note_columns(columns: _Columns, batch: list[ExportedRow]) -> None:
    for row in batch:
        columns.outputs.update({score.output: None for score in row.result.scores})
        columns.verdicts.update(
            {
                (judgement.output, judgement.judge, judgement.repeat): None
                for judgement in row.judgements
                if judgement.output is not None
            }
        )
        columns.labels.update({label.output: None for label in row.labels})


async def _rows(store: ResultStore, run_id: str) -> AsyncGenerator[ExportedRow]:
    """Yield results with their samples: both come in the samples' order."""
    async with aclosing(store.samples(run_id)) as samples:
        sample: Sample | None = None
        async with aclosing(store.results(run_id)) as results:
            async for result in results:
                while sample is None or sample.id != result.cell.sample_id:
                    sample = await anext(samples)
                yield ExportedRow(sample=sample, result=result)


# Tables

_CELL = {"sample_id": "string", "route": "string", "repeat": "int32"}
_ANSWER = {
    "text": "string",
    "whole_text": "string",
    "thinking": "string",
    "shortfall": "string",
    "error": "string",
    "error_code": "string",
    "target": "string",
    "model": "string",
    "system_fingerprint": "string",
    "finish_reason": "string",
    "cost_usd": "float64",
    "estimated": "bool",
    "logprob_sum": "float64",
    "logprob_tokens": "int64",
    "first_byte_s": "float64",
    "total_s": "float64",
    "attempts": "int32",
    "cached": "bool",
    "cached_from": "string",
}
_USAGE = {"prompt_tokens": "int64", "completion_tokens": "int64", "total_tokens": "int64"}
_RESULT = {
    "request_hash": "string",
    "asked_at": "float64",
    "answered_at": "float64",
    "interrupted": "int32",
}


def _write_table(folder: Path, kind: Literal["csv", "parquet"], columns: _Columns) -> None:
    """Write the same rows, flat: what varies by dataset (messages, columns) is JSON in a text."""
    types = _CELL | _ANSWER | _USAGE | _RESULT
    types |= {"messages": "string", "references": "texts", "fields": "string"}
    types |= {f"score.{name}": "float64" for name in columns.outputs}
    types |= {f"passed.{name}": "bool" for name in columns.outputs}
    for verdict in columns.verdicts:
        types |= {_column("score", *verdict): "float64", _column("feedback", *verdict): "string"}
    for name in columns.labels:
        types |= {f"people.{name}": "float64", f"people_scores.{name}": "string"}
        types[f"chance.{name}"] = "float64"
    rows = _read_batches(folder / JSONL, ExportedRow)
    write_table(folder / f"rows.{kind}", kind, types, (list(map(_flat, batch)) for batch in rows))


def _write_judgement_table(folder: Path, kind: Literal["csv", "parquet"]) -> None:
    rows = _read_batches(folder / JUDGEMENTS, ExportedJudgement)
    flat = ([msgspec.structs.asdict(row) for row in batch] for batch in rows)
    write_table(folder / f"judgements.{kind}", kind, JUDGEMENT_TYPES, flat)


def _column(what: str, output: str, judge: str, repeat: int) -> str:
    return f"{what}.{output}.{judge}.{repeat}"


def _flat(row: ExportedRow) -> dict[str, Any]:
    result, answer = row.result, row.result.answer
    flat: dict[str, Any] = {name: getattr(result.cell, name) for name in _CELL}
    flat |= {name: getattr(result, name) for name in _RESULT}
    if answer is not None:
        flat |= {name: getattr(answer, name) for name in _ANSWER}
        flat |= {name: getattr(answer.usage, name) for name in _USAGE}
    flat["messages"] = _encode(row.sample.messages).decode()
    flat["references"] = list(row.sample.references)
    flat["fields"] = _encode(row.sample.fields).decode()
    for score in result.scores:
        flat[f"score.{score.output}"] = score.value
        flat[f"passed.{score.output}"] = score.passed
    for judgement in row.judgements:
        if judgement.output is not None:
            verdict = (judgement.output, judgement.judge, judgement.repeat)
            # Of several attempts, the last one counts.
            flat[_column("score", *verdict)] = judgement.verdict
            flat[_column("feedback", *verdict)] = judgement.feedback
    for label in row.labels:
        flat[f"people.{label.output}"] = label.mean
        flat[f"people_scores.{label.output}"] = _encode(label.scores).decode()
        flat[f"chance.{label.output}"] = label.chance
    return flat


def _read_batches(path: Path, kind: type[_Row]) -> Iterator[list[_Row]]:
    decode = msgspec.json.Decoder(kind).decode
    with path.open("rb") as file:
        batch: list[_Row] = []
        for line in file:
            batch.append(decode(line))
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
