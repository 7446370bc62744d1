"""Runs: one row for each run document that is being, or was, executed.

A *run* is one run document being executed. Its *samples* are the rendered rows of its dataset. Each
*cell* (run, route, sample, repeat) has at most one *answer*, and each answer has *scores*; see
`results.py`. Which process executes a run is in `claims.py`; how a run that stopped is executed
once more is in `requeue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol, cast

import msgspec

from evaluators.base import Sample
from providers.errors import RequestError

RunState = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
ENDED: frozenset[RunState] = frozenset({"completed", "failed", "cancelled"})
# In these states no process executes the run, and none will until a user resumes it.
STOPPED: frozenset[RunState] = ENDED | {"paused"}

# The state that a run's owner is requested to bring it to; "" for no request.
RequestedState = Literal["", "paused", "cancelled"]


class Run(msgspec.Struct, kw_only=True):
    """One evaluation run.

    Attributes:
        id: `run_` and a sortable random part.
        name: the name that its user gave it.
        state: the stage that it has reached.
        document: the run document as it was accepted, JSON types only.
        dataset: the dataset's path or id as the document named it.
        base: the folder that relative paths of the document start from, absolute.
        dataset_hash: SHA-256 of the dataset's content, hex.
        dataset_rows: how many samples it has.
        metrics: metric name to signature.
        created_at, started_at, finished_at: seconds since the epoch, UTC; None when not yet.
        cells: how many cells the run has in all.
        interrupted: requests that were in flight at a crash and were sent again.
        error: why it failed, "" otherwise.
        stopped: why it ended before every cell had an answer (a limit, its `stop_when`), ""
            otherwise.
        wish: the state that its owner was requested to bring it to and has not yet; "" for none.
        runner: whether a server or a command began or resumed it last. After a crash, any server
            on the same store continues a server's run; a command's run is left to its user.
        only_scores: whether it is (or was last) executed only to score the answers that it has,
            without sending requests.
        owner: the process that executes it, "" for none.
        heartbeat_at: when the owner last renewed its claim; None without an owner.
        ran_s: seconds of execution, all attempts together.
        deaths: how often in a row its process died before it had stored an answer or a score.
        versions: package versions that produced the numbers, and what has to be known of how its
            routes were defined (`router.evals.unpredicted_routes`).
        experiment: the experiment that it belongs to, "" for none.
        tags, notes: as its document has them.
        key_id: the id of the key that it belongs to, whose holder may see it; "" for none.
        cost_usd: US dollars that it had taken when it stopped last, its judges and embeddings
            included, as far as that is known; None before, and where an earlier version ran it.
    """

    id: str
    name: str
    state: RunState
    document: dict[str, Any]
    dataset: str
    dataset_hash: str
    dataset_rows: int
    metrics: dict[str, str]
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    cells: int = 0
    interrupted: int = 0
    error: str = ""
    stopped: str = ""
    wish: RequestedState = ""
    runner: Literal["server", "command"] = "command"
    only_scores: bool = False
    owner: str = ""
    heartbeat_at: float | None = None
    ran_s: float = 0.0
    deaths: int = 0
    base: str = ""
    versions: dict[str, str] = {}
    experiment: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    key_id: str = ""
    cost_usd: float | None = None


class UnreadableRun(Run):
    """A run whose row cannot be read: `error` says why, and it stands in lists as `failed`.

    Its other fields are as stored where they can be read, else empty. One damaged row must hide no
    other run, and can still be deleted.
    """


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects runs to list; a field that is None selects all. Fields as in Run; `tag` is one."""

    state: RunState | None = None
    experiment: str | None = None
    tag: str | None = None
    key_id: str | None = None
    dataset_hash: str | None = None


ANY_RUN = RunFilter()

