"""Tools about runs: estimate, start, follow, compare, read their samples."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from providers import yaml_documents
from providers.errors import RunDocumentError
from providers.off_loop import off_loop
from providers.wire import UNREADABLE
from router.client.types import Outcome, Progress, Run, RunState, SampleRow
from router.mcp.answers import (
    AnswerLine,
    ComparisonReply,
    DetectableLine,
    DifferenceLine,
    ErrorLine,
    EstimateLine,
    EstimateReply,
    GateLine,
    ProgressReply,
    ResultLine,
    RunLine,
    RunReply,
    RunsReply,
    SampleLine,
    SamplesReply,
    ScoreLine,
)
from router.mcp.fencing import Fence
from router.mcp.tool import (
    MAX_ANSWER,
    NOTE,
    SHORT_TEXT,
    Arguments,
    MaxChars,
    Tool,
    ToolCall,
    counted,
    fitting,
    moment,
    rest,
)

# Samples that one call looks at for those that match.
_LOOKED_AT = 500
_AT_ONCE = 50
# Of one sample.
_MAX_ANSWERS = 20
_MAX_REFERENCES = 3
_MAX_ROUTES = 20
_MAX_NOTES = 10
_SHORTEST_TEXT = 50
# Most clients give up after a minute.
_USUAL_WAIT_S, _LONGEST_WAIT_S = 25.0, 300.0
_ENDED = frozenset({"completed", "failed", "cancelled", "paused"})

_DOCUMENT = (
    "The run document, as an object or as YAML: `dataset` (a registered one, or a path or address "
    "that the server may read), `routes`, `metrics`, and where needed `messages` (a list of "
    "`{role, content}` with {{ column }} in them), `parameters`, `baseline` (a route), `gates`, "
    "`limit` (samples), `limits: {cost_usd: ...}`."
)
RunId = Annotated[str, msgspec.Meta(description="The run's id, as of `list_runs`.")]


class DocumentArguments(Arguments, frozen=True, kw_only=True):
    """What to run."""

    document: Annotated[dict[str, Any] | str, msgspec.Meta(description=_DOCUMENT)]


async def _read(document: dict[str, Any] | str) -> Mapping[str, Any]:
    if not isinstance(document, str):
        return document
    try:
        read = await off_loop(len(document), yaml_documents.decode, document)
    except UNREADABLE as error:
        raise RunDocumentError(f"document: not YAML: {error}") from None
    if not isinstance(read, Mapping):
        kind = yaml_documents.kind_of(read)
        raise RunDocumentError(f"document: it must be an object (got {kind})")
    return read


async def estimate_run(call: ToolCall, arguments: DocumentArguments) -> EstimateReply:
    """Check a document, and say what its run would take."""
    estimate = await call.client.runs.estimate(await _read(arguments.document))
    cost = estimate["cost_usd"]
    price = "an unknown cost" if cost is None else f"{cost:.4g} US dollars"
    return EstimateReply(
        summary=f"The document is valid: {counted(estimate['calls'], 'call')}, {price}. "
        "start_run starts it.",
        samples=estimate["samples"],
        calls=estimate["calls"],
        cached=estimate["cached"],
        prompt_tokens=estimate["prompt_tokens"],
        completion_tokens=estimate["completion_tokens"],
        cost_usd=cost,
        seconds=estimate["seconds"],
        targets=[
            EstimateLine(
                route=row["route"],
                target=row["target"],
                calls=row["calls"],
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                cost_usd=row["cost_usd"],
                seconds=row["seconds"],
            )
            for row in estimate["targets"][:_MAX_ROUTES]
        ],
        detectable=list(
            fitting(
                DetectableLine(output=row["output"], difference=row["difference"])
                for row in estimate["detectable"]
            )
        ),
        notes=_notes(call.fence, estimate["notes"]),
    )


def _notes(fence: Fence, notes: Iterable[str]) -> list[str]:
    """Return notes and warnings, which may quote datasets."""
    return [fence.text(note, NOTE) for note in list(notes)[:_MAX_NOTES]]


async def start_run(call: ToolCall, arguments: DocumentArguments) -> ProgressReply:
    """Begin a run."""
    run = await call.client.runs.create(await _read(arguments.document))
    return ProgressReply(
        summary=f"Run {run['id']} has begun. follow_run waits for its end.",
        run=run["id"],
        state=run["state"],
        ended=False,
        cells=run["cells"],
        answered=0,
        failed=0,
        scored=0,
        error="",
    )


class FollowRun(Arguments, frozen=True, kw_only=True):
    """Which run, and for how long."""

    run: RunId
    wait_s: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=_LONGEST_WAIT_S,
            description="Seconds to wait at most. Many clients give a call up after 60.",
        ),
    ] = _USUAL_WAIT_S


async def follow_run(call: ToolCall, arguments: FollowRun) -> ProgressReply:
    """Wait until a run stops, or for so long."""
    last: Progress | None = None
    try:
        # The first event comes at once; a wait of 0 still has to let it.
        async for news in call.client.runs.events(
            arguments.run, timeout=max(arguments.wait_s, 1.0)
        ):
            last = news
            done = news["answered"] + news["failed"]
            line = f"{news['state']}: {done} of {news['cells']} requests"
            await call.progress(done, news["cells"], line)
            if not arguments.wait_s:
                break
    except TimeoutError:
        pass
    run = (await call.client.runs.report(arguments.run))["run"]
    ended = run["state"] in _ENDED
    progress: Mapping[str, Any] = last or {}
    counts = {name: progress.get(name, 0) for name in ("answered", "failed", "scored")}
    done = counts["answered"] + counts["failed"]
    then = {
        "completed": "show_run shows its scores",
        "failed": "`error` says why; show_run shows what it has",
        "cancelled": "it was cancelled; show_run shows what it has",
        "paused": "it was paused and can be resumed; show_run shows what it has",
    }.get(run["state"], "call again to go on waiting")
    return ProgressReply(
        summary=f"{run['id']} is {run['state']}, {done} of {run['cells']} requests are done; "
        f"{then}.",
        run=run["id"],
        state=run["state"],
        ended=ended,
        cells=run["cells"],
        error=call.fence.text(run["error"], NOTE),
        **counts,
    )


class ListRuns(Arguments, frozen=True, kw_only=True):
    """Which runs."""

    state: RunState | None = None
    experiment: str | None = None
    tag: str | None = None
    dataset: Annotated[
        str | None, msgspec.Meta(description="`name@hash`, or `name` for its newest version.")
    ] = None
    before: Annotated[str | None, msgspec.Meta(description="The `next` of the page before.")] = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


async def list_runs(call: ToolCall, arguments: ListRuns) -> RunsReply:
    """Return runs, newest first."""
    rows = await call.client.runs.list(
        state=arguments.state,
        experiment=arguments.experiment,
        tag=arguments.tag,
        dataset=arguments.dataset,
        before=arguments.before,
        limit=arguments.limit + 1,
    )
    page = list(fitting(_line(call.fence, row) for row in rows[: arguments.limit]))
    more = page[-1].id if len(page) < len(rows) else None
    return RunsReply(
        summary=f"{counted(len(page), 'run')}{rest(more, 'before')}", runs=page, next=more
    )


def _line(fence: Fence, run: Run) -> RunLine:
    return RunLine(
        id=run["id"],
        name=fence.name(run["name"]),
        state=run["state"],
        dataset=fence.name(run["dataset"]),
        routes=[str(route) for route in run["document"].get("routes", ())][:_MAX_ROUTES],
        cells=run["cells"],
        created=moment(run["created_at"]),
        error=fence.text(run["error"], NOTE),
    )


class ShowRun(Arguments, frozen=True, kw_only=True):
    """Which run, and what of it."""

    run: RunId
    route: Annotated[str | None, msgspec.Meta(description="Only this route's numbers.")] = None
    output: Annotated[
        str | None, msgspec.Meta(description="Only this output's numbers, such as `rougeL`.")
    ] = None


async def show_run(call: ToolCall, arguments: ShowRun) -> RunReply:
    """Return a run with its report."""
    outcome = await call.client.runs.report(arguments.run)
    run, report = outcome["run"], outcome["report"]
    selected = [route for route in report["routes"] if arguments.route in {None, route["route"]}]
    results = [_result(call.fence, route, arguments.output) for route in selected]
    routes = list(fitting(results[:_MAX_ROUTES], MAX_ANSWER // 2))
    comparisons = [
        _difference(row, row["route"], report["baseline"] or "")
        for row in report["comparisons"]
        if arguments.route in {None, row["route"]} and arguments.output in {None, row["output"]}
    ]
    differences = list(fitting(comparisons, MAX_ANSWER // 4)) if comparisons else []
    left_out = len(results) - len(routes) + len(comparisons) - len(differences)
    more = " `route` and `output` select what there was no room for." if left_out else ""
    gates = _gates(outcome)
    failed = sum(not gate.passed for gate in gates)
    passed = f" {failed} of {counted(len(gates), 'gate')} failed." if gates else ""
    return RunReply(
        summary=f"{run['id']} is {run['state']}.{passed}{more}",
        run=_line(call.fence, run),
        baseline=report["baseline"],
        routes=routes,
        differences=differences,
        gates=gates,
        warnings=_notes(call.fence, report["warnings"]),
        left_out=left_out,
    )


def _difference(row: Mapping[str, Any], a: str, b: str) -> DifferenceLine:
    """Return the line of a comparison, of which `a` and `b` name the sides."""
    return DifferenceLine(
        output=row["output"],
        a=a,
        b=b,
        n=row["n"],
        difference=row["difference"],
        low=row["low"],
        high=row["high"],
        p_holm=row["p_holm"],
        verdict=row["verdict"],
        wins=row["wins"],
        ties=row["ties"],
        losses=row["losses"],
    )


def _result(fence: Fence, route: Mapping[str, Any], output: str | None) -> ResultLine:
    scores = [
        ScoreLine(
            output=score["output"],
            estimate=score["estimate"],
            low=score["low"],
            high=score["high"],
            scored=score["scored"],
            expected=score["expected"],
        )
        for score in route["scores"]
        if output in {None, score["output"]}
    ]
    return ResultLine(
        route=route["route"],
        expected=route["expected"],
        answered=route["answered"],
        failed=route["failed"],
        cost_usd=route["cost"]["total_usd"],
        p50_s=route["times"]["p50_s"],
        p95_s=route["times"]["p95_s"],
        scores=list(fitting(scores, MAX_ANSWER // 4)) if scores else [],
        errors=[
            ErrorLine(
                code=fence.name(error["code"]),
                count=error["count"],
                example=fence.text(error["example"], NOTE),
            )
            for error in route["errors"][:3]
        ],
    )


def _gates(outcome: Outcome) -> list[GateLine]:
    return [
        GateLine(
            gate=gate["gate"], route=gate["route"], passed=gate["passed"], why=gate["why"][:NOTE]
        )
        for gate in outcome["gates"][:50]
    ]


class CancelRun(Arguments, frozen=True, kw_only=True):
    """Which run."""

    run: RunId


async def cancel_run(call: ToolCall, arguments: CancelRun) -> ProgressReply:
    """Stop a run at once."""
    run = await call.client.runs.cancel(arguments.run)
    return ProgressReply(
        summary=f"{run['id']} is {run['state']}; what was answered stays. show_run shows it.",
        run=run["id"],
        state=run["state"],
        ended=run["state"] in _ENDED,
        cells=run["cells"],
        answered=0,
        failed=0,
        scored=0,
        error=call.fence.text(run["error"], NOTE),
    )


class CompareRuns(Arguments, frozen=True, kw_only=True):
    """Which runs, or which routes of one."""

    run_a: Annotated[str, msgspec.Meta(description="A run's id.")]
    run_b: Annotated[
        str | None, msgspec.Meta(description="Another run's id; none to compare routes of run_a.")
    ] = None
    route_a: Annotated[str | None, msgspec.Meta(description="A route of run_a.")] = None
    route_b: Annotated[
        str | None, msgspec.Meta(description="A route of run_b, or else of run_a.")
    ] = None
    output: Annotated[str | None, msgspec.Meta(description="Only this output.")] = None
    join: Annotated[
        Literal["position", "id", "content"] | None,
        msgspec.Meta(description="How to pair samples of different datasets."),
    ] = None


async def compare_runs(call: ToolCall, arguments: CompareRuns) -> ComparisonReply:
    """Compare two runs, or two routes of one, sample by sample."""
    runs = [run for run in (arguments.run_a, arguments.run_b) if run]
    comparisons = await call.client.compare(
        *runs,
        route_a=arguments.route_a,
        route_b=arguments.route_b,
        join=arguments.join,
        movers=0,
    )
    rows = [
        _difference(
            row, f"{row['a']['run']} {row['a']['route']}", f"{row['b']['run']} {row['b']['route']}"
        )
        for row in comparisons["contrasts"]
        if arguments.output in {None, row["output"]}
    ]
    shown = list(fitting(rows)) if rows else []
    left_out = len(rows) - len(shown)
    more = " `output`, `route_a` and `route_b` select what there was no room for."
    return ComparisonReply(
        summary=f"{counted(len(shown), 'difference')} a - b; a `verdict` says what is shown by "
        f"them.{more if left_out else ''}",
        differences=shown,
        joined_by=comparisons["joined_by"],
        warnings=_notes(call.fence, comparisons["warnings"]),
        left_out=left_out,
    )


class SampleArguments(Arguments, frozen=True, kw_only=True):
    """Which samples."""

    run: RunId
    route: Annotated[str | None, msgspec.Meta(description="Only this route's answers.")] = None
    only: Annotated[
        Literal["all", "failed", "unscored"],
        msgspec.Meta(
            description="`failed`: answers that are errors; `unscored`: those without a score, of "
            "`output` where that is given."
        ),
    ] = "all"
    output: Annotated[
        str | None, msgspec.Meta(description="The output that at_least and at_most are about.")
    ] = None
    at_least: Annotated[
        float | None, msgspec.Meta(description="Only answers with no lower score.")
    ] = None
    at_most: Annotated[
        float | None, msgspec.Meta(description="Only answers with no higher score.")
    ] = None
    contains: Annotated[
        str, msgspec.Meta(description="Only answers whose text or error has this in it.")
    ] = ""
    after: Annotated[int, msgspec.Meta(ge=0, description="The `next` of the page before.")] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 5
    max_chars: MaxChars = SHORT_TEXT


async def read_samples(call: ToolCall, arguments: SampleArguments) -> SamplesReply:
    """Return samples of a run with their answers."""
    if arguments.output is None and (arguments.at_least, arguments.at_most) != (None, None):
        raise RunDocumentError("at_least and at_most need `output`, the score that they bound.")
    samples: list[SampleLine] = []
    room, end, more = MAX_ANSWER, arguments.after, None
    rows = call.client.runs.samples(
        arguments.run, route=arguments.route, after=arguments.after, page=_AT_ONCE
    )
    async for position, cells in _by_sample(rows):
        if position >= arguments.after + _LOOKED_AT or len(samples) == arguments.limit:
            more = position
            break
        end = position + 1
        matching = [cell for cell in cells if _matches(cell, arguments)]
        if not matching:
            continue
        sample, size = _fitted(call.fence, matching, arguments.max_chars)
        room -= size
        if room < 0 and samples:
            more = position
            break
        samples.append(sample)
    looked_at = (end if more is None else more) - arguments.after
    return SamplesReply(
        summary=f"{counted(len(samples), 'sample')} of {looked_at} looked at{rest(more, 'after')}",
        run=arguments.run,
        looked_at=looked_at,
        samples=samples,
        next=more,
    )


async def _by_sample(rows: AsyncIterable[SampleRow]) -> AsyncIterator[tuple[int, list[SampleRow]]]:
    """Yield the cells of each sample, with its position."""
    cells: list[SampleRow] = []
    async for row in rows:
        if cells and row["position"] != cells[0]["position"]:
            yield cells[0]["position"], cells
            cells = []
        cells.append(row)
    if cells:
        yield cells[0]["position"], cells


def _matches(cell: SampleRow, selection: SampleArguments) -> bool:
    answer: Mapping[str, Any] = cell["answer"] or {}
    if selection.only == "failed" and answer.get("error") is None:
        return False
    values = {score["output"]: score["value"] for score in cell["scores"]}
    value = None if selection.output is None else values.get(selection.output)
    if selection.only == "unscored":
        missing = (
            None in values.values() or not values if selection.output is None else value is None
        )
        if not missing:
            return False
    if selection.at_least is not None and (value is None or value < selection.at_least):
        return False
    if selection.at_most is not None and (value is None or value > selection.at_most):
        return False
    text = f"{answer.get('text') or ''}\n{answer.get('error') or ''}"
    return selection.contains.lower() in text.lower()


def _fitted(fence: Fence, cells: list[SampleRow], max_chars: int) -> tuple[SampleLine, int]:
    """Return a sample and the length of its JSON, with texts short enough for one answer."""
    while True:
        sample = _sample(fence, cells, max_chars)
        size = len(msgspec.json.encode(sample))
        if size <= MAX_ANSWER or max_chars < _SHORTEST_TEXT:
            return sample, size
        max_chars //= 2


def _sample(fence: Fence, cells: list[SampleRow], max_chars: int) -> SampleLine:
    sample = cells[0]["sample"]
    return SampleLine(
        id=fence.name(sample["id"]),
        position=cells[0]["position"],
        messages=fence.value(sample["messages"], max_chars),
        references=[fence.text(text, max_chars) for text in sample["references"][:_MAX_REFERENCES]],
        answers=[_answer(fence, cell, max_chars) for cell in cells[:_MAX_ANSWERS]],
    )


def _answer(fence: Fence, cell: SampleRow, max_chars: int) -> AnswerLine:
    answer: Mapping[str, Any] = cell["answer"] or {}
    code = answer.get("error_code")
    return AnswerLine(
        route=cell["route"],
        repeat=cell["repeat"],
        target=answer.get("target", ""),
        text=fence.optional(answer.get("text"), max_chars),
        error=fence.optional(answer.get("error"), max_chars),
        error_code=None if code is None else fence.name(str(code)),
        scores={score["output"]: score["value"] for score in cell["scores"]},
        cost_usd=answer.get("cost_usd"),
        total_s=answer.get("total_s"),
    )


TOOLS = (
    Tool(
        "estimate_run",
        "Check and estimate a run",
        "Check a run document, and estimate the calls, tokens, US dollars and seconds that its run "
        "would take, and the smallest differences that it would show. Nothing is stored or sent.",
        ("POST /eval",),
        DocumentArguments,
        EstimateReply,
        estimate_run,
    ),
    Tool(
        "start_run",
        "Start a run",
        "Start an evaluation: every sample of a dataset is sent to every route, which may cost "
        "money, and the answers are scored. Estimate it first. follow_run waits for its end.",
        ("POST /eval",),
        DocumentArguments,
        ProgressReply,
        start_run,
        reads=False,
        repeatable=False,
        leaves=True,
    ),
    Tool(
        "list_runs",
        "List runs",
        "List evaluations, newest first.",
        ("GET /eval",),
        ListRuns,
        RunsReply,
        list_runs,
    ),
    Tool(
        "follow_run",
        "Follow a run",
        "Wait until a run stops, for at most `wait_s` seconds, with notifications of its progress. "
        "Call it again as long as `ended` is false.",
        ("GET /eval/{run_id}", "GET /eval/{run_id}/events"),
        FollowRun,
        ProgressReply,
        follow_run,
    ),
    Tool(
        "show_run",
        "Show a run's report",
        "Show a run's scores with 95% intervals, the differences between its routes and the "
        "baseline, its gates, costs and errors, as far as it has got.",
        ("GET /eval/{run_id}",),
        ShowRun,
        RunReply,
        show_run,
    ),
    Tool(
        "compare_runs",
        "Compare runs or routes",
        "Compare two runs, or two routes of one run, sample by sample: the differences a - b with "
        "95% intervals and what they show.",
        ("GET /eval/compare",),
        CompareRuns,
        ComparisonReply,
        compare_runs,
    ),
    Tool(
        "read_samples",
        "Read a run's samples",
        "Read samples of a run with the routes' answers and scores, page by page; filters select "
        "failures, low scores or words.",
        ("GET /eval/{run_id}/samples",),
        SampleArguments,
        SamplesReply,
        read_samples,
    ),
    Tool(
        "cancel_run",
        "Cancel a run",
        "Stop a run at once. What was answered stays; requests in flight are lost.",
        ("POST /eval/{run_id}/cancel",),
        CancelRun,
        ProgressReply,
        cancel_run,
        reads=False,
        destroys=True,
    ),
)
