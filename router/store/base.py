"""What evalrouter keeps, and the protocol of whatever keeps it.

A *run* is one run document being carried out. Its *samples* are the rendered rows of its dataset.
Each *cell* (run, route, sample, repeat) has at most one *answer*, and each answer has *scores*.

The order of writes is the promise of an evaluation: `begin` before a request is sent, `keep_answer`
before it is scored, `keep_scores` last. After a crash, a cell that was begun and has no answer was
in flight: it is the only kind of request that is ever sent again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from evaluators.base import Answer, Cell, Judgement, Sample, Score
from evaluators.data.columns import Column
from providers.base import Translation
from providers.errors import StoreUnavailableError
from router.records import Attempt, Record

RunState = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
ENDED: frozenset[RunState] = frozenset({"completed", "failed", "cancelled"})
# Nobody carries it out, and nobody will unless asked to.
STOPPED: frozenset[RunState] = ENDED | {"paused"}

# The state that a run's owner is asked to bring it to; "" for none.
RequestedState = Literal["", "paused", "cancelled"]


class Run(msgspec.Struct, kw_only=True):
    """One evaluation run.

    Attributes:
        id: `run_` and a sortable random part.
        name: what people call it.
        state: where it stands.
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
        stopped: why it ended before every cell was asked (a limit, its `stop_when`), "" otherwise.
        wish: the state that its owner was asked to bring it to and has not yet; "" for none.
        runner: who began or resumed it last. What a server began, any server on the same store
            goes on with after a crash; what a command began is left to whoever typed it.
        only_scores: whether it is (or was last) carried out to score what is answered, and asks
            nothing.
        owner: which process carries it out, "" for none.
        heartbeat_at: when the owner last said it is alive; None for none.
        ran_s: seconds that it was carried out, all attempts together.
        deaths: how often in a row its process died before an answer or a score was kept.
        versions: package versions that produced the numbers.
        experiment: the one that it belongs to, "" for none.
        tags, notes: as its document has them.
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


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list; None asks nothing. Fields as in Run; `tag` is one of its tags."""

    state: RunState | None = None
    experiment: str | None = None
    tag: str | None = None


ANY_RUN = RunFilter()


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one name.

    Attributes:
        name: of the experiment.
        tags, notes: people's own words.
        runs: how many.
        states: run state to how many are in it.
        first_run_at, last_run_at: when those runs were created, seconds since the epoch, UTC; None
            without a run.
    """

    name: str
    tags: tuple[str, ...] = ()
    notes: str = ""
    runs: int = 0
    states: dict[str, int] = {}
    first_run_at: float | None = None
    last_run_at: float | None = None


class ScoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A cell with what is known of it.

    Attributes:
        cell: which.
        answer: None while the request is in flight.
        scores: by output name.
        request_hash: SHA-256 over target and body, hex; "" for an answer that the dataset brought.
        asked_at, answered_at: seconds since the epoch, UTC; `answered_at` is None in flight.
        interrupted: how often its request was in flight when the run's process died; each time it
            was sent once more.
        attempts: the requests sent for the answer, as `router.gateway.dispatch.Attempt`.
    """

    cell: Cell
    answer: Answer | None
    scores: tuple[Score, ...] = ()
    request_hash: str = ""
    asked_at: float | None = None
    answered_at: float | None = None
    interrupted: int = 0
    attempts: tuple[dict[str, Any], ...] = ()


class OpenSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample with something left to do.

    Attributes:
        sample: the sample.
        settled: route and repeat of its cells that need nothing more.
        unscored: route and repeat to an answer that lacks scores, with those it has.
    """

    sample: Sample
    settled: frozenset[tuple[str, int]]
    unscored: dict[tuple[str, int], ScoredAnswer]


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's answers took, as far as it is known; cached ones took nothing."""

    cost_usd: float
    tokens: int


class JudgementRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a judge and what came of it.

    Attributes:
        owner: the id of the run, or of the calibration, comparison or tournament, that asked.
        metric, judge, sample_id, repeat, attempt: as in `evaluators.base.JudgeRequest`.
        request_hash: SHA-256 over target and body, hex.
        at: when it came, seconds since the epoch.
        reused: whether another owner had paid for it already.
        judgement: the answer, with its text as it came.
    """

    owner: str
    metric: str
    judge: str
    sample_id: str
    repeat: int
    attempt: int
    request_hash: str
    at: float
    judgement: Judgement
    reused: bool = False


class JudgeUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one judge took for one metric of an owner.

    Attributes:
        metric, judge: which.
        calls: requests, those included that were answered from what others had paid for.
        asked_again: how many of them were sent because a verdict could not be read.
        failed: how many of them its target failed.
        reused: how many of them were not paid for again.
        cost_usd, tokens: of the others, as far as they are known.
        unpriced: how many have no known cost.
        estimated: how many have estimated tokens, because their target did not count them.
        mean_s: mean seconds of a request.
        target, model: of some answer, "" without one.
        first_at, last_at: when the first and the last came, seconds since the epoch.
    """

    metric: str
    judge: str
    calls: int
    asked_again: int
    failed: int
    reused: int
    cost_usd: float
    unpriced: int
    tokens: int
    mean_s: float | None
    target: str
    model: str
    first_at: float
    last_at: float
    estimated: int = 0


class EmbeddingUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the embeddings took that a run's metrics requested of one route.

    Attributes:
        route, target: which; `target` is "" where none answered.
        requests: how many.
        failed: how many of them gave no vectors that can be used.
        tokens, cost_usd: as far as they are known.
        unpriced: how many have no known cost.
        estimated: how many have estimated tokens.
    """

    route: str
    target: str
    requests: int
    failed: int
    tokens: int
    cost_usd: float
    unpriced: int
    estimated: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """How long a target was at work for a run or a study.

    Attributes:
        target: `provider/model`.
        seconds: in which at least one request was under way.
        requests: answered ones.
        tokens: as far as they are known.
    """

    target: str
    seconds: float
    requests: int
    tokens: int


StudyKind = Literal["calibration", "comparison", "tournament"]


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration of a judge, a comparison of two routes or a tournament of several.

    Attributes:
        id: `cal_`, `cmp_` or `trn_` and a sortable random part.
        kind: which of them.
        judges: who judges.
        grading: what is judged and how, as `evaluators.base.JudgeMetric.grading`.
        name: what people call it.
        state: `running` until its report is there.
        document: what was asked for, JSON types only; enough to go on with it.
        created_at, finished_at: seconds since the epoch, UTC.
        error: why it stopped, "" otherwise.
        report: what came out, JSON types only; empty until then.
        detail: what the report was made of, JSON types only; empty in lists.
    """

    id: str
    kind: StudyKind
    judges: tuple[str, ...]
    grading: str
    name: str
    state: Literal["running", "completed", "failed"] = "running"
    document: dict[str, Any] = {}
    created_at: float
    finished_at: float | None = None
    error: str = ""
    report: dict[str, Any] = {}
    detail: dict[str, Any] = {}


class DatasetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered dataset; (name, hash) is unique.

    Attributes:
        name: what people call it.
        hash: SHA-256 of the file's bytes, hex.
        path: the file's key in the artifact store.
        format: jsonl, json, csv, tsv or parquet.
        rows: how many it has.
        columns: every column of any row, mapped ones also under their known names.
        created_at: seconds since the epoch, UTC.
        size: bytes of the file.
        mapping: the file's own column names to known ones.
        source: where it came from.
        provenance: what is known of how it was made (a hub's commit, the run that labelled it);
            JSON types only.
        statistics: what its columns hold.
    """

    name: str
    hash: str
    path: str
    format: str
    rows: int
    columns: tuple[str, ...]
    created_at: float
    size: int = 0
    mapping: dict[str, str] = {}
    source: str = ""
    provenance: dict[str, Any] = {}
    statistics: tuple[Column, ...] = ()


BudgetPeriod = Literal["day", "week", "month", "total"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client's key, without the key and without its hash: safe to show.

    Attributes:
        id: `key_` and a random part.
        name: what people call it; unique among keys that are not revoked.
        routes: the values of `model` it may ask for; None for all.
        admin: whether it may do more than ask models: evaluations, traffic, metrics, pages.
        rpm, tpm: requests and tokens per minute, per process; None for no limit.
        parallel: requests at a time, per process; None for no limit.
        budget_usd: US dollars per budget period; None for no limit.
        budget_period: when the budget begins anew, in UTC (weeks on Monday); `total` for never.
        expires_at, created_at, revoked_at: seconds since the epoch, UTC; None for not (yet).
    """

    id: str
    name: str
    routes: tuple[str, ...] | None = None
    admin: bool = False
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    budget_usd: float | None = None
    budget_period: BudgetPeriod = "total"
    expires_at: float | None = None
    created_at: float
    revoked_at: float | None = None


class KeySpend(msgspec.Struct, frozen=True, kw_only=True):
    """What a key used in one budget period, or since the last time it was written down.

    Attributes:
        key_id: whose.
        since: when the period began, seconds since the epoch; 0 for `total`.
        usd: US dollars, of the requests whose price is known.
        tokens: of the requests whose tokens are known.
        requests: how many were let through.
        unpriced: how many of them had no known cost; `usd` is too low by those.
        estimated: how many of them had estimated tokens, because their targets did not say.
    """

    key_id: str
    since: float
    usd: float = 0.0
    tokens: int = 0
    requests: int = 0
    unpriced: int = 0
    estimated: int = 0


class KeyTable(msgspec.Struct, frozen=True, kw_only=True):
    """All keys at one moment, revoked ones included.

    Attributes:
        version: grows with every change of a key (not with what keys spend).
        by_hash: SHA-256 of the key to its row, oldest key first.
    """

    version: int
    by_hash: dict[bytes, KeyRow]


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be looked at every second.

    Attributes:
        version: as in KeyTable.
        spent: key id to the latest period it spent anything in.
    """

    version: int
    spent: dict[str, KeySpend]


class TrafficFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests to list; None asks nothing.

    Attributes:
        route, target, key_id, traffic_class: as in TrafficRow.
        status: the lowest and the highest.
        since, until: seconds since the epoch; `until` itself is left out.
    """

    route: str | None = None
    target: str | None = None
    key_id: str | None = None
    traffic_class: str | None = None
    status: tuple[int, int] | None = None
    since: float | None = None
    until: float | None = None


class TrafficRow(msgspec.Struct, frozen=True, kw_only=True, rename={"traffic_class": "class"}):
    """One request as it is kept.

    Attributes:
        number: grows with every row.
        target: who answered, else who was asked last; "" when nobody was.
        bodies: whether bodies were kept; `request` and `response` are only read with one row.
        trace_id: 32 hexadecimal digits, "" without a trace.

    The others are as in `router.records.Record`.
    """

    number: int
    id: str
    at: float
    key_id: str
    path: str
    route: str
    target: str
    status: int
    error_code: str
    traffic_class: str
    stream: bool
    cached: bool
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cached_tokens: int
    written_tokens: int
    lost_tokens: int
    estimated: bool
    cost_usd: float | None
    first_byte_s: float | None
    total_s: float
    model: str
    system_fingerprint: str
    attempts: tuple[Attempt, ...]
    translation: Translation | None
    trace_id: str
    bodies: bool
    request: str | None = None
    response: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is, counted from its rows."""

    answered: int
    failed: int
    in_flight: int
    scored: int


class EarlierAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer took and how many tokens it had; None where that is not known.

    Attributes:
        source: whether a run or a live request was answered.
        messages: what was asked, where a run asked.
    """

    source: Literal["runs", "traffic"]
    prompt_tokens: int | None
    completion_tokens: int | None
    first_byte_s: float | None
    total_s: float | None
    messages: tuple[dict[str, Any], ...] = ()


class EarlierRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run's scores of one output: by route and position of the sample, means over repeats."""

    run_id: str
    scores: dict[str, dict[int, float]]


class Store(Protocol):
    """Keeps everything that must survive a crash. Every method may raise StoreError.

    It is a StoreUnavailableError where the database as a whole does not work at present.

    A write has reached the database (and outlives a kill -9 of this process) when its await ends.
    """

    async def open(self) -> None:
        """Connect and bring the schema up to date."""
        ...

    async def close(self) -> None:
        """Write what is queued, then disconnect."""
        ...

    def end_within(self, seconds: float) -> None:
        """Stop waiting for other processes that keep the database locked, so long from now."""
        ...

    # whether it works

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def check(self) -> None:
        """Raise StoreUnavailableError unless reads and writes work now."""
        ...

    def delay(self) -> StoreUnavailableError | None:
        """What a `check` that takes its time waits for; None where that is not known."""
        ...

    # runs
    async def add_run(self, run: Run, samples: Iterable[Sample]) -> None:
        """A new run and its samples, all or nothing, whatever `samples` raises.

        `samples` is iterated on a thread, no faster than it is written.
        """
        ...

    async def run(self, run_id: str) -> Run | None:
        """One run; None when there is none. A unique prefix of the id is enough."""
        ...

    async def runs(
        self, wanted: RunFilter = ANY_RUN, *, limit: int = 50, before: str | None = None
    ) -> list[Run]:
        """Newest first; `before` is the id of the last run of the page before."""
        ...

    async def update_run(self, run_id: str, **changes: Any) -> None:
        """Set fields of a run."""
        ...

    async def claim_run(self, run_id: str, owner: str, now: float, stale_after: float) -> bool:
        """Become the owner of a run that is queued or running.

        False when it is neither, or another owner gave a sign of life lately. Atomic over
        processes. Counts the cells in flight into `interrupted` and forgets them, so that they are
        asked again.
        """
        ...

    async def heartbeat(self, run_id: str, owner: str, now: float) -> RequestedState | None:
        """Renew the claim, and learn what is wished; None when somebody else owns the run now."""
        ...

    async def end_run(self, run_id: str, owner: str, now: float, **changes: Any) -> bool:
        """Give the run up with its last state; False when somebody else owns it now."""
        ...

    async def wish_run(
        self, run_id: str, wish: RequestedState, now: float, stale_after: float
    ) -> Run:
        """Ask the owner to bring the run to a state; a run without a live owner is at once."""
        ...

    async def requeue_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        retry_failed: bool = False,
        **changes: Any,
    ) -> None:
        """Have it done again. ConflictError while another owner gives signs of life.

        `retry_failed` forgets its errors, so that they are asked again.
        """
        ...

    async def unfinished_runs(self) -> list[Run]:
        """The runs of servers that are queued or running, oldest first."""
        ...

    async def rescore_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        kept: Sequence[str],
        **changes: Any,
    ) -> None:
        """Requeue a run whose answers are all to be scored again; only the scores of `kept` stay.

        Whoever claims it calls `unscore_some` until it says that there is no more.
        """
        ...

    async def unscore_some(self, run_id: str) -> bool:
        """A step of what `rescore_run` began; whether there are more."""
        ...

    async def extend_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        samples: Iterable[Sample],
        **changes: Any,
    ) -> None:
        """Requeue a run with more samples behind its own, all or nothing.

        ConflictError when somebody carries it out. `changes` says the new `dataset_rows`.
        """
        ...

    async def spent(self, run_id: str) -> Spent:
        """What the run's answers took."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """The run, its samples, answers and scores."""
        ...

    # experiments
    async def experiments(
        self, *, name: str | None = None, tag: str | None = None
    ) -> list[Experiment]:
        """Those with a run, tags or notes; the one with the newest run first."""
        ...

    async def set_experiment(self, name: str, *, tags: tuple[str, ...], notes: str) -> None:
        """Its tags and notes, in place of those it had."""
        ...

    async def forget_experiment(self, name: str) -> None:
        """Its runs stay and are in no experiment."""
        ...

    # samples, answers, scores
    def samples(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Sample]:
        """The run's samples in dataset order, in bounded pages."""
        ...

    async def begin(
        self,
        run_id: str,
        cell: Cell,
        request_hash: str,
        target: str,
        *,
        unless_known: bool = False,
    ) -> Answer | None:
        """Note that the cell's request is about to be sent.

        With `unless_known`, an answer to the same request and repeat that is kept already
        (`cached_answer`) is given instead, and nothing is noted.
        """
        ...

    async def withdraw(self, run_id: str, cell: Cell) -> None:
        """Undo `begin`: the target refused the request unread, so nothing was in flight."""
        ...

    async def keep_answer(
        self, run_id: str, cell: Cell, request_hash: str, answer: Answer, attempts: Sequence[Any]
    ) -> None:
        """The cell's answer or error, with the record of its attempts (JSON types)."""
        ...

    async def keep_scores(self, run_id: str, cell: Cell, scores: Sequence[Score]) -> None:
        """The cell's scores; replaces scores of the same outputs."""
        ...

    async def keep_all_scores(self, run_id: str, scored: Mapping[Cell, Sequence[Score]]) -> None:
        """The scores of several cells, all or none; replaces scores of the same outputs."""
        ...

    async def forget_failed(self, run_id: str) -> int:
        """Drop the answers that are errors, so that they are asked again; how many there were."""
        ...

    def open_samples(self, run_id: str, cells: int) -> AsyncGenerator[OpenSample]:
        """The samples with something left to do, in dataset order, in bounded pages.

        `cells` is how many each has. A page is read when it is wanted: what is asked meanwhile of
        samples that were given out does not change what comes behind them.
        """
        ...

    def results(
        self, run_id: str, *, route: str | None = None, after: int = 0
    ) -> AsyncGenerator[ScoredAnswer]:
        """The run's answers with their scores, by sample, route and repeat, in bounded pages.

        `after`: leave out so many samples.
        """
        ...

    async def clusters(self, run_id: str) -> dict[str, str]:
        """Sample id to its `cluster`, for the samples that have one."""
        ...

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        """Call `take` with every result in the same order, on threads, one call at a time."""
        ...

    async def progress(self, run_id: str) -> Progress:
        """Counts over the run's rows."""
        ...

    async def cached_answer(self, request_hash: str, repeat: int) -> Answer | None:
        """The newest answer (never an error) to the same request and repeat, of any run."""
        ...

    # what earlier requests say about the next ones
    async def known_requests(
        self, requests: Sequence[tuple[str, int]]
    ) -> frozenset[tuple[str, int]]:
        """Those of the (request hash, repeat) that `cached_answer` has an answer to."""
        ...

    async def earlier_answers(self, target: str, most: int) -> list[EarlierAnswer]:
        """The target's newest answers to runs; without any, to live requests."""
        ...

    async def earlier_run(self, dataset_hash: str, output: str) -> EarlierRun | None:
        """The newest run over the dataset that has scores of the output; None without one."""
        ...

    # judges
    async def keep_judgement(self, row: JudgementRow) -> None:
        """What a judge answered; replaces a failure of the same request."""
        ...

    async def judgement(
        self, owner: str, request_hash: str, repeat: int, attempt: int, *, anybody: bool
    ) -> JudgementRow | None:
        """The owner's answer (never a failure) to a request; with `anybody` also another's."""
        ...

    async def judgements(
        self, owner: str, *, sample_id: str | None = None, limit: int = 100, after: int = 0
    ) -> list[tuple[int, JudgementRow]]:
        """An owner's judgements with their numbers, in the order they came."""
        ...

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        """What an owner's judges took."""
        ...

    async def judgement_tokens(self, judge: str, metric: str) -> tuple[float, float] | None:
        """Mean prompt and completion tokens of the judge's last judgements for a metric."""
        ...

    async def add_embedding_use(self, run_id: str, use: EmbeddingUse) -> None:
        """Add to what a run's embeddings took. Raises NotFoundError."""
        ...

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        """Return what a run's embeddings took, by route and target. Raises NotFoundError."""
        ...

    async def served(self, owner: str) -> list[Served]:
        """How long each target was at work for a run or a study."""
        ...

    async def set_study(self, study: Study) -> None:
        """Add or change a calibration, comparison or tournament."""
        ...

    async def study(self, study_id: str) -> Study:
        """One, by its id or a unique prefix. NotFoundError when there is none."""
        ...

    async def studies(
        self, *, kind: StudyKind | None = None, judge: str | None = None, limit: int = 50
    ) -> list[Study]:
        """Newest first, without `detail`."""
        ...

    # datasets
    async def add_dataset(self, row: DatasetRow) -> None:
        """Register a dataset version; registering the same one again changes nothing."""
        ...

    async def datasets(self, name: str | None = None) -> list[DatasetRow]:
        """Registered versions, newest first."""
        ...

    async def delete_dataset(self, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
        """Forget a version; whether its content is still registered under another name.

        NotFoundError when there is no such version.
        """
        ...

    # routes set at run time
    async def set_route(self, name: str, route: dict[str, Any] | None, now: float) -> None:
        """Override a route of the config (its document, JSON types); None goes back to it."""
        ...

    async def route_overrides(self) -> dict[str, dict[str, Any]]:
        """All overrides, by name. Read about once a second by every process."""
        ...

    # keys
    async def add_key(self, row: KeyRow, digest: bytes) -> None:
        """A new key; `digest` is its SHA-256. ConflictError when the name is in use."""
        ...

    async def keys(self) -> KeyTable:
        """Every key."""
        ...

    async def key_state(self) -> KeyState:
        """Whether keys changed, and what they spent: cheap enough for every second."""
        ...

    async def revoke_key(self, name: str, now: float) -> KeyRow:
        """Revoke by id or name. NotFoundError when no key of that name is in use."""
        ...

    async def add_key_spend(self, spent: Sequence[KeySpend]) -> None:
        """Add to what keys spent, all or nothing; several processes may add to the same key."""
        ...

    # traffic
    async def keep_traffic(self, records: Sequence[Record]) -> None:
        """Write down requests, all or none."""
        ...

    async def traffic(
        self, wanted: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        """Newest first; `before` is the number of the last row of the page before."""
        ...

    async def request(self, request_id: str) -> TrafficRow | None:
        """One request, the newest of that id, with its bodies; None when there is none."""
        ...

    async def forget_traffic(self, before: float, most: int) -> int:
        """Delete up to `most` requests that came before a moment; how many it were."""
        ...
