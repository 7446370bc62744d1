"""Writes a run's rows as `rows.jsonl` and `rows.parquet`, with a `manifest.json` of their hashes.

    manifest = await export_run(store, run, artifacts, f"runs/{run.id}")
    await verify(artifacts, f"runs/{run.id}")

A row is a cell: the sample and the route, the answer, and its scores. The manifest is
written last and has the run document, hashes, versions, and the size and SHA-256 of each file.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from evaluators.base import Sample
from providers.errors import ArtifactError, ConflictError, MissingExtraError
from router.datasets.artifacts import Artifacts, StoredFile, file_chunks, temporary_folder
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run

FORMAT = 1
JSONL, PARQUET, MANIFEST = "rows.jsonl", "rows.parquet", "manifest.json"

# What is flushed together: rows to a file, and rows to a parquet row group.
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
        outputs: names of the scores, each a column `score.NAME` of the parquet file.
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
    """One line of `rows.jsonl`: a sample, and one cell of it."""

    sample: Sample
    result: ScoredAnswer


async def export_run(
    store: ResultStore,
    run: Run,
    artifacts: Artifacts,
    prefix: str,
    *,
    parquet: bool = True,
    now: Callable[[], float] = time.time,
) -> Manifest:
    """Write a run's rows and the manifest, in place of an earlier export.

    Args:
        store: has the run.
        run: the run; no process may be executing it.
        artifacts: where the files go.
        prefix: the files' keys begin with it and a slash.
        parquet: False for JSON lines only, which need no extra.
        now: the time.

    Raises:
        ConflictError: a process is executing the run.
        MissingExtraError: parquet without pyarrow.
        ArtifactError: the place refuses, or the disk for temporary files is full.
    """
    if run.state == "running":
        raise ConflictError(f"{run.id} is running; wait for its end, or pause it")
    if parquet:
        _pyarrow()
    with temporary_folder() as folder:
        try:
            rows, outputs = await _write_jsonl(store, run, folder / JSONL)
            if parquet:
                await asyncio.to_thread(_write_parquet, folder / JSONL, folder / PARQUET, outputs)
        except OSError as error:
            raise ArtifactError(f"cannot export {run.id}: {folder}: {error.strerror}") from error
        files = []
        for name in (JSONL, PARQUET) if parquet else (JSONL,):
            stored = await artifacts.put(f"{prefix}/{name}", file_chunks(folder / name))
            files.append(ExportedFile(name, stored.size, stored.sha256, rows))
    manifest = Manifest(
        run=run,
        rows=rows,
        outputs=tuple(outputs),
        files=tuple(files),
        exported_at=now(),
        location=f"{artifacts.root}/{prefix}",
    )
    await artifacts.put(f"{prefix}/{MANIFEST}", _single(msgspec.json.format(_encode(manifest))))
    return manifest


async def verify(artifacts: Artifacts, prefix: str) -> Manifest:
    """Read an export back and compare it with its manifest.

    Raises:
        NotFoundError: the manifest or a file of it is gone.
        ArtifactError: a file is not what was written.
    """
    text = b"".join([chunk async for chunk in artifacts.get(f"{prefix}/{MANIFEST}")])
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{artifacts.root}/{prefix}/{MANIFEST}: {error}") from error
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


async def _write_jsonl(store: ResultStore, run: Run, path: Path) -> tuple[int, list[str]]:
    """Write the rows; return how many, and the scores' names in the order they first appear."""
    outputs: dict[str, None] = {}
    count = 0

    def write(rows: list[ExportedRow]) -> None:
        for row in rows:
            file.write(_encode(row) + b"\n")

    with await asyncio.to_thread(path.open, "wb") as file:
        async for batch in _batches(_rows(store, run.id)):
            count += len(batch)
            outputs |= {score.output: None for row in batch for score in row.result.scores}
            await asyncio.to_thread(write, batch)
    return count, list(outputs)


async def _rows(store: ResultStore, run_id: str) -> AsyncIterator[ExportedRow]:
    """Yield results with their samples: both come in the samples' order."""
    async with aclosing(store.samples(run_id)) as samples:
        sample: Sample | None = None
        async with aclosing(store.results(run_id)) as results:
            async for result in results:
                while sample is None or sample.id != result.cell.sample_id:
                    sample = await anext(samples)
                yield ExportedRow(sample=sample, result=result)


async def _batches(rows: AsyncIterable[ExportedRow]) -> AsyncIterator[list[ExportedRow]]:
    batch: list[ExportedRow] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# Parquet


def _pyarrow() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an optional package of 170 MB
        import pyarrow.parquet  # noqa: PLC0415  # likewise
    except ImportError:
        raise MissingExtraError("Exporting parquet", "parquet") from None
    return pa


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


def _write_parquet(source: Path, target: Path, outputs: list[str]) -> None:
    """Write the same rows, flat: what varies by dataset (messages, columns) is JSON in a text."""
    pa = _pyarrow()
    plain = _CELL | _ANSWER | _USAGE | _RESULT
    types = {name: pa.type_for_alias(alias) for name, alias in plain.items()}
    types |= {"messages": pa.string(), "references": pa.list_(pa.string()), "fields": pa.string()}
    types |= {f"score.{name}": pa.float64() for name in outputs}
    types |= {f"passed.{name}": pa.bool_() for name in outputs}
    schema = pa.schema(list(types.items()))
    with pa.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in _read_batches(source):
            rows = [_flat(row) for row in batch]
            columns = [pa.array([row.get(name) for row in rows], types[name]) for name in types]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


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
    return flat


def _read_batches(path: Path) -> Iterator[list[ExportedRow]]:
    decode = msgspec.json.Decoder(ExportedRow).decode
    with path.open("rb") as file:
        batch: list[ExportedRow] = []
        for line in file:
            batch.append(decode(line))
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
