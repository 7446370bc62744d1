"""Writes bundles: `export_run_bundle` and `export_rollout_bundle`.

    exported = await export_run_bundle(store, run, path, options)

The entries are written into a temporary folder first. The numbers of a run's bundle are made of
these entries by what verifies them, and are compared with those of the database, so that no bundle
is written whose numbers others could not recompute.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import msgspec

from evaluators.base import AnyMetric
from evaluators.document import RunDocument
from providers.errors import ArtifactError, ConflictError, EvidenceError, StoreError
from router.config.documents import as_stored
from router.config.review import PersonalData
from router.config.routes import Route
from router.datasets.artifacts import temporary_folder
from router.evals.looks import looks_at
from router.evals.results import outcome
from router.evals.stored_runs import find_run, stored_document
from router.evals.validation import build_metrics
from router.loop.bundles.archive import open_archive, write_archive
from router.loop.bundles.bodies import BundledTexts, bodies_of
from router.loop.bundles.bundled_run import BundledRun, numbers_of
from router.loop.bundles.consistency import check_rollout, check_run
from router.loop.bundles.contents import (
    ENTRIES,
    JUDGEMENTS,
    LABELS,
    MANIFEST,
    METRICS,
    NUMBERS,
    PUBLIC_KEY,
    README,
    RESULTS,
    ROUTES,
    RUN,
    SAMPLES,
    SIGNATURE,
    STATED,
    STUDIES,
    BundledRoutes,
    BundleManifest,
    RunNumbers,
    Stated,
    canonical,
)
from router.loop.bundles.differences import differences
from router.loop.bundles.entries import EntryWriter, ProgressCallback
from router.loop.bundles.rollout_replay import BundledRollout
from router.loop.bundles.rollout_rows import find_rollout, write_rollout
from router.loop.bundles.run_rows import (
    ResultRows,
    bundled_run,
    calibrations,
    declarations,
    judged_results,
    judgement_row,
    sample_row,
)
from router.loop.bundles.signatures import SigningKey, fingerprint
from router.loop.bundles.subjects import BundleSubject, subject_of_rollout, subject_of_run
from router.loop.rollout_routes import route_version
from router.store.evidence import Bodies, BundleKind
from router.store.protocol import Store
from router.store.rollouts import Rollout
from router.store.runs import Run

# What the numbers depend on, beside evalrouter itself.
_LIBRARIES = ("cryptography", "msgspec", "numpy", "rouge-score-rs", "sacrebleu", "scipy")
_SAMPLES_AT_ONCE = 200
# A file that is being written is never so old.
ABANDONED_S = 3600.0
# The ids of rollouts begin so; see `router.loop.rollouts`.
ROLLOUT_PREFIX = "ro_"


async def _no_note(exported: ExportedBundle, path: Path) -> None:
    """Note nothing."""


NoteCallback = Callable[["ExportedBundle", Path], Awaitable[None]]


class BundleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is written.

    Attributes:
        bodies: what becomes of texts.
        personal_data: what is searched for in texts.
        key: signs the bundle; None for one without a signature.
        routes: the routes as they are defined now.
        progress: called with the entry that is written, and how many rows it has so far.
        note: called with the bundle and its file before the file is in its place.
    """

    bodies: Bodies = "masked"
    personal_data: PersonalData = PersonalData()
    key: SigningKey | None = None
    routes: Mapping[str, Route] = {}
    progress: ProgressCallback = lambda _entry, _rows: None
    note: NoteCallback = _no_note


class ExportedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was written.

    Attributes:
        kind, subject, name: of what it is evidence.
        bodies: what became of texts.
        changed_rows: rows in which a text was replaced.
        size: bytes of the file.
        sha256: of the file, hex.
        manifest: SHA-256 of the manifest, which is the same for the same evidence, hex.
        signed_by: the fingerprint of the key; "" without a signature.
    """

    kind: BundleKind
    subject: str
    name: str
    bodies: Bodies
    changed_rows: int
    size: int
    sha256: str
    manifest: str
    signed_by: str


class _StoredRun(NamedTuple):
    """A run with its document, and the metrics of that, built."""

    run: Run
    document: RunDocument
    metrics: Sequence[AnyMetric]


async def export_bundle(
    store: Store, subject: str, path: Path | None, options: BundleOptions, *, replace: bool = False
) -> tuple[Path, ExportedBundle]:
    """Write the evidence of a run or a rollout into a file; return where it is.

    Args:
        store: has it.
        subject: the id of a rollout; the id of a run, or a unique prefix.
        path: the file; None for one of the subject's name in the working directory.
        options: how.
        replace: whether a file that is there may be replaced.

    Raises:
        NotFoundError: it does not exist.
        ConflictError: the file is there; or as for `export_run_bundle`, like all other errors.
    """
    if subject.startswith(ROLLOUT_PREFIX):
        rollout = await find_rollout(store, subject)
        place = _place(path, rollout.id, replace=replace)
        return place, await export_rollout_bundle(store, rollout, place, options)
    run = await find_run(store, subject)
    place = _place(path, run.id, replace=replace)
    return place, await export_run_bundle(store, run, place, options)


async def owner_of(store: Store, exported: ExportedBundle) -> str:
    """Return the id of the key that a bundle's run belongs to; "" for none."""
    run = await store.run(exported.subject) if exported.kind == "run" else None
    return "" if run is None else run.key_id


def _place(path: Path | None, name: str, *, replace: bool) -> Path:
    """Return the file to write. Raises ConflictError where it is there and must not be replaced."""
    place = path or Path(f"{name}.evidence.zip")
    if place.is_dir() or not place.parent.is_dir():
        raise EvidenceError(f"{place}: name a file in a folder that is there")
    if place.exists() and not place.is_file():
        raise EvidenceError(f"{place}: not a plain file, but a device, a pipe or a socket")
    if not replace and place.exists():
        raise ConflictError(f"{place} is there already; name another file, or replace it")
    return place


async def export_run_bundle(
    store: Store, run: Run, path: Path, options: BundleOptions
) -> ExportedBundle:
    """Write the evidence of a run into a new file.

    Args:
        store: has the run.
        run: the run; no process may be executing it.
        path: the file; one that is there is replaced.
        options: how.

    Raises:
        ConflictError: a process is executing the run.
        RunDocumentError: the run's metrics cannot be built here.
        EvidenceError: it is too large.
        ArtifactError: the file or a temporary one cannot be written.
        StoreError: the run changed meanwhile, or texts of it were deleted.
    """
    if run.state in {"queued", "running"}:
        raise ConflictError(f"{run.id} is {run.state}; wait for its end, or pause it")
    document = stored_document(run)
    stored = _StoredRun(run, document, build_metrics(document))
    texts = bodies_of(options.bodies, options.personal_data)
    deleted = await store.deleted_texts(run.id)

    async def is_unchanged() -> bool:
        return await store.deleted_texts(run.id) == deleted

    with temporary_folder() as folder:
        try:
            writer = EntryWriter(folder, options.progress)
            try:
                await _write_run(store, stored, texts, writer, options)
            finally:
                await asyncio.to_thread(writer.close)
            numbers = await _numbers(writer, stored.metrics, texts.kind)
            await _check_numbers(store, stored, numbers)
            writer.whole(NUMBERS, canonical(numbers))
            subject = subject_of_run(bundled_run(run, texts))
            return await _completed(path, writer, subject, texts, options, is_unchanged)
        except OSError as error:
            raise ArtifactError(f"cannot write the evidence of {run.id}: {error}") from error


async def export_rollout_bundle(
    store: Store, rollout: Rollout, path: Path, options: BundleOptions
) -> ExportedBundle:
    """Write the evidence of a rollout into a new file; arguments and errors as for a run's."""
    texts = bodies_of(options.bodies, options.personal_data)
    totals = await store.rollout_totals(rollout.id)

    async def is_unchanged() -> bool:
        return await store.rollout_totals(rollout.id) == totals

    with temporary_folder() as folder:
        try:
            writer = EntryWriter(folder, options.progress)
            try:
                writer.whole(README, _readme("rollout"))
                await write_rollout(store, rollout, texts, writer)
            finally:
                await asyncio.to_thread(writer.close)
            subject = subject_of_rollout(rollout)
            return await _completed(path, writer, subject, texts, options, is_unchanged)
        except OSError as error:
            raise ArtifactError(f"cannot write the evidence of {rollout.id}: {error}") from error


