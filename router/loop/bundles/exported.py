"""Bundles as a server writes and lists them, and what a deletion has to name of them.

    evidence = EvidenceBundles(store, datasets, config, routes)
    bundle = await evidence.create(EvidenceRequest(subject="run_..."), actor="key ops")
    async for chunk in evidence.content(bundle): ...

Bundles of commands are files of their user: they are listed, with the place where they are.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from providers.errors import (
    ArtifactError,
    ConfigError,
    EvidenceError,
    NotFoundError,
    RateLimitError,
)
from providers.names import check_name
from router.config.evidence import Evidence
from router.config.schema import Config
from router.datasets.artifacts import (
    file_chunks,
    remove_abandoned_folders,
    temporary_folder,
)
from router.datasets.registry import DatasetRegistry
from router.gateway.route_table import Routes
from router.loop.bundles.export import (
    ABANDONED_S,
    BundleOptions,
    ExportedBundle,
    export_bundle,
    owner_of,
)
from router.loop.bundles.signatures import SigningKey, read_key
from router.sealing.deletion import Deletion, DeletionStep
from router.store.evidence import Bodies, EvidenceBundle
from router.store.protocol import Store
from router.store.shadows import SHADOW_DATASET
from router.store.traffic import TrafficFilter

PASSPHRASE = "EVIDENCE_PASSPHRASE"  # noqa: S105  # the variable's name
_AT_ONCE = 200


class EvidenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to write a bundle of.

    Attributes:
        subject: the id of a run or of a rollout.
        bodies: what becomes of texts.
    """

    subject: str
    bodies: Bodies = "masked"


def configured_key(config: Evidence) -> SigningKey | None:
    """Return the key that the config names; None for none. Blocks.

    Raises:
        ConfigError: it cannot be read.
    """
    if not config.key:
        return None
    passphrase = config.passphrase.reveal() or os.environ.get(PASSPHRASE) or None
    try:
        return read_key(Path(config.key), passphrase=passphrase)
    except EvidenceError as error:
        raise ConfigError(f"evidence.key: {error.message}") from error


