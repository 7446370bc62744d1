"""The review queue: rows that wait for a person before they become part of a dataset."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.traffic import TrafficFilter

ReviewState = Literal["waiting", "accepted", "rejected"]
ReviewOrigin = Literal["feedback", "traffic", "import"]


class ReviewContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person reviews, without personal data.

    Attributes:
        messages: the conversation.
        answer: what the client was answered; None where that is not known.
        reference: what should have been answered; None while that is not known.
        metadata: further columns of the row; JSON types only.
    """

    messages: list[dict[str, Any]]
    answer: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] = {}


class ReviewSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request that a row is about; nothing of it is known of an imported row.

    Attributes:
        id, at, key_id, user, route, target, traffic_class, status, request_id, response_id,
            conversation: as in `router.store.traffic.TrafficRow`; `at` is when the row came where
            there is no request.
        feedback: the ids of the feedback that the row was made of.
        authors: the users who gave it.
    """

    id: str = ""
    at: float = 0.0
    key_id: str = ""
    user: str = ""
    route: str = ""
    target: str = ""
    traffic_class: str = "live"
    status: int = 0
    request_id: str = ""
    response_id: str = ""
    conversation: str = ""
    feedback: tuple[str, ...] = ()
    authors: frozenset[str] = frozenset()


class ReviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the queue.

    Attributes:
        number: grows with every row; 0 for one that is not stored yet.
        id: the row's id, also in the dataset.
        at: when it came, seconds since the epoch.
        expires_at: when it is deleted unless it has been accepted.
        dataset: what it becomes a row of.
        origin: where it came from.
        source: see ReviewSource.
        content: see ReviewContent.
        findings: what its checks noticed: objects with `kind`, `action`, `place` and so on.
        state: what a person has decided.
        version: grows with every change.
        edited: whether a person has changed the content.
        decided_at, decided_by: when it was decided, and by whom; None and "" while it waits.
        reason: why it was rejected.
        published: the hash of the dataset's version that has it; "" while none has.
    """

    number: int = 0
    id: str
    at: float
    expires_at: float
    dataset: str
    origin: ReviewOrigin
    source: ReviewSource
    content: ReviewContent
    findings: tuple[dict[str, Any], ...] = ()
    state: ReviewState = "waiting"
    version: int = 1
    edited: bool = False
    decided_at: float | None = None
    decided_by: str = ""
    reason: str = ""
    published: str = ""


class NewReviewRow(NamedTuple):
    """A row to be stored, with what near duplicates of it are found by.

    Attributes:
        row: the row.
        digest, sketch: see `router.loop.checks.near_duplicates.Sketch`; the latter as hex.
        bands: pieces of the sketch, of which a near duplicate has one in common, as hex.
    """

    row: ReviewRow
    digest: str = ""
    sketch: str = ""
    bands: Collection[str] = ()


class ReviewFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects rows of the queue; a field that is None selects all.

    Attributes:
        state, dataset, origin: as in ReviewRow.
        route: of the request.
        published: whether a dataset's version has the row.
    """

    state: ReviewState | None = None
    dataset: str | None = None
    origin: ReviewOrigin | None = None
    route: str | None = None
    published: bool | None = None


class ToxicityProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the queue has been judged.

    Attributes:
        number: of the last row that was judged, or passed over; 0 for none.
        day: the day (UTC) of `usd`; "" for none.
        usd: what the judge has cost that day.
    """

    number: int = 0
    day: str = ""
    usd: float = 0.0


class SimilarRow(NamedTuple):
    """A row of the queue that may be a near duplicate of another."""

    id: str
    digest: str
    sketch: str


class ReviewStore(Protocol):
    """Stores the review queue."""

    async def review_key(self, new: bytes) -> bytes:
        """Return the key of the queue's placeholders, which is `new` if there was none."""
        ...

    async def review_position(self) -> int:
        """Return the number of the last feedback that was taken to the queue; 0 for none."""
        ...

    async def keep_review_position(self, number: int) -> None:
        """Store the number of the last feedback that was taken to the queue."""
        ...

    async def toxicity_progress(self) -> ToxicityProgress:
        """Return how far the queue has been judged."""
        ...

    async def keep_toxicity_progress(self, progress: ToxicityProgress) -> None:
        """Store how far the queue has been judged."""
        ...

    async def add_review_rows(self, rows: Sequence[NewReviewRow], *, max_waiting: int) -> None:
        """Store rows, all or none.

        Raises:
            ConflictError: more than `max_waiting` rows would wait.
        """
        ...

    async def similar_review_rows(self, dataset: str, bands: Collection[str]) -> list[SimilarRow]:
        """Return a dataset's rows that share one of the bands, oldest first; at most 1,000."""
        ...

    async def review_rows(
        self, matching: ReviewFilter, *, limit: int, after: int = 0, before: int | None = None
    ) -> list[ReviewRow]:
        """List rows, oldest first.

        Args:
            matching: which rows.
            limit: how many.
            after: the number of the previous page's last row.
            before: the number of the next page's first row, for the last `limit` rows below it.
        """
        ...

    async def count_review_rows(self, matching: ReviewFilter) -> int:
        """Count rows."""
        ...

    async def review_row(self, row_id: str) -> ReviewRow:
        """Return a row. Raises NotFoundError."""
        ...

    async def change_review_row(self, row: ReviewRow) -> bool:
        """Store a changed row, whose `version` is one more; False where another was quicker.

        A row that is being published, or has been, stays as it is.
        """
        ...

    async def begin_publishing(self, dataset: str) -> list[ReviewRow]:
        """Return a dataset's accepted rows that no version has; they cannot be changed any more."""
        ...

    async def end_publishing(self, ids: Collection[str], content: str) -> list[str]:
        """Store which version has the rows; return the ids of those that are still in the queue.

        "" as `content` gives them back.
        """
        ...

    async def expire_review_rows(self, now: float, limit: int) -> int:
        """Delete at most `limit` rows that are old enough and not accepted; return how many."""
        ...

    async def forget_review_rows(self, matching: TrafficFilter, limit: int) -> int:
        """Delete at most `limit` rows about requests that match; return how many."""
        ...
