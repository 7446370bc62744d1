"""Gets runs from the store by their id, and reads their documents and what they cost.

Every operation on a stored run reads the document here, once, and passes it on. What it builds of
it (metrics, gates) is not kept for the next operation, because their files may have changed since.
"""

from __future__ import annotations

import msgspec

from evaluators.document import RunDocument
from providers.errors import NotFoundError, RunDocumentError, StoreError
from router.store.protocol import Store
from router.store.runs import Run, RunStore, UnreadableRun


async def find_run(store: RunStore, run_id: str) -> Run:
    """Return the run with this id or unique prefix.

    Raises:
        NotFoundError: no such run.
        StoreError: its row cannot be read.
    """
    run = await find_row(store, run_id)
    if isinstance(run, UnreadableRun):
        raise StoreError(run.error)
    return run


async def find_row(store: RunStore, run_id: str) -> Run:
    """Return the run with this id or unique prefix, an UnreadableRun where its row cannot be read.

    Raises:
        NotFoundError: no such run.
    """
    run = await store.run(run_id)
    if run is None:
        raise NotFoundError(f"There is no run {run_id!r}.")
    return run


def stored_document(run: Run) -> RunDocument:
    """Return a run's document with its types.

    Raises:
        RunDocumentError: another version of evalrouter stored it, and this one cannot read it.
    """
    try:
        return msgspec.convert(run.document, RunDocument)
    except msgspec.ValidationError as error:
        made_by = run.versions.get("evalrouter", "unknown")
        raise RunDocumentError(
            f"{run.id}: this version of evalrouter cannot read the run's document, which version "
            f"{made_by} stored: {error}"
        ) from error


async def cost_of(store: Store, run_id: str) -> float:
    """Return what a run's answers, judges and embeddings cost in US dollars, as far as known."""
    answered = (await store.spent(run_id)).cost_usd
    judged = sum(use.cost_usd for use in await store.judge_use(run_id))
    return answered + judged + await embeddings_cost_of(store, run_id)


async def embeddings_cost_of(store: Store, run_id: str) -> float:
    """Return what a run's embeddings cost in US dollars, as far as known."""
    return sum(use.cost_usd for use in await store.embedding_use(run_id))