async def _write_run(
    store: Store,
    stored: _StoredRun,
    texts: BundledTexts,
    writer: EntryWriter,
    options: BundleOptions,
) -> None:
    run, document, metrics = stored
    judges = await store.judge_use(run.id)
    batch = []
    async with aclosing(store.samples(run.id)) as samples:
        async for sample in samples:
            batch.append(sample)
            if len(batch) == _SAMPLES_AT_ONCE:
                await asyncio.to_thread(
                    writer.add, SAMPLES, [sample_row(sample, texts) for sample in batch]
                )
                batch = []
    await asyncio.to_thread(writer.add, SAMPLES, [sample_row(sample, texts) for sample in batch])
    rows = ResultRows(texts, await store.labels(run.id))
    writer.add(RESULTS, ())
    writer.add(JUDGEMENTS, ())
    async with aclosing(judged_results(store, run.id, judged=bool(judges))) as batches:
        async for results, others in batches:
            await asyncio.to_thread(
                writer.add, RESULTS, (rows.row(result, judged) for result, judged in results)
            )
            await asyncio.to_thread(
                writer.add, JUDGEMENTS, (judgement_row(row, texts) for row in others)
            )
    studies = await calibrations(store, metrics, texts)
    await asyncio.to_thread(writer.add, LABELS, rows.labels)
    await asyncio.to_thread(writer.add, STUDIES, studies)
    defined = {name: options.routes[name] for name in document.routes if name in options.routes}
    writer.whole(README, _readme("run"))
    writer.whole(RUN, canonical(bundled_run(run, texts)))
    writer.whole(METRICS, canonical(declarations(metrics, run.metrics)))
    stated = Stated(
        looks=await looks_at(store, run, document),
        judges=judges,
        embeddings=await store.embedding_use(run.id),
    )
    writer.whole(STATED, canonical(stated))
    routes = BundledRoutes(
        answered_by=rows.versions(),
        defined={name: as_stored(route) for name, route in defined.items()},
        versions={name: route_version(route) for name, route in defined.items()},
    )
    writer.whole(ROUTES, canonical(routes))


async def _numbers(writer: EntryWriter, metrics: Sequence[AnyMetric], bodies: Bodies) -> RunNumbers:
    """Return the numbers that can be made of the entries, as whoever verifies them makes them."""
    path = writer.folder / "entries.zip"
    names = {entry.name: writer.folder / entry.name for entry in writer.entries}
    await asyncio.to_thread(write_archive, path, names)
    with open_archive(path) as archive:
        bundled = await asyncio.to_thread(BundledRun, archive, bodies)
        numbers = await numbers_of(bundled, metrics)
    path.unlink()
    return numbers


async def _check_numbers(store: Store, stored: _StoredRun, made: RunNumbers) -> None:
    """Compare the numbers of a bundle with those of the database. Raises StoreError."""
    run, document, metrics = stored
    looks = await looks_at(store, run, document)
    reported = await outcome(store, run, document, metrics, looks)
    known = RunNumbers(report=reported.report, gates=reported.gates, judges=reported.judges)
    # Texts of errors and notes are those of the bundle.
    differing = [
        difference for difference in differences(known, made).shown if not difference.is_text
    ]
    if differing:
        first = differing[0]
        raise StoreError(
            f"{run.id} cannot be exported: {first.what} is {first.stated} in its report, and "
            f"{first.recomputed} by the rows of the bundle; if the run changed just now, export it "
            "once more"
        )


def _check_rows(path: Path, manifest: BundleManifest) -> None:
    """Check that the rows of a bundle agree with each other. Raises StoreError. Blocks."""
    with open_archive(path) as archive:
        if manifest.kind == "run":
            compared = check_run(BundledRun(archive, manifest.bodies), manifest)
        else:
            rollout = BundledRollout(archive)
            compared = check_rollout(rollout, manifest, rollout.numbers())
    if compared.differing:
        first = compared.shown[0]
        raise StoreError(
            f"{manifest.id} cannot be exported: {first.what} is {first.stated}, and not "
            f"{first.recomputed}; if it changed just now, export it once more"
        )


