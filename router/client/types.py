"""What the server answers, as TypedDicts: plain dicts with known keys.

A newer server may send more keys than are named here; they are in the dict all the same.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["client", "reviewer", "admin", "viewer"]
StudyKind = Literal["calibration", "comparison", "tournament"]
AlertState = Literal["pending", "firing", "resolved"]
RunState = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]


class DeletedRequests(TypedDict):
    """How many requests were deleted, and where texts of them may be that are left to people.

    `related` are rows that were about them or made of them, such as feedback.
    """

    deleted: int
    related: int
    elsewhere: list[str]


class SampleNote(TypedDict):
    """What one person says of one sample of a run; `at` is in seconds since the epoch."""

    position: int
    key_id: str
    author: str
    label: str
    note: str
    at: float


class Run(TypedDict):
    """A run: its completed document, the state that it is in, and its names.

    Times are seconds since the epoch, UTC; None when not yet.
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
    started_at: float | None
    finished_at: float | None
    cells: int
    interrupted: int
    error: str
    stopped: str
    experiment: str
    tags: list[str]
    notes: str
    key_id: str
    versions: dict[str, str]
    ran_s: float
    cost_usd: float | None


class Progress(TypedDict):
    """How far a run is: the numbers of requests, of `cells` in all, in each state."""

    state: RunState
    cells: int
    answered: int
    failed: int
    in_flight: int
    scored: int


class RouteScore(TypedDict):
    """One output of one route, with its 95% interval; None where nothing is known."""

    output: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    scored: int
    expected: int
    coverage: float
    unscored: int
    example: str
    method: str
    clusters: int | None
    effective_clusters: float | None
    labelled: int | None
    people: float | None
    judge: float | None
    withheld: str


class RouteReport(TypedDict):
    """One route of a run. `tokens`, `cost` and `times` are as in docs/reference/http.md."""

    route: str
    expected: int
    answered: int
    failed: int
    missing: int
    cached: int
    cached_from: dict[str, int]
    errors: list[dict[str, Any]]
    targets: dict[str, float]
    tokens: dict[str, int]
    cost: dict[str, Any]
    times: dict[str, Any]
    scores: list[RouteScore]
    shortfalls: dict[str, int]


class Comparison(TypedDict):
    """One output of a route minus the same of the baseline, over samples that both have."""

    route: str
    output: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    wins: int | None
    ties: int | None
    losses: int | None
    effect_size: float | None
    detectable: float | None
    verdict: Literal["better", "worse", "equivalent", "no difference shown"] | None
    method: str
    margin: float | None
    gatekept: bool
    p_equivalence: float | None
    clusters: int | None
    effective_clusters: float | None


class Report(TypedDict):
    """All numbers of a run. `outputs` say what each of them means."""

    baseline: str | None
    samples: int
    outputs: list[dict[str, Any]]
    routes: list[RouteReport]
    comparisons: list[Comparison]
    warnings: list[str]
    signatures: dict[str, str]
    method: str
    always_valid: bool


class Outcome(TypedDict):
    """A run, its report as far as it has got, and whether it passed its gates."""

    run: Run
    report: Report
    gates: list[dict[str, Any]]


class SliceScore(TypedDict):
    """The score of one route over a slice; `few` marks fewer than 20 samples."""

    route: str
    estimate: float | None
    low: float | None
    high: float | None
    method: str
    n: int
    few: bool
    clusters: int | None
    effective_clusters: float | None
    labelled: int | None
    withheld: str


class Slice(TypedDict):
    """The samples of one value of a column, or of values that belong together."""

    key: str
    kind: Literal["value", "range", "other", "missing"]
    name: str
    low: float | None
    high: float | None
    values: int
    samples: int
    scores: list[SliceScore]
    comparisons: list[Comparison]


class SliceReport(TypedDict):
    """A run's score by one column of its dataset; `whole` is of all samples."""

    column: str
    output: dict[str, Any]
    baseline: str | None
    samples: int
    whole: list[SliceScore]
    slices: list[Slice]
    warnings: list[str]
    method: str
    always_valid: bool


class Sample(TypedDict):
    """A row of the dataset; `fields` are its columns."""

    id: str
    messages: list[dict[str, Any]]
    references: list[str]
    fields: dict[str, Any]


