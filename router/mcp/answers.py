"""What the tools answer: the structures whose JSON Schemas clients get with the tools.

Each has a `notice` where it has text of others, which is between the marks of `fencing.py`.
"""

from __future__ import annotations

import msgspec


class ToolReply(msgspec.Struct, kw_only=True):
    """What every answer has.

    Attributes:
        summary: the answer in a line.
        notice: what the marks around text of others mean; "" where there is none.
    """

    summary: str
    notice: str = ""


class PageReply(ToolReply, kw_only=True):
    """What the answers have that are pages.

    Attributes:
        next: what to pass for the next page, as the tool says; None at the end.
    """

    next: str | int | None = None


class TargetLine(msgspec.Struct, kw_only=True):
    """A target of a route. Prices are US dollars per million tokens; None where unknown."""

    target: str
    weight: float | None
    breaker: str | None
    first_byte_s: float | None
    input_usd: float | None
    output_usd: float | None


class RouteLine(msgspec.Struct, kw_only=True):
    """A route: `model` in requests. `error` says why it cannot be used; fallbacks have no weight.

    Attributes:
        name: the route's.
        strategy: how a target is chosen.
        record: what is stored of its requests.
        targets: its targets, then its fallbacks.
        error: why a route that was set at run time is left out; "" otherwise.
    """

    name: str
    strategy: str
    record: str
    targets: list[TargetLine]
    error: str


class RoutesReply(PageReply, kw_only=True):
    """Routes by name; `next` is the next page's `after`."""

    routes: list[RouteLine]


class ModelsReply(PageReply, kw_only=True):
    """Names that `model` may have; `next` is the next page's `after`."""

    models: list[str]


class MetricLine(msgspec.Struct, kw_only=True):
    """A metric that documents may name, with its options and the scores that it gives."""

    name: str
    description: str
    options: list[str]
    required: list[str]
    outputs: list[str]
    error: str


class MetricsReply(ToolReply, kw_only=True):
    """The metrics that a run document may name."""

    metrics: list[MetricLine]


class VersionLine(msgspec.Struct, kw_only=True):
    """A version of a dataset; `name` is `name@hash`, `columns` a list as JSON."""

    name: str
    rows: int
    columns: str
    created: str


class DatasetsReply(PageReply, kw_only=True):
    """Versions of datasets, newest first; `next` is the next page's `after`."""

    datasets: list[VersionLine]


class RowLine(msgspec.Struct, kw_only=True):
    """A row: its number, from 1, and its columns as JSON."""

    number: int
    fields: str


class DatasetRowsReply(PageReply, kw_only=True):
    """Rows of a dataset; `next` is the next page's `after`."""

    dataset: str
    rows: list[RowLine]


class EstimateLine(msgspec.Struct, kw_only=True):
    """What one target would get of a run; None where it is not known."""

    route: str
    target: str
    calls: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None


class DetectableLine(msgspec.Struct, kw_only=True):
    """The smallest difference of an output that the run would show; None where unknown."""

    output: str
    difference: float | None


class EstimateReply(ToolReply, kw_only=True):
    """What a run would take; None where it is not known."""

    samples: int
    calls: int
    cached: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    targets: list[EstimateLine]
    detectable: list[DetectableLine]
    notes: list[str]


class RunLine(msgspec.Struct, kw_only=True):
    """A run in a list."""

    id: str
    name: str
    state: str
    dataset: str
    routes: list[str]
    cells: int
    created: str
    error: str


class RunsReply(PageReply, kw_only=True):
    """Runs, newest first; `next` is the next page's `before`."""

    runs: list[RunLine]


class ScoreLine(msgspec.Struct, kw_only=True):
    """A score of a route with its 95% interval; `scored` of `expected` answers have one."""

    output: str
    estimate: float | None
    low: float | None
    high: float | None
    scored: int
    expected: int


class ErrorLine(msgspec.Struct, kw_only=True):
    """Why answers failed: the code, how many did, and what one of them said."""

    code: str
    count: int
    example: str