async def _completed(  # noqa: PLR0917 - what it writes, where, and what it has to ask before
    path: Path,
    writer: EntryWriter,
    subject: BundleSubject,
    texts: BundledTexts,
    options: BundleOptions,
    is_unchanged: Callable[[], Awaitable[bool]],
) -> ExportedBundle:
    """Write the file, and put it into its place once it is noted and nothing was deleted.

    A deletion before the note is seen here, and one after it names the bundle.
    """
    # Beside its place: a rename is within one disk, and no reader finds half a bundle.
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    await asyncio.to_thread(_remove_abandoned, path)
    try:
        exported = await asyncio.to_thread(_written, beside, writer, subject, texts, options.key)
        await options.note(exported, path)
        if not await is_unchanged():
            raise StoreError(
                f"{exported.subject} cannot be exported: requests of it were deleted meanwhile; "
                "export it once more"
            )
        await asyncio.to_thread(beside.replace, path)
    finally:
        await asyncio.to_thread(beside.unlink, missing_ok=True)
    return exported


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes have left beside a file. Blocks."""
    for beside in path.parent.glob(f".{escape(path.name)}.*"):
        with suppress(OSError):
            suffix = beside.name.removeprefix(f".{path.name}.")
            is_old = beside.lstat().st_mtime < time.time() - ABANDONED_S
            if re.fullmatch("[0-9a-f]{8}", suffix) and is_old:
                beside.unlink()


def _written(
    beside: Path,
    writer: EntryWriter,
    subject: BundleSubject,
    texts: BundledTexts,
    key: SigningKey | None,
) -> ExportedBundle:
    """Write the manifest and the signature, and all entries into a file. Blocks.

    Raises:
        EvidenceError: it is too large.
        StoreError: the rows do not agree with each other.
        OSError: the file cannot be written.
    """
    libraries = {"evalrouter": version("evalrouter"), "python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            libraries[library] = version(library)
    manifest = BundleManifest(
        kind=subject.kind,
        id=subject.id,
        name=subject.name,
        bodies=texts.kind,
        changed_rows=texts.changed,
        dataset=subject.dataset,
        seeds=subject.seeds,
        versions={**libraries, **subject.versions},
        sources=subject.sources,
        entries=tuple(sorted(writer.entries, key=lambda entry: entry.name)),
    )
    encoded = canonical(manifest)
    folder = writer.folder
    (folder / MANIFEST).write_bytes(encoded)
    order = [README, MANIFEST]
    if key is not None:
        (folder / SIGNATURE).write_bytes(key.sign(encoded))
        (folder / PUBLIC_KEY).write_bytes(key.public_pem)
        order += [SIGNATURE, PUBLIC_KEY]
    order += [name for name in ENTRIES[subject.kind] if name not in order]
    write_archive(beside, {name: folder / name for name in order})
    _check_rows(beside, manifest)
    with beside.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = beside.stat().st_size
    return ExportedBundle(
        kind=subject.kind,
        subject=subject.id,
        name=subject.name,
        bodies=texts.kind,
        changed_rows=texts.changed,
        size=size,
        sha256=digest,
        manifest=hashlib.sha256(encoded).hexdigest(),
        signed_by="" if key is None else fingerprint(key.public_pem),
    )


def _readme(kind: BundleKind) -> bytes:
    return _README.format(kind=kind).encode()


_README = """\
Evidence of a {kind}, written by evalrouter.

To check it:    evalrouter verify FILE --public-key KEY
which recomputes the numbers of numbers.json from the other entries, without a network, and says
what differs and what can only be checked.

Without evalrouter: manifest.json has the SHA-256 of every other entry, and manifest.sig, where
there is one, is the Ed25519 signature of manifest.json:

    unzip FILE -d evidence && cd evidence
    openssl pkeyutl -verify -pubin -inkey KEY -rawin -in manifest.json -sigfile manifest.sig

KEY is the signer's public key from whom you trust for it. The one in public-key.pem came with the
file: whoever changes a file can sign it with another key.

The format is described in docs/how-to/evidence-bundles.md of evalrouter.
"""
