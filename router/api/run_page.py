"""The page of one run: what was compared, what that shows, and where the rows are.

All of it can be read without JavaScript; the score that the plots are of is in the address.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import FromPath, FromQuery
from litestar.response import ServerSentEvent

from evaluators.reports.cells import ABSENT, difference, outcomes, p_value, plural
from evaluators.reports.gates import GateResult
from evaluators.reports.missing_scores import missing_scores
from evaluators.reports.report import NO_BASELINE, CostSummary, Report, RouteReport, cost_text
from evaluators.reports.scores import OutputInfo, RouteScore, decimals
from evaluators.reports.slice_table import slice_name, slice_score
from evaluators.stats.comparison import Comparison
from evaluators.stats.intervals import wilson
from evaluators.text.answers import SHORTFALLS
from providers.errors import RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.judges_page import has_judge
from router.api.live import InjectedLiveParts, LiveParts
from router.api.page_layout import duration, page, part, rendered
from router.api.run_logs import masked_lines
from router.api.run_slices import ShownSlices, slices_of, suggested_columns
from router.evals.experiments import LeaderboardEntry
from router.evals.results import Outcome
from router.evals.stored_runs import stored_document
from router.services import Services
from router.store.protocol import Store
from router.store.runs import ENDED, STOPPED, Run
from router.web.plots.distributions import histograms
from router.web.plots.figure import Plot
from router.web.plots.forest import difference_forest, score_forest
from router.web.plots.frontier import run_frontier

# Answers that the distributions are read from: without a request for them, and at most.
READ_UNREQUESTED = 2_000
MAX_READ = 20_000
# Of the log, the newest.
_LINES = 8
# Routes after the best that are named with their scores.
_RANKED = 5


class VerdictCount(NamedTuple):
    """How many comparisons of a run have a verdict.

    Attributes:
        words: the verdict.
        comparisons: how many have it.
        meaning: what it says of the routes.
    """

    words: str
    comparisons: int
    meaning: str


class ComparisonText(NamedTuple):
    """What a route's comparison with the baseline shows, in words.

    Attributes:
        route: the route.
        kind: `better`, `worse`, or "" for anything else.
        sentence: what is shown, after the route's name.
        interval: the difference with its interval, the samples and the p-value.
    """

    route: str
    kind: str
    sentence: str
    interval: str


class BestRoute(NamedTuple):
    """Which route is best in a score, in words.

    Attributes:
        best: the routes with the best estimate; several where they are equal.
        sentence: their estimate, and those of the next routes.
        cost, seconds: of the best route: what its answers cost, and their median time; "" of
            several.
        shown: what the tests show of it.
        untested: the best route, where it was not tested against all others; "" otherwise.
    """

    best: list[str]
    sentence: str
    cost: str
    seconds: str
    shown: str
    untested: str


class Distribution(NamedTuple):
    """Scores of samples by route.

    Attributes:
        values: route to the mean score of each sample's repeats; NaN where there is none.
        answers: how many answers they were read from.
        is_part: whether the run has more answers than that.
    """

    values: Mapping[str, list[float]]
    answers: int
    is_part: bool


_MEANINGS = {
    "better": "the difference is in the better direction, and larger than chance explains (p below "
    "0.05, corrected for all comparisons of the run)",
    "worse": "the difference is in the worse direction, and larger than chance explains (p below "
    "0.05, corrected for all comparisons of the run)",
    "equivalent": "the difference is shown to be smaller than the margin that the run names",
    "not shown": "no difference is shown; that does not show that there is none",
    "not tested": "the primary score of the route shows no difference, so its others are not "
    "tested",
    "no samples in common": "no sample has a score of both routes",
    "not judged": "higher is neither better nor worse",
    "too few labels": "the judge's score could not be corrected by people's labels",
    "raw": "the judge's own score; the one that people's labels correct decides",
}


class Typed(NamedTuple):
    """What was typed into a form of the page that could not be obeyed.

    Attributes:
        action: the form: `resume`, `rescore`, `extend`, ...; "" for none.
        fields: its fields.
        error: what is wrong.
    """

    action: str = ""
    fields: Mapping[str, str] = {}
    error: str = ""


NOTHING_TYPED = Typed()


@page("/runs/{run_id:str}")
async def run_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    output: FromQuery[str] = "",
    distribution: FromQuery[bool] = False,
    column: FromQuery[str] = "",
) -> Response[str]:
    """Show one run's report.

    `output` is the score that is plotted; without it, the primary one. `distribution` reads the
    scores of a run that has many. `column` is the column of the dataset that slices the score.
    """
    return await run_view(services, caller, run_id, Shown(output, distribution, column))


class Shown(NamedTuple):
    """What of a run its page shows; see `run_page`."""

    output: str = ""
    distribution: bool = False
    column: str = ""


async def run_view(
    services: Services,
    caller: Caller,
    run_id: str,
    shown: Shown,
    typed: Typed = NOTHING_TYPED,
) -> Response[str]:
    """Return the page of a run, with what was typed into one of its forms."""
    outcome = await services.runs.outcome(run_id)
    run, report = outcome.run, outcome.report
    info = _chosen(outcome, shown.output)
    spread: Distribution | None = None
    may_read = shown.distribution or run.cells <= READ_UNREQUESTED
    if info is not None and not info.corpus and may_read:
        spread = await read_distribution(services.store, run, info.name)
    sliced = ShownSlices()
    if info is not None and shown.column:
        sliced = await slices_of(services, run, shown.column, info.name)
    plots = await asyncio.to_thread(_plots, report, info, spread)
    compared = [] if info is None else _compared(report, info.name)
    address = {key: value for key, value in shown._asdict().items() if value}
    return await rendered(
        "run.html",
        caller,
        title=run.name,
        current="/runs",
        **await progress_values(services, caller, run),
        is_live=False,
        may_start=caller.reach_of("POST /eval") != "no",
        typed=typed,
        address=f"/runs/{run.id}?{urlencode(address)}",
        report=report,
        warnings=[warning for warning in report.warnings if info is None or warning != NO_BASELINE],
        chosen=info,
        answered=sum(route.answered for route in report.routes),
        expected=sum(route.expected for route in report.routes),
        without_scores=_without_scores(outcome),
        repeats=run.document.get("repeats", 1),
        cost=_cost(report.routes),
        verdicts=_verdict_counts(report),
        ranking=None if info is None else _ranking(info, report),
        findings=[] if info is None else [_finding(info, each, report) for each in compared],
        plots=plots,
        spread=spread,
        max_read=MAX_READ,
        column=shown.column,
        columns=[] if info is None else await suggested_columns(services.store, run),
        sliced=sliced,
        slice_name=slice_name,
        slice_score=slice_score,
        has_cost=any(route.cost.total_usd for route in report.routes),
        has_parquet=find_spec("pyarrow") is not None,
        may_label=has_judge(run) and caller.reach_of("GET /runs/{run_id}/labels") != "no",
        may_compare=caller.reach_of("GET /compare") != "no",
        comparisons={(each.route, each.output): each for each in report.comparisons},
        infos={each.name: each for each in report.outputs},
        gates=[(gate, _gate_value(gate, report)) for gate in outcome.gates],
        failures=list(_failures(report.routes)),
        judges=outcome.judges,
        embeddings=outcome.embeddings,
        hardware=outcome.hardware,
        between_repeats=_between_repeats(report.routes),
        score_text=score_text,
        difference=difference,
        outcomes=outcomes,
        p_value=p_value,
        verdict=verdict,
        cost_of=_cost,
    )


async def progress_values(services: Services, caller: Caller, run: Run) -> dict[str, Any]:
    """Return what the part of the page shows that is live: how far the run is, and its log."""
    progress, last = await asyncio.gather(
        services.store.progress(run.id), services.store.last_logged(run.id)
    )
    lines = await masked_lines(services, run.id, max(0, last - _LINES), _LINES)
    return {
        "run": run,
        "progress": progress,
        "lines": lines,
        "is_under_way": run.state not in STOPPED,
        "may_change": caller.reach_of("POST /eval/{run_id}/pause") != "no",
    }


@get("/pages/live/runs/{run_id:str}", include_in_schema=False)
async def run_part(
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    run_id: FromPath[str],
) -> ServerSentEvent:
    """Send how far a run is, and the end of its log, whenever that changes."""

    async def make(run: Run) -> str:
        values = await progress_values(services, caller, run)
        return await part("run_part.html", **values, is_live=True)

    return await stream_of_run(services, caller, parts, run_id, make, name="run")


async def stream_of_run(
    services: Services,
    caller: Caller,
    parts: LiveParts,
    run_id: str,
    make: Callable[[Run], Awaitable[str]],
    *,
    name: str,
) -> ServerSentEvent:
    """Return a part of a run's pages that is live: made of the run as it is each time."""
    followed = await services.runs.find(run_id)

    async def made() -> str:
        return await make(await services.runs.find(followed.id))

    return parts.stream(caller, (name, followed.id), made)