# What lists of runs can be sorted by.
RunSort = Literal["created", "name", "state", "finished", "duration", "cost", "samples"]
# The fields of a run that these are; by their age, runs are in the order of their ids.
SORT_FIELDS: Mapping[RunSort, str] = {
    "created": "id",
    "name": "name",
    "state": "state",
    "finished": "finished_at",
    "duration": "ran_s",
    "cost": "cost_usd",
    "samples": "dataset_rows",
}
_SORTED_TYPES: Mapping[RunSort, Any] = {
    "name": str,
    "state": str,
    "finished": float | None,
    "duration": float,
    "cost": float | None,
    "samples": Annotated[int, msgspec.Meta(ge=0, le=2**62)],
}


class RunOrder(NamedTuple):
    """The order of a list of runs; among equals, by their ids.

    Attributes:
        by: what it is sorted by; runs without a value come before all others.
        descending: whether the last of that order comes first.
    """

    by: RunSort = "created"
    descending: bool = True

    @classmethod
    def parse(cls, text: str) -> RunOrder:
        """Read an order: `cost`, or `-cost` for descending.

        Raises:
            RequestError: runs cannot be sorted so.
        """
        by = text.removeprefix("-")
        if by not in SORT_FIELDS:
            raise RequestError(
                f"sort is one of {', '.join(SORT_FIELDS)}, or one of them behind '-' for the other "
                f"way round; not {text!r}.",
                param="sort",
            )
        return cls(cast("RunSort", by), text.startswith("-"))

    def key(self, run: Run) -> str:
        """Return the key of a run's place in this order: what a page begins after."""
        if self.by == "created":
            return run.id
        value = getattr(run, SORT_FIELDS[self.by])
        return f"{run.id}~{msgspec.json.encode(value).decode()}"

    def place(self, key: str) -> tuple[Any, str]:
        """Return the value, None for none, and the id that a key stands for.

        Raises:
            RequestError: it is no key of this order.
        """
        run_id, _, value = key.partition("~")
        if self.by == "created":
            return key, key
        try:
            return msgspec.json.decode(value, type=_SORTED_TYPES[self.by]), run_id
        except (msgspec.DecodeError, UnicodeEncodeError):
            raise RequestError(
                f"before is `next` of a page of runs that is sorted by {self.by}.", param="before"
            ) from None


NEWEST_FIRST = RunOrder()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is, counted from its rows. `answered` includes what is scored."""

    answered: int
    failed: int
    in_flight: int
    scored: int


class RunStore(Protocol):
    """Stores runs. One that cannot be read is an UnreadableRun wherever a run is returned.

    Every method that takes the id of a run, except `run`, raises NotFoundError where no run has it.
    """

    async def add_run(self, run: Run, samples: Iterable[Sample], *, registered: str = "") -> None:
        """Add a run and its samples, all or nothing; the run can be read once it is complete.

        Args:
            run: the run.
            samples: iterated on a thread, no faster than they are written, and other writes get
                their turn in between.
            registered: the hash of the registered dataset that they are from; "" for none.

        Raises:
            ConflictError: rows of that dataset, or all of it, were deleted meanwhile.
            StoreError: the run's id is taken, or two samples have the same id.
            Exception: whatever `samples` raises; nothing was stored.
        """
        ...

    async def run(self, run_id: str) -> Run | None:
        """Return the run with an id or a unique prefix of one; None when no run has it.

        Raises:
            NotFoundError: several ids begin so; the message names some.
        """
        ...

    async def runs(
        self,
        matching: RunFilter = ANY_RUN,
        *,
        limit: int = 50,
        before: str | None = None,
        order: RunOrder = NEWEST_FIRST,
    ) -> list[Run]:
        """List runs, newest first, which is by id: ids sort by age.

        `before` is the key of the last run of the previous page in this order, for the newest
        first its id; that run may be gone.

        Raises:
            RequestError: `before` is no key of this order.
        """
        ...

    async def update_run(self, run_id: str, **changes: Any) -> None:
        """Set fields of a run.

        Raises:
            StoreError: no such field, or a value of the wrong type.
        """
        ...

    async def count_runs(self) -> int:
        """Return how many runs there are."""
        ...

    async def progress(self, run_id: str) -> Progress:
        """Count the run's answers by their state."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with its samples, answers, scores and judgements; it is gone at once."""
        ...
