"""Stores a bundle of a rollout, and is killed before its file is there, or before that is noted.

    python evidence_process.py FOLDER ROLLOUT file|note

The store is the one that servers have; it kills the process in between.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from router.config.loading import load
from router.datasets.registry import DatasetRegistry
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes
from router.loop.bundles.exported import EvidenceBundles, EvidenceRequest
from router.store.evidence import EvidenceBundle
from router.store.sqlite import SqliteStore


class KilledWhileItStores(SqliteStore):
    """A store whose process ends around the writing of a bundle's file."""

    before = "file"

    async def add_evidence(self, bundle: EvidenceBundle) -> None:
        await super().add_evidence(bundle)
        if self.before == "file":
            os.kill(os.getpid(), signal.SIGKILL)

    async def note_stored(self, bundle_id: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def export(folder: Path, rollout: str, before: str) -> None:
    config = load(folder / "evalrouter.yaml")
    store = KilledWhileItStores(folder / "e.db")
    store.before = before
    await store.open()
    routes = Routes(config, None, store, PriceBook(config.prices, config.providers))
    evidence = EvidenceBundles(store, DatasetRegistry(store, config), config, routes)
    await evidence.create(EvidenceRequest(subject=rollout), actor="killed")


if __name__ == "__main__":
    asyncio.run(export(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