class Answer(TypedDict):
    """A route's answer, or in `error` why it gave none (then `text` is None)."""

    text: str | None
    whole_text: str | None
    thinking: str
    shortfall: str
    error: str | None
    error_code: str | None
    target: str
    model: str
    finish_reason: str
    usage: dict[str, int | None]
    cost_usd: float | None
    estimated: bool
    first_byte_s: float | None
    total_s: float | None
    attempts: int
    cached: bool
    cached_from: str


class Verdict(TypedDict):
    """What one answer of a judge was read as; without a `value`, `why` has the reason."""

    judge: str
    repeat: int
    attempt: int
    request_hash: str
    value: float | None
    why: str


class Score(TypedDict):
    """One output of a metric for one answer; `value` is None where it could not be scored."""

    output: str
    value: float | None
    verdicts: NotRequired[list[Verdict]]


class Judgement(TypedDict):
    """A judge's answer."""

    answer: Answer


class JudgementRow(TypedDict):
    """One request to a judge and its outcome; `metric` is the name of the metric that sent it."""

    metric: str
    judge: str
    sample_id: str
    repeat: int
    attempt: int
    request_hash: str
    at: float
    reused: bool
    judgement: Judgement


class SampleRow(TypedDict):
    """One sample, the `position`-th of the run, sent to one route for the `repeat`-th time.

    Both count from 0.
    """

    route: str
    repeat: int
    sample: Sample
    position: int
    answer: Answer | None
    scores: list[Score]


class Dataset(TypedDict):
    """One version of a dataset. `name@hash` names it in a run document."""

    name: str
    hash: str
    format: str
    rows: int
    columns: list[str]
    created_at: float
    size: int
    mapping: dict[str, str]
    source: str


class DroppedRecords(TypedDict):
    """Records that did not become rows, and why."""

    reason: str
    count: int
    description: str


class Funnel(TypedDict):
    """What became of records: `records` is the sum of what was dropped and of the rows."""

    records: int
    dropped: list[DroppedRecords]
    rows: int


class TrafficDataset(TypedDict):
    """A dataset that was made of recorded requests; None while its rows wait for a review."""

    dataset: Dataset | None
    funnel: Funnel


class ShownDataset(TypedDict):
    """A dataset with what its columns hold and its first rows."""

    dataset: Dataset
    columns: list[dict[str, Any]]
    preview: list[dict[str, Any]]
    versions: list[str]


class Experiment(TypedDict):
    """Runs under one name."""

    name: str
    tags: list[str]
    notes: str
    runs: int
    states: dict[str, int]
    first_run_at: float | None
    last_run_at: float | None


class ReviewRow(TypedDict):
    """A row that waits for a review, or was decided; `content` has no personal data."""

    number: int
    id: str
    at: float
    expires_at: float
    dataset: str
    origin: Literal["feedback", "traffic", "import"]
    source: dict[str, Any]
    content: dict[str, Any]
    findings: list[dict[str, Any]]
    state: Literal["waiting", "accepted", "rejected"]
    version: int
    edited: bool
    decided_at: float | None
    decided_by: str
    reason: str
    published: str


class ReviewArrival(TypedDict):
    """What became of a row; `id` is None where a check left it out."""

    id: str | None
    findings: list[dict[str, Any]]


class PublishedRows(TypedDict):
    """A dataset's new version, and how many rows were accepted for it."""

    dataset: Dataset
    published: int


class Leaderboard(TypedDict):
    """Tables of comparable scores (`boards`), runs in none, and how to read them."""

    experiment: Experiment
    boards: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    notes: list[str]


class Comparisons(TypedDict):
    """A comparison of two runs: `contrasts` by pair of routes, then output."""

    outputs: list[dict[str, Any]]
    contrasts: list[dict[str, Any]]
    joined_by: str
    warnings: list[str]
    method: str


class Estimate(TypedDict):
    """What a run would take; None where it is not known."""

    samples: int
    cells: int
    cached: int
    calls: int
    targets: list[dict[str, Any]]
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    baseline: str | None
    detectable: list[dict[str, Any]]
    notes: list[str]


class Key(TypedDict):
    """A client's key, without the key itself; None for no limit, times as in `Run`."""

    id: str
    name: str
    role: Role
    routes: list[str] | None
    rpm: int | None
    tpm: int | None
    parallel: int | None
    budget_usd: float | None
    budget_period: Literal["day", "week", "month", "total"]
    expires_at: float | None
    created_at: float
    revoked_at: float | None