class EvidenceBundles:
    """The bundles of a store.

    Args:
        store: has runs and rollouts, and the rows of bundles.
        datasets: has the artifact store.
        config: says who signs, and what is masked.
        routes: the routes as they stand.
        clock: tells the seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        datasets: DatasetRegistry,
        config: Config,
        routes: Routes,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._evidence = config.evidence
        self._personal_data = config.review.personal_data
        self._routes = routes
        self._clock = clock
        # Of a large run it takes minutes of a processor.
        self._writing = asyncio.Lock()

    async def create(self, request: EvidenceRequest, *, actor: str) -> EvidenceBundle:
        """Write a bundle into the artifact store.

        Raises:
            NotFoundError: no such run or rollout.
            ConflictError: it has not ended.
            RateLimitError: another bundle is being written.
            ConfigError: the key cannot be read.
            EvidenceError, RunDocumentError, ArtifactError, StoreError: as `export_bundle`.
        """
        check_name(request.subject, "subject")
        if self._writing.locked():
            raise RateLimitError("Another bundle is being written.", retry_after=10.0)
        async with self._writing:
            await asyncio.to_thread(remove_abandoned_folders)
            await self._remove_unfinished()
            key = await asyncio.to_thread(configured_key, self._evidence)
            options = BundleOptions(
                bodies=request.bodies,
                personal_data=self._personal_data,
                key=key,
                routes=self._routes.table.routes,
            )
            bundle_id = self._new_id()
            location = self._location(bundle_id)
            async with self._noted() as noted:

                async def note(exported: ExportedBundle, _: Path) -> None:
                    noted.append(
                        await self._add(bundle_id, exported, location, stored=False, actor=actor)
                    )

                options = msgspec.structs.replace(options, note=note)
                with temporary_folder() as folder:
                    path, _ = await export_bundle(
                        self._store, request.subject, folder / "bundle.zip", options
                    )
                    await self._put(bundle_id, path)
                return msgspec.structs.replace(noted[0], stored=True)

    async def _put(self, bundle_id: str, path: Path) -> None:
        """Store the file of a bundle, and note it; neither where an error is raised."""
        artifacts = self._datasets.artifacts
        await artifacts.put(_key(bundle_id), file_chunks(path))
        try:
            await self._store.note_stored(bundle_id)
        except BaseException:
            with suppress(ArtifactError):
                await asyncio.shield(artifacts.delete(_key(bundle_id)))
            raise

    async def _remove_unfinished(self) -> None:
        """Remove what killed processes have left of bundles that they were storing."""
        before = None
        while page := await self._store.evidence_bundles(before=before, limit=_AT_ONCE):
            for bundle in page:
                is_old = bundle.created_at < self._clock() - ABANDONED_S
                if is_old and self._is_unfinished(bundle):
                    await self.delete(bundle.id)
            before = page[-1].id

    def _is_unfinished(self, bundle: EvidenceBundle) -> bool:
        return not bundle.stored and bundle.location == self._location(bundle.id)

    def _location(self, bundle_id: str) -> str:
        return f"{self._datasets.artifacts.root}/{_key(bundle_id)}"

    async def write(
        self,
        subject: str,
        path: Path | None,
        options: BundleOptions,
        *,
        replace: bool,
        actor: str,
    ) -> tuple[Path, ExportedBundle]:
        """Write a bundle into a file of whoever runs a command; see `export_bundle`."""
        await asyncio.to_thread(remove_abandoned_folders)
        here = await asyncio.to_thread(Path.cwd)
        async with self._noted() as noted:

            async def note(exported: ExportedBundle, place: Path) -> None:
                noted.append(
                    await self._add(
                        self._new_id(), exported, str(here / place), stored=False, actor=actor
                    )
                )

            options = msgspec.structs.replace(options, note=note)
            return await export_bundle(self._store, subject, path, options, replace=replace)

    @asynccontextmanager
    async def _noted(self) -> AsyncGenerator[list[EvidenceBundle]]:
        """Yield a list for the rows that are stored inside; delete them where an error is raised.

        A row is stored before its file is in its place, so that a deletion also names a bundle
        whose process is killed in between.
        """
        noted: list[EvidenceBundle] = []
        try:
            yield noted
        except BaseException:
            for bundle in noted:
                await self._store.delete_evidence(bundle.id)
            raise

    async def _add(
        self, bundle_id: str, exported: ExportedBundle, location: str, *, stored: bool, actor: str
    ) -> EvidenceBundle:
        bundle = EvidenceBundle(
            id=bundle_id,
            location=location,
            stored=stored,
            key_id=await owner_of(self._store, exported),
            created_at=self._clock(),
            created_by=actor,
            **msgspec.structs.asdict(exported),
        )
        await self._store.add_evidence(bundle)
        return bundle

    def _new_id(self) -> str:
        return f"ev_{time.time_ns():016x}{uuid.uuid4().hex[:8]}"

    async def find(self, bundle_id: str, *, key_id: str | None = None) -> EvidenceBundle:
        """Return a bundle; with `key_id`, one of that key's runs. Raises NotFoundError."""
        bundle = await self._store.evidence(bundle_id)
        if bundle is None or (key_id is not None and bundle.key_id != key_id):
            raise NotFoundError(f"There is no bundle of evidence {bundle_id!r}.")
        return bundle

    async def list(
        self,
        *,
        subject: str | None = None,
        key_id: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[EvidenceBundle]:
        """List bundles, newest first; of one run or rollout, and of one key's runs.

        Where they are and who had them written is for those who may see all of them.
        """
        subjects = None if subject is None else [subject]
        bundles = await self._store.evidence_bundles(
            subjects=subjects, key_id=key_id, before=before, limit=limit
        )
        if key_id is None:
            return bundles
        return [msgspec.structs.replace(each, location="", created_by="") for each in bundles]

    def content(self, bundle: EvidenceBundle) -> AsyncGenerator[bytes]:
        """Yield the bytes of a bundle.

        Raises:
            NotFoundError: it is a file of whoever ran the command, is not complete, or is gone.
        """
        if self._is_unfinished(bundle):
            raise NotFoundError(
                f"{bundle.id} is still being written, or its process was killed; export it again."
            )
        if not bundle.stored:
            raise NotFoundError(f"{bundle.id} was written by a command, and is not stored here.")
        return self._datasets.artifacts.get(_key(bundle.id))

    async def delete(self, bundle_id: str) -> None:
        """Delete a bundle from the artifact store, and its row. Raises NotFoundError."""
        bundle = await self.find(bundle_id)
        if bundle.stored or self._is_unfinished(bundle):
            await self._datasets.artifacts.delete(_key(bundle.id))
        await self._store.delete_evidence(bundle.id)


def _key(bundle_id: str) -> str:
    return f"evidence/{bundle_id}.zip"


async def bundles_of_runs(store: Store, run_ids: Sequence[str]) -> list[str]:
    """Return where bundles of runs are, for people to look at."""
    return [_place_of(bundle) async for bundle in _bundles(store, run_ids)]


async def _bundles(
    store: Store, subjects: Sequence[str] | None = None
) -> AsyncGenerator[EvidenceBundle]:
    """Yield all bundles, or those of some runs and rollouts, newest first."""
    before = None
    while page := await store.evidence_bundles(subjects=subjects, before=before, limit=_AT_ONCE):
        for bundle in page:
            yield bundle
        before = page[-1].id


def _place_of(bundle: EvidenceBundle) -> str:
    return (
        f"the evidence {bundle.id} of {bundle.subject} (texts: {bundle.bodies}): {bundle.location}"
    )


class ExportedEvidence(DeletionStep):
    """Names bundles of shadows, whose samples are copies of requests, also of those that ended.

    Bundles of runs over datasets are named where rows of the datasets are deleted.

    Args:
        store: has the shadows and the bundles.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete nothing, and name the bundles."""
        places = [
            _place_of(bundle)
            async for bundle in _bundles(self._store)
            if await self._is_of_shadow(bundle)
        ]
        return Deletion(elsewhere=tuple(places))

    async def _is_of_shadow(self, bundle: EvidenceBundle) -> bool:
        """Return whether a bundle is of a shadow, or of a run that is gone and may be one."""
        if bundle.kind != "run":
            return False
        run = await self._store.run(bundle.subject)
        return run is None or run.dataset.startswith(SHADOW_DATASET)
