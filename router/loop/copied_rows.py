"""Deletes rows of datasets that were copied from requests which are to be deleted.

    RequestDeletion([recorded, CopiedRowsDeletion(store, datasets), recordings])

A version that has such a row is replaced by one without it, and its file is deleted, and so are the
answers to it that watches have. Runs have
samples of their own, and people may have copied an export: both are named, for people to delete.
"""

from __future__ import annotations

from router.datasets.registry import SHOWN_HASH, DatasetRegistry
from router.evals.export import MANIFEST
from router.loop.bundles.exported import bundles_of_runs
from router.sealing.deletion import Deletion, DeletionStep
from router.store.protocol import Store
from router.store.runs import RunFilter
from router.store.traffic import TrafficFilter

_RUNS_AT_ONCE = 200


class CopiedRowsDeletion(DeletionStep):
    """What datasets have of requests.

    Args:
        store: knows which rows were copied from which requests.
        datasets: the datasets.
    """

    def __init__(self, store: Store, datasets: DatasetRegistry) -> None:
        self._store = store
        self._datasets = datasets

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the copied rows; `at_most` is passed by the rows of one version."""
        deleted = 0
        elsewhere: list[str] = []
        while (copied := await self._store.copied_rows(matching)) is not None:
            if at_most is not None and deleted >= at_most:
                return Deletion(related=deleted, complete=False, elsewhere=tuple(elsewhere))
            places = await self._runs_over(copied.hash)
            deleted += await self._datasets.delete_rows(copied.hash, copied.rows)
            # Runs that were created meanwhile as well; later ones no longer find the version.
            places += await self._runs_over(copied.hash)
            elsewhere += dict.fromkeys(places)
        return Deletion(related=deleted, elsewhere=tuple(elsewhere))

    async def _runs_over(self, content: str) -> list[str]:
        """Return where runs and their exports have samples of the versions with a hash."""
        places: list[str] = []
        before = None
        matching = RunFilter(dataset_hash=content)
        while runs := await self._store.runs(matching, limit=_RUNS_AT_ONCE, before=before):
            for run in runs:
                places.append(f"the samples of {run.id} (dataset {content[:SHOWN_HASH]})")
                places += await bundles_of_runs(self._store, [run.id])
                if await self._datasets.artifacts.exists(f"runs/{run.id}/{MANIFEST}"):
                    places.append(f"the export {self._datasets.artifacts.root}/runs/{run.id}")
            before = runs[-1].id
        return places