class ResultLine(msgspec.Struct, kw_only=True):
    """What a run has of one route."""

    route: str
    expected: int
    answered: int
    failed: int
    cost_usd: float | None
    p50_s: float | None
    p95_s: float | None
    scores: list[ScoreLine]
    errors: list[ErrorLine]


class DifferenceLine(msgspec.Struct, kw_only=True):
    """A route's score minus another's, over the samples that both have, with its 95% interval."""

    output: str
    a: str
    b: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    verdict: str | None
    wins: int | None
    ties: int | None
    losses: int | None


class GateLine(msgspec.Struct, kw_only=True):
    """A gate for one route: whether it passed, and why it failed."""

    gate: str
    route: str
    passed: bool
    why: str


class RunReply(ToolReply, kw_only=True):
    """A run, and its report as far as it has got.

    Attributes:
        left_out: how many scores and differences there was no room for.
    """

    run: RunLine
    baseline: str | None
    routes: list[ResultLine]
    differences: list[DifferenceLine]
    gates: list[GateLine]
    warnings: list[str]
    left_out: int = 0


class ProgressReply(ToolReply, kw_only=True):
    """How far a run is; `ended` says that it stopped, and `report_with` has the tool that shows it.

    Attributes:
        run: the run's id.
        state: its state.
        ended: whether it has stopped: completed, failed, cancelled or paused.
        cells: the requests in all.
        answered, failed, scored: how many of them are.
        error: why it failed.
    """

    run: str
    state: str
    ended: bool
    cells: int
    answered: int
    failed: int
    scored: int
    error: str


class ComparisonReply(ToolReply, kw_only=True):
    """The differences between two runs, or two routes of one.

    Attributes:
        joined_by: how the samples were paired.
        left_out: how many differences there was no room for.
    """

    differences: list[DifferenceLine]
    joined_by: str
    warnings: list[str]
    left_out: int


class AnswerLine(msgspec.Struct, kw_only=True):
    """A route's answer to a sample, or its error; scores are None where there is none."""

    route: str
    repeat: int
    target: str
    text: str | None
    error: str | None
    error_code: str | None
    scores: dict[str, float | None]
    cost_usd: float | None
    total_s: float | None


class SampleLine(msgspec.Struct, kw_only=True):
    """A sample with its answers: what was sent, and what should have been answered."""

    id: str
    position: int
    messages: str
    references: list[str]
    answers: list[AnswerLine]


class SamplesReply(PageReply, kw_only=True):
    """Samples of a run; `next` is the next page's `after`.

    Attributes:
        looked_at: how many samples were looked at for them.
    """

    run: str
    looked_at: int
    samples: list[SampleLine]


class RequestLine(msgspec.Struct, kw_only=True):
    """A recorded request in a list."""

    id: str
    at: str
    route: str
    target: str
    status: int
    error_code: str
    user: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    total_s: float
    has_bodies: bool


class RequestsReply(PageReply, kw_only=True):
    """Recorded requests, newest first; `next` is the next page's `before`."""

    requests: list[RequestLine]


class RequestReply(ToolReply, kw_only=True):
    """A recorded request with its bodies, where they were stored.

    Attributes:
        attempts: which targets were tried, and how that ended.
        feedback: what was said of it.
    """

    line: RequestLine
    conversation: str
    finish_reason: str
    attempts: list[str]
    request: str | None
    response: str | None
    feedback: list[str]


class ProposalLine(msgspec.Struct, kw_only=True):
    """A row that waits for a person, or was decided."""

    id: str
    dataset: str
    state: str
    messages: str
    reference: str
    findings: list[str]
    reason: str


class ProposalsReply(PageReply, kw_only=True):
    """Rows to review, oldest first; `next` is the next page's `after`."""

    proposals: list[ProposalLine]


class ArrivalLine(msgspec.Struct, kw_only=True):
    """What became of a proposed row; `id` is None where a check left it out."""

    id: str | None
    findings: list[str]


class ProposedReply(ToolReply, kw_only=True):
    """What became of the proposed rows, in their order."""

    rows: list[ArrivalLine]


class StoredReply(ToolReply, kw_only=True):
    """The dataset that was stored."""

    dataset: VersionLine
