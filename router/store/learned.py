"""Models of learned routes: what they were made of, whether they pay, and where their file is.

A model's file has embeddings of prompts. So each of its rows that was made of a request says here
what filters of requests select by, and a deletion takes the row out of the file. What was counted
stays in the model's report, which has no texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from router.store.changes import ChangeStore
from router.store.traffic import TrafficFilter

LearnedState = Literal["learning", "ready", "failed"]


class LearnedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a learned route.

    Attributes:
        id: `lm_` and a sortable random part.
        route: the name of the route.
        state: `learning` until it is `ready` or has `failed`.
        created_at: when it was begun, seconds since the epoch.
        created_by: who began it.
        error: why it failed; "" otherwise.
        settings: what it was made with, JSON types; for a route with others it is outdated.
        made_of: the numbers of rows, by where they come from, and the ids of the runs; JSON types.
        report: the held-out test, JSON types; empty before it.
        dimensions: of the embeddings.
        rows: how many prompts its file has.
        forgotten: how many were taken out because their requests were deleted.
        artifact, hash, size: the key of its file in the artifact store, the file's SHA-256 and its
            bytes; "" and 0 without a file.
    """

    id: str
    route: str
    state: LearnedState = "learning"
    created_at: float
    created_by: str = ""
    error: str = ""
    settings: dict[str, Any] = {}
    made_of: dict[str, Any] = {}
    report: dict[str, Any] = {}
    dimensions: int = 0
    rows: int = 0
    forgotten: int = 0
    artifact: str = ""
    hash: str = ""
    size: int = 0


class LearnedSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a row of a model's file comes from: a request, a dataset's row, or a shadow's request.

    Attributes:
        row: the position of the row when the file was first written.
        id, at, key_id, user, request_id, response_id, conversation, rollout, arm, route, target,
            traffic_class, status: of the request, as in `router.store.traffic.TrafficRow`.
        author: the user who gave the feedback that is in the row; "" for others.
        dataset_hash, dataset_row: the row of a dataset, which may have been copied from a request;
            "" for others.
        shadow_run: the shadow's run, whose request has the id `id`; "" for others.
    """

    row: int
    id: str = ""
    at: float = 0.0
    key_id: str = ""
    user: str = ""
    request_id: str = ""
    response_id: str = ""
    conversation: str = ""
    rollout: str = ""
    arm: str = ""
    route: str = ""
    target: str = ""
    traffic_class: str = "live"
    status: int = 200
    author: str = ""
    dataset_hash: str = ""
    dataset_row: str = ""
    shadow_run: str = ""


class LearnedRows(msgspec.Struct, frozen=True):
    """Rows of a model's file that were made of some requests."""

    model: str
    rows: frozenset[int]


class LearnedStore(ChangeStore, Protocol):
    """Stores models of learned routes."""

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def add_learned(self, model: LearnedModel) -> None:
        """Add a model that is being learned; others of the route that still are have failed."""
        ...

    async def fail_learned(self, model_id: str, error: str) -> None:
        """Note why a model has failed; the route's earlier one stays in use."""
        ...

    async def finish_learned(
        self, model: LearnedModel, sources: Sequence[LearnedSource], *, deletions: int
    ) -> list[str]:
        """Put a model that is ready in the place of the route's earlier ones, all or nothing.

        Args:
            model: as it is now.
            sources: where its rows come from. Those that were copied from no request are not
                stored.
            deletions: what `traffic_deletions` returned before the requests were read.

        Returns:
            The keys of the files that are not needed any more.

        Raises:
            ConflictError: requests were deleted meanwhile, or another model was begun.
        """
        ...

    async def learned_models(
        self, route: str | None = None, *, state: LearnedState | None = None, limit: int = 50
    ) -> list[LearnedModel]:
        """Return models, the newest first."""
        ...

    async def learned_version(self) -> int:
        """Return a number that grows with every change of a model."""
        ...

    async def learned_rows(
        self, matching: TrafficFilter, *, model: str | None = None
    ) -> LearnedRows | None:
        """Return the rows of one model that were made of requests that match; None for none.

        `model` is its id; None for any that has some.
        """
        ...

    async def forget_learned(
        self, model: LearnedModel, rows: frozenset[int], *, artifact: str
    ) -> bool:
        """Store a model whose file has lost some rows, and forget where they came from.

        False, and nothing is stored, where its file is another one than `artifact` by now.
        """
        ...