class KeyAccess(TypedDict):
    """A key's role, and what it may request: `own` where that is only what is its own."""

    id: str
    name: str
    role: Role
    required: bool
    operations: dict[str, Literal["own", "all"]]


class ListedKey(TypedDict):
    """A key, whether it can be used, and what it spent in its budget period."""

    key: Key
    state: Literal["active", "expired", "revoked"]
    spent: dict[str, Any]
    used_at: float | None


class KeyVersion(TypedDict):
    """A change of a key: the value of each changed field before and after."""

    number: int
    at: float
    actor: str
    changes: dict[str, tuple[Any, Any]]


class ShownKey(ListedKey):
    """A key with its latest changes, the newest first."""

    versions: list[KeyVersion]


class ChangedKey(TypedDict):
    """A key as it has become, and the routes of it that do not exist yet."""

    key: Key
    warnings: list[str]


class CreatedKey(TypedDict):
    """A new key; `secret` is shown this once."""

    secret: str
    key: Key
    warnings: list[str]


class LogLine(TypedDict):
    """A line of a run's log; `times` is how often it happened about that time."""

    number: int
    at: float
    kind: Literal["state", "retry", "error", "output"]
    source: str
    text: str
    times: int


class DatasetLine(TypedDict):
    """A row of a dataset: its number, from 1, and its columns."""

    number: int
    fields: dict[str, Any]


class RouteView(TypedDict):
    """A route: `source` is `config`, or `override` where it was set at run time.

    A change that is sent with `version` is refused where the route has another by now.
    """

    name: str
    source: Literal["config", "override"]
    route: dict[str, Any] | None
    override_error: str
    version: str


class RouteVersion(TypedDict):
    """What a route was from `at` on: the config file's, or one set at run time."""

    number: int
    at: float
    source: Literal["config", "override"]
    route: dict[str, Any] | None
    actor: str
    reason: str


class TargetRow(TypedDict):
    """A target of routes; `price` is in US dollars per million tokens, None where unknown."""

    target: str
    routes: list[str]
    fallback_of: list[str]
    breaker: Literal["closed", "open", "half_open"] | None
    running: int
    waiting: int
    first_byte_s: float | None
    price: dict[str, Any] | None
    is_free: bool
    per_hour: float | None


class ShadowView(TypedDict):
    """A shadow of a route. `report` and `judges` are there where one shadow was requested."""

    route: str
    state: Literal["running", "paused", "blocked"]
    reason: str
    changed_by: str
    changed_at: float | None
    blocked: str
    run: str
    shadow: dict[str, Any] | None
    spent_today_usd: float
    funnel: dict[str, Any]
    report: NotRequired[Report | None]
    judges: NotRequired[list[dict[str, Any]]]


class TargetVersions(TypedDict):
    """What a target claimed to be: `versions` have `model`, `system_fingerprint`, `share`, ..."""

    target: str
    requests: int
    versions: list[dict[str, Any]]


class RetiringModel(TypedDict):
    """A model that will be shut down. `migrations` have commands and documents, all ready."""

    target: str
    date: str
    days_left: float
    source: str
    replacement: str
    routes: list[str]
    watches: list[str]
    last_at: float | None
    migrations: list[dict[str, Any]]
    notes: list[str]


class WatchProbe(TypedDict):
    """One probe of a watch, or one period of a live signal."""

    number: int
    watch: str
    reference: int
    signal: str
    kind: Literal["anchor", "held_out", "probe", "missing"]
    at: float
    distance: float | None
    p_value: float | None
    e_value: float | None
    value: float | None
    requests: int
    answered: int
    cost_usd: float
    model: str
    system_fingerprint: str
    why: str
    detail: dict[str, Any]


class WatchView(TypedDict):
    """A watch. The last three are there where one watch was requested."""

    name: str
    watch: dict[str, Any]
    target: str
    state: Literal["learning", "quiet", "drift", "no_data"]
    why: str
    threshold: float
    reference: dict[str, Any] | None
    signals: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    unstable: bool
    next_at: float | None
    spent_today_usd: float
    references: NotRequired[list[dict[str, Any]]]
    probes: NotRequired[list[WatchProbe]]
    versions: NotRequired[list[dict[str, Any]]]