def output_named(outputs: Iterable[OutputInfo], name: str) -> OutputInfo:
    """Return the score of a run that an address names. Raises RequestError."""
    infos = {info.name: info for info in outputs}
    if name not in infos:
        known = ", ".join(infos) or "none"
        raise RequestError(f"This run has no score {name!r}; it has {known}.", param="output")
    return infos[name]


def _chosen(outcome: Outcome, name: str) -> OutputInfo | None:
    """Return the output that is plotted; None where the run has no scores."""
    if name:
        return output_named(outcome.report.outputs, name)
    infos = {info.name: info for info in outcome.report.outputs}
    deciding = stored_document(outcome.run).deciding
    headline = [each.output for each in outcome.report.comparisons if each.headline]
    for candidate in (deciding, *headline, *infos):
        if candidate in infos:
            return infos[candidate]
    return None


def _without_scores(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the metrics that failed for most answers, each with what there is to say of it.

    While a run is under way, answers may not be scored yet, so that an error has to be known.
    """
    scores = [score for route in outcome.report.routes for score in route.scores]
    judges: dict[str, list[str]] = {}
    for judge in outcome.judges:
        judges.setdefault(judge.metric, []).append(judge.judge)
    has_ended = outcome.run.state in ENDED
    return [
        (
            f"The judge {', '.join(judges[missing.metric])} of {missing.metric}"
            if missing.metric in judges
            else f"The metric {missing.metric}",
            missing.sentence,
        )
        for missing in missing_scores(outcome.report.outputs, scores)
        if has_ended or missing.example
    ]


def _compared(report: Report, output: str) -> list[Comparison]:
    return [each for each in report.comparisons if each.output == output]


def _plots(
    report: Report, info: OutputInfo | None, spread: Distribution | None
) -> dict[str, list[Plot]]:
    """Draw the plots of an output by the section that they are in."""
    if info is None:
        return {"scores": [], "frontier": [], "distribution": []}
    scores = [score_forest(report, info.name)]
    if _compared(report, info.name):
        scores.append(difference_forest(report, info.name))
    frontier = []
    if any(route.cost.total_usd for route in report.routes):
        frontier.append(run_frontier(report, info.name, "cost_usd"))
    if any(route.times.p50_s is not None for route in report.routes):
        frontier.append(run_frontier(report, info.name, "seconds"))
    spread_plots = [] if spread is None else [histograms(info.name, spread.values)]
    return {"scores": scores, "frontier": frontier, "distribution": spread_plots}


async def read_distribution(
    store: Store, run: Run, output: str, *, limit: int = MAX_READ
) -> Distribution:
    """Return the scores of a run's first `limit` cells, which the store reads a page at a time."""
    routes = [str(route) for route in run.document.get("routes") or ()]
    scores: dict[str, dict[str, list[float]]] = {route: {} for route in routes}
    answers = 0
    is_part = False
    async with aclosing(store.results(run.id)) as results:
        async for result in results:
            if answers == limit:
                is_part = True
                break
            answers += 1
            if result.answer is None or result.answer.text is None:
                continue
            of_sample = scores.setdefault(result.cell.route, {}).setdefault(
                result.cell.sample_id, []
            )
            of_sample += [
                score.value
                for score in result.scores
                if score.output == output and score.value is not None
            ]
    return Distribution(await asyncio.to_thread(_means, scores), answers, is_part)


def _means(scores: Mapping[str, Mapping[str, list[float]]]) -> dict[str, list[float]]:
    return {
        route: [sum(given) / len(given) if given else math.nan for given in by_sample.values()]
        for route, by_sample in scores.items()
    }


def score_text(info: OutputInfo, score: RouteScore | LeaderboardEntry) -> str:
    """Return a score with its interval."""
    if score.estimate is None:
        return ABSENT
    places = decimals(info, score.estimate, score.low, score.high)
    text = f"{score.estimate:,.{places}f}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:,.{places}f}, {score.high:,.{places}f}]"
    return text


def verdict(compared: Comparison) -> str:
    """Return the verdict in words; the same for all margins."""
    if not compared.headline:
        return "raw" if compared.n else "too few labels"
    if compared.n == 0:
        return "no samples in common"
    if compared.gatekept:
        return "not tested"
    if compared.verdict is None:
        return "not judged"
    return "not shown" if compared.verdict == "no difference shown" else compared.verdict


def _verdict_counts(report: Report) -> list[VerdictCount]:
    words = [verdict(each) for each in report.comparisons]
    return [
        VerdictCount(name, words.count(name), _meaning(name, report))
        for name in _MEANINGS
        if name in words
    ]


def _meaning(word: str, report: Report) -> str:
    if word != "not judged":
        return _MEANINGS[word]
    outputs = [each.output for each in report.comparisons if verdict(each) == word]
    return f"for {', '.join(dict.fromkeys(outputs))}, {_MEANINGS[word]}"


def _ranking(info: OutputInfo, report: Report) -> BestRoute | None:
    """Return which route is best in an output; None where no two are to be ranked."""
    estimates = {
        route.route: score.estimate
        for route in report.routes
        for score in route.scores
        if score.output == info.name and score.estimate is not None
    }
    if info.higher_is_better is None or len(estimates) < 2:
        return None
    ranked = sorted(estimates, key=lambda name: estimates[name], reverse=info.higher_is_better)
    top = estimates[ranked[0]]
    best = [name for name in ranked if estimates[name] == top]
    rest = ranked[len(best) :]
    sentence = f"{info.name} {top:,.{decimals(info, top)}f}"
    if rest:
        texts = [
            f"{estimates[name]:,.{decimals(info, estimates[name])}f} ({name})"
            for name in rest[:_RANKED]
        ]
        more = f" and {len(rest) - _RANKED:,} more" if len(rest) > _RANKED else ""
        sentence += f", then {', '.join(texts)}{more}"
    if len(best) > 1:
        return BestRoute(best, sentence, "", "", "", "")
    route = next(each for each in report.routes if each.route == best[0])
    time = "" if route.times.p50_s is None else duration(route.times.p50_s)
    shown, is_tested = _shown_of_best(info, best[0], rest, report)
    return BestRoute(best, sentence, _cost([route]), time, shown, "" if is_tested else best[0])


def _shown_of_best(
    info: OutputInfo, best: str, rest: list[str], report: Report
) -> tuple[str, bool]:
    """Return what the tests show of the best route, and whether it was tested against all."""
    compared = {each.route: each for each in _compared(report, info.name)}
    if report.baseline is None:
        # The page says so where it offers to compare the routes.
        return "", False
    if best != report.baseline:
        if best not in compared:
            return "", False
        words = verdict(compared[best])
        kind = "better" if words == "better" else "not shown to be better"
        against = "" if len(rest) == 1 else "; it was not tested against the others"
        return f"It is {kind} than {report.baseline}, the baseline{against}.", len(rest) == 1
    worse = [name for name in rest if name in compared and verdict(compared[name]) == "worse"]
    if not worse:
        return "No other is shown to be worse.", True
    values = [compared[name].p_holm for name in worse]
    p = p_value(max((value for value in values if value is not None), default=None))
    if len(worse) == len(rest):
        all_of = "Both" if len(rest) == 2 else f"All {len(rest):,}"
        subject = f"{all_of} others are" if len(rest) > 1 else f"{rest[0]} is"
    else:
        verb = "is" if len(worse) == 1 else "are"
        subject = f"{len(worse):,} of the {len(rest):,} others {verb}"
    at_most = "" if p.startswith("<") or len(worse) == 1 else "at most "
    return f"{subject} shown to be worse (p {at_most}{p}).", True


def _finding(info: OutputInfo, compared: Comparison, report: Report) -> ComparisonText:
    words = verdict(compared)
    against = f"{report.baseline} in {info.name}"
    sentence = {
        "better": f"is better than {against}",
        "worse": f"is worse than {against}",
        "equivalent": f"is equivalent to {against}, within \u00b1{compared.margin or 0:g}",
        "not shown": f"is not shown to differ from {against}",
        "not tested": f"was not tested against {against}: its primary score shows no difference",
        "no samples in common": f"has no samples in common with {against}",
        "not judged": f"differs from {against}, of which higher is neither better nor worse",
        "too few labels": f"has too few labels to be compared with {against}",
        "raw": f"has a corrected score beside this one, which decides against {against}",
    }[words]
    if words == "not shown" and compared.detectable is not None:
        places = decimals(info, compared.detectable)
        sentence += (
            "; these samples show a true difference 4 times in 5 if it is at least about "
            f"{compared.detectable:,.{places}f}"
        )
    numbers = f"{compared.n:,} {plural('sample', compared.n)}"
    if compared.n:
        numbers = f"{difference(info, compared)}, {numbers}"
    if compared.p_holm is not None:
        numbers += f", p {p_value(compared.p_holm)}"
    kind = words if words in {"better", "worse"} else ""
    return ComparisonText(compared.route, kind, sentence, numbers)


def _cost(routes: Iterable[RouteReport]) -> str:
    """Return what routes cost together."""
    costs = [route.cost for route in routes]
    known = sum(cost.known_usd for cost in costs)
    return cost_text(
        CostSummary(
            total_usd=None if any(cost.total_usd is None for cost in costs) else known,
            known_usd=known,
            unknown=sum(cost.unknown for cost in costs),
            estimated=sum(cost.estimated for cost in costs),
        )
    )


def _between_repeats(routes: Iterable[RouteReport]) -> dict[str, list[str]]:
    """Return by route how much of each score's variance is between repeats of one sample."""
    shares = {
        route.route: [
            f"{score.output} {score.variance.share_of_repeats:.0%}"
            for score in route.scores
            if score.variance is not None and score.variance.share_of_repeats is not None
        ]
        for route in routes
    }
    return {route: texts for route, texts in shares.items() if texts}


def _gate_value(gate: GateResult, report: Report) -> str:
    """Return the number that a gate was decided on, with its interval where it is a score."""
    if gate.found is None:
        return ABSENT
    infos = {info.name: info for info in report.outputs}
    for route in report.routes:
        for score in route.scores if route.route == gate.route else ():
            if score.output == gate.output and score.estimate == gate.found:
                return score_text(infos[score.output], score)
    return f"{gate.found:,.3f}"


class FailureCount(NamedTuple):
    """Answers of a route that failed, or that are not whole, for one reason.

    Attributes:
        route: the route.
        kind: the error's code, or what befell the answers.
        answers: how many.
        share: of those that the route should have given or gave, with its 95% interval.
        example: a message.
    """

    route: str
    kind: str
    answers: int
    share: str
    example: str


def _failures(routes: Iterable[RouteReport]) -> Iterable[FailureCount]:
    for route in routes:
        done = route.answered + route.failed
        for error in route.errors:
            share = _share(error.count, done)
            yield FailureCount(route.route, error.code, error.count, share, error.example)
        for shortfall, count in route.shortfalls.items():
            share = _share(count, route.answered)
            yield FailureCount(route.route, SHORTFALLS[shortfall], count, share, "")


def _share(count: int, n: int) -> str:
    interval = wilson(count, n)
    if interval.estimate is None or interval.low is None or interval.high is None:
        return ABSENT
    return f"{interval.estimate:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
