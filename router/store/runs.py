"""Runs: one row for each run document that is being, or was, executed.

A *run* is one run document being executed. Its *samples* are the rendered rows of its dataset. Each
*cell* (run, route, sample, repeat) has at most one *answer*, and each answer has *scores*; see
`results.py`. Which process executes a run is in `claims.py`; how a run that stopped is executed
once more is in `requeue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import msgspec

from evaluators.base import Sample

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
        oldest_first: bool = False,
    ) -> list[Run]:
        """List runs, newest first, which is by id: ids sort by age.

        `before` is the id of the last run of the previous page; that run may be gone.
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