class LearnedModel(TypedDict):
    """A model of a learned route: what it was made of, and its held-out test in `report`."""

    id: str
    route: str
    state: Literal["learning", "ready", "failed"]
    created_at: float
    created_by: str
    error: str
    settings: dict[str, Any]
    made_of: dict[str, Any]
    report: dict[str, Any]
    dimensions: int
    rows: int
    forgotten: int
    artifact: str
    hash: str
    size: int


class LearnedReport(TypedDict):
    """A learned route: whether it chooses, why, its held-out test and what it did lately."""

    route: str
    state: Literal[
        "no_model", "learning", "observing", "applied", "off", "outdated", "expired", "drifted"
    ]
    explanation: str
    settings: dict[str, Any]
    model: LearnedModel | None
    learning: LearnedModel | None
    test: dict[str, Any] | None
    recent: dict[str, Any]


class Study(TypedDict):
    """A calibration of a judge, a comparison or a tournament; `detail` is empty in lists."""

    id: str
    kind: StudyKind
    judges: list[str]
    grading: str
    name: str
    state: Literal["running", "completed", "failed"]
    document: dict[str, Any]
    created_at: float
    finished_at: float | None
    error: str
    report: dict[str, Any]
    detail: dict[str, Any]


# Not a class, because one of its keys is `class`.
TrafficRow = TypedDict(
    "TrafficRow",
    {
        "number": int,
        "id": str,
        "at": float,
        "key_id": str,
        "user": str,
        "request_id": str,
        "response_id": str,
        "conversation": str,
        "stored": bool,
        "rollout": str,
        "arm": str,
        "unit": str,
        "path": str,
        "route": str,
        "target": str,
        "status": int,
        "error_code": str,
        "class": Literal["live", "eval"],
        "stream": bool,
        "cached": bool,
        "finish_reason": str,
        "prompt_tokens": int | None,
        "completion_tokens": int | None,
        "total_tokens": int | None,
        "estimated": bool,
        "cost_usd": float | None,
        "first_byte_s": float | None,
        "total_s": float,
        "model": str,
        "request_bytes": int,
        "propensity": float | None,
        "first_target": str,
        "choices": dict[str, float],
        "attempts": list[dict[str, Any]],
        "bodies": bool,
        "request": str | None,
        "response": str | None,
        "feedback": list[dict[str, Any]],
    },
)

# As above.
FeedbackRow = TypedDict(
    "FeedbackRow",
    {
        "number": int,
        "id": str,
        "at": float,
        "key_id": str,
        "user": str,
        "name": str,
        "kind": Literal["bool", "number", "text", "correction"],
        "value": bool | float | str | dict[str, Any],
        "score": float | None,
        "weight": float,
        "comment": str,
        "metadata": dict[str, Any],
        "source": Literal["evalrouter", "tensorzero", "portkey", "langfuse"],
        "subject": str,
        "record_id": str,
        "conversation": str,
        "x_request_id": str,
        "response_id": str,
        "request_key": str,
        "request_user": str,
        "route": str,
        "target": str,
        "class": Literal["live", "eval"],
        "status": int,
        "rollout": str,
        "arm": str,
        "request_at": float,
        "superseded": bool,
        "sent_along": bool,
        "messages": list[dict[str, Any]] | None,
        "answer": str | None,
    },
)


RolloutState = Literal[
    "running",
    "holding",
    "paused",
    "promoting",
    "promoted",
    "rolling_back",
    "rolled_back",
    "aborted",
]


class Rollout(TypedDict):
    """A candidate that gets a growing share of a route's requests; `weight` is its share, 0 to 1.

    Times are seconds since the epoch, UTC; None when not yet.
    """

    id: str
    route: str
    candidate: str
    state: RolloutState
    reason: str
    step: int
    weight: float
    revision: int
    settings: dict[str, Any]
    base: dict[str, Any]
    override: dict[str, Any] | None
    forecast: dict[str, Any]
    started_by: str
    created_at: float
    step_at: float
    ended_at: float | None
    pause: str
    sampled_candidate: float
    sampled_control: float
    placement: Literal["message", "checksum"]


class AssignedRequests(TypedDict):
    """How many requests a rollout has put into an arm in one of its steps, sampled or not."""

    step: int
    arm: Literal["control", "candidate"]
    requests: int


class Delivery(TypedDict):
    """A message about alerts to a receiver, and what became of it."""

    id: str
    receiver: str
    event: Literal["changes", "repeat", "refresh", "test"]
    state: Literal["waiting", "delivered", "failed", "dropped"]
    attempts: int
    created_at: float
    next_at: float | None
    ended_at: float | None
    status: int | None
    error: str


class AlertView(TypedDict):
    """An alert, its silence, and the messages about it."""

    id: str
    rule: str
    subject: str
    labels: dict[str, str]
    severity: Literal["info", "warning", "critical"]
    state: AlertState
    summary: str
    link: str
    url: str
    value: float | None
    threshold: float | None
    since: float
    held_s: float
    fired_at: float | None
    resolved_at: float | None
    unknown_since: float | None
    note: str
    silenced_until: float | None
    silence: str
    silenced_by: str
    deliveries: list[Delivery]


class AlertReport(TypedDict):
    """An alert, and the other times when it was there, newest first."""

    alert: AlertView
    history: list[AlertView]


class RolloutDecision(TypedDict):
    """One decision about a rollout: what was seen, by which rule, and what changed."""

    rollout: str
    revision: int
    at: float
    rule: str
    signal: str
    seen: dict[str, Any]
    e_value: float | None
    low: float | None
    high: float | None
    from_state: str
    to_state: str
    from_weight: float
    to_weight: float
    route_version: str
    actor: str
    reason: str


class ArmTotals(TypedDict):
    """What the requests of one arm came to; means are None without any."""

    requests: int
    units: int
    failures: int
    first_byte_s: float | None
    total_s: float | None
    cost_usd: float | None


class EvidenceBundle(TypedDict):
    """A file from which others recompute the numbers of a run or a rollout.

    `stored` says whether the server has it, so that it can be downloaded; a command's file is where
    `location` says. `manifest` is the same for the same evidence. `signed_by` is "" without a
    signature.
    """

    id: str
    kind: Literal["run", "rollout"]
    subject: str
    name: str
    bodies: Literal["keep", "masked", "hashes"]
    changed_rows: int
    size: int
    sha256: str
    manifest: str
    signed_by: str
    location: str
    stored: bool
    key_id: str
    created_at: float
    created_by: str


class RolloutReport(TypedDict):
    """A rollout with what was seen of it, and every decision."""

    rollout: Rollout
    signals: list[dict[str, Any]]
    imbalance: float | None
    e_value_limit: float
    totals: dict[Literal["control", "candidate"], ArmTotals]
    per_protocol: dict[Literal["control", "candidate"], ArmTotals]
    assigned: list[AssignedRequests]
    uncounted: bool
    decisions: list[RolloutDecision]


class ScheduleDecision(TypedDict):
    """A decision about a schedule: it was paused or resumed, or a run was accepted."""

    name: str
    at: float
    action: Literal["pause", "resume", "accept"]
    run_id: str
    actor: str
    reason: str


class ScheduledRun(TypedDict):
    """A time at which a schedule was due; `result` has its run's scores, gates and cost.

    Times are seconds since the epoch, UTC; None when not yet.
    """

    schedule: str
    due: float
    cause: Literal["due", "catch_up", "person"]
    state: Literal["running", "completed", "failed", "missed", "skipped"]
    started_at: float | None
    finished_at: float | None
    run_id: str
    reason: str
    result: dict[str, Any] | None


class Schedule(TypedDict):
    """A schedule as it stands."""

    name: str
    document: str
    cron: str
    timezone: str
    gates: list[str]
    accept: Literal["first", "passed"]
    enabled: bool
    catch_up: bool
    keep: int | None
    next_due: float | None
    paused: ScheduleDecision | None
    accepted: ScheduleDecision | None
    running: ScheduledRun | None
    last: ScheduledRun | None


class ScheduleReport(TypedDict):
    """A schedule with its history."""

    schedule: Schedule
    document: dict[str, Any] | None
    error: str
    history: list[ScheduledRun]
    decisions: list[ScheduleDecision]


class WhatIf(TypedDict):
    """What a policy would have brought: `measures` has an estimate for each respect."""

    route: str
    value: str
    since: float | None
    until: float
    records: int
    requests: int
    sampled: float
    excluded: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    measures: list[dict[str, Any]]
    refused: str
    warnings: list[str]


class Frontier(TypedDict):
    """The targets of a route by quality, cost and time, those on the frontier first."""

    route: str
    quality: str
    higher_is_better: bool
    source: str
    run: str
    since: float | None
    targets: list[dict[str, Any]]
    warnings: list[str]
