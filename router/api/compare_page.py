"""The page that compares two runs, or two routes of one: what differs, where, and what changed.

Which runs and routes is in the address. The numbers are those of `GET /eval/compare`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
import numpy as np
from litestar import Response
from litestar.params import FromQuery

from evaluators.reports.cells import difference, outcomes, p_value, plural, signed
from evaluators.reports.compare import Comparisons, Contrast, Side
from evaluators.reports.compare_table import comparison_of
from evaluators.reports.scores import OutputInfo, decimals
from evaluators.stats.intervals import Interval
from evaluators.stats.resampling import Floats
from providers.errors import EvalrouterError, RequestError
from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import page, rendered
from router.api.run_page import verdict
from router.evals.compare import ComparedSamples, ComparisonRequest
from router.evals.stored_runs import stored_document
from router.store.runs import Run, RunFilter
from router.web.plots.differences import sorted_differences
from router.web.plots.figure import Plot
from router.web.word_diff import DiffPiece, word_diff

# Answers that are read without a request for it.
READ_UNREQUESTED = 4_000
# Of each kind: samples that gained, and that lost.
MOVERS = 10
_LISTED_RUNS = 100
# Verdicts on the shown score between other sides, in words.
_ALIKE = 20
# Characters of a value of a document.
_MAX_VALUE = 4_000


class MovedSample(NamedTuple):
    """A sample on which the sides differ much.

    Attributes:
        sample_id: its id.
        difference: the first side's score less the second's.
        links: the pages of the sample, each with its name.
    """

    sample_id: str
    difference: str
    links: Sequence[tuple[str, str]]


class ChangedValue(NamedTuple):
    """A value of the runs' documents that is not the same in both.

    Attributes:
        name: where it is in the document.
        first, second: the values as they are written; "" where a document has none.
        pieces: the differences of two texts, word by word; empty for other values.
    """

    name: str
    first: str
    second: str
    pieces: Sequence[DiffPiece]


class ShownContrast(NamedTuple):
    """A contrast in words and cells.

    Attributes:
        contrast: the contrast.
        sides: the names of its sides.
        kind: `better`, `worse`, or "" for anything else.
        words: the verdict.
        sentence: what is shown, with the names of the sides.
        numbers: the difference with its interval, the samples and the p-value.
        cells: the difference, p-value, outcomes and samples, each as the table has it.
        link: the address that shows its samples.
    """

    contrast: Contrast
    sides: tuple[str, str]
    kind: str
    words: str
    sentence: str
    numbers: str
    cells: tuple[str, str, str, str]
    link: str


@page("/compare")
async def compare_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    a: FromQuery[str] = "",
    b: FromQuery[str] = "",
    route_a: FromQuery[str] = "",
    route_b: FromQuery[str] = "",
    join: FromQuery[Literal["", "id", "position"]] = "",
    show: FromQuery[int | None] = None,
    calculate: FromQuery[bool] = False,
) -> Response[str]:
    """Compare two runs, or routes of one.

    `a` and `b` are the runs' ids; without `b`, routes of `a` are compared. `show` is the
    number of the contrast whose samples are shown, from 0. `calculate` reads the answers of runs
    that have many.
    """
    chosen = [name for name in (a, b) if name]
    address = {"route_a": route_a, "route_b": route_b, "join": join}
    address = {name: value for name, value in address.items() if value}
    error, status = "", 200
    members: list[Run] = []
    compared: ComparedSamples | None = None
    answers, values = 0, dict[str, Any]()
    try:
        members = [await services.runs.find(name) for name in dict.fromkeys(chosen)]
        ids = [member.id for member in members]
        address = {**dict(zip("ab", ids, strict=False)), **address}
        answers = sum(member.cells for member in members)
        request = ComparisonRequest(
            route_a=route_a or None, route_b=route_b or None, join=join or None, movers=0
        )
        # Of one run with one route there is nothing to compare before another is chosen.
        if len(ids) > 1 or any(_has_several_routes(each) for each in members):
            comparisons = services.comparisons
            may_read = calculate or answers <= READ_UNREQUESTED
            compared = await (comparisons.of if may_read else comparisons.cached)(members, request)
        if compared is not None:
            values = await asyncio.to_thread(_shown, compared, members, address, show)
    except EvalrouterError as refused:
        error, status = refused.message, refused.status
    if len(members) == 2:
        values["changes"] = await asyncio.to_thread(_changes, *members)
    newest = await services.store.runs(RunFilter(key_id=caller.only), limit=_LISTED_RUNS)
    response = await rendered(
        "compare.html",
        caller,
        title="Compare",
        current="/compare",
        runs=[
            *(each for each in members if each.id not in {listed.id for listed in newest}),
            *newest,
        ],
        members=members,
        first=members[0] if members else None,
        second=members[-1] if members else None,
        routes=[list(map(str, each.document.get("routes") or ())) for each in members],
        different_datasets=len({each.dataset_hash for each in members}) > 1,
        route_a=route_a,
        route_b=route_b,
        join=join,
        error=error,
        answers=answers,
        compared=compared,
        api_link=_api_link(members, route_a, route_b, join),
        p_value=p_value,
        calculate_link=f"/compare?{urlencode({**address, 'calculate': 'true'})}",
        **{**_NOTHING, **values},
    )
    response.status_code = status
    return response


def _letters(members: Sequence[Run]) -> dict[str, str]:
    """Return the letter that a page of two runs has for each: their names may be the same."""
    return dict(zip((member.id for member in members), "AB", strict=False))


def _has_several_routes(run: Run) -> bool:
    return len(run.document.get("routes") or ()) > 1


def _shown(
    compared: ComparedSamples,
    members: Sequence[Run],
    address: Mapping[str, str],
    show: int | None,
) -> dict[str, Any]:
    """Return what the page has of a comparison."""
    comparisons = compared.comparisons
    infos = {info.name: info for info in comparisons.outputs}
    letters = _letters(members)
    contrasts = [
        _contrast(
            contrast,
            infos[contrast.output],
            letters,
            f"/compare?{urlencode({**address, 'show': n})}",
        )
        for n, contrast in enumerate(comparisons.contrasts)
    ]
    chosen = _deciding(comparisons, members[0]) if show is None else show
    if not 0 <= chosen < len(contrasts):
        raise RequestError(f"show: from 0 to {len(contrasts) - 1}.", param="show")
    shown = contrasts[chosen]
    alike = [
        each
        for each in contrasts
        if each.contrast.output == shown.contrast.output and each is not shown
    ]
    values = {
        "contrasts": contrasts,
        "shown": shown,
        "alike": alike[:_ALIKE],
        "chosen": chosen,
        "gained": [],
        "lost": [],
    }
    differences = compared.differences.get(chosen)
    if differences is None or not shown.contrast.joined:
        return values
    info = infos[shown.contrast.output]
    gained, lost = _movers(
        compared.samples, differences, info, shown.contrast, comparisons, letters
    )
    sorted_link = _sorted_link(shown.contrast)
    plot = _plot(differences, info, shown)
    values |= {"plot": plot, "gained": gained, "lost": lost, "sorted_link": sorted_link}
    return {**values, "ahead": " has more" if info.higher_is_better is None else " is better"}


# What the template has without a comparison.
_NOTHING: Mapping[str, Any] = {
    "contrasts": [],
    "shown": None,
    "alike": [],
    "chosen": None,
    "plot": None,
    "gained": [],
    "lost": [],
    "sorted_link": "",
    "ahead": "",
    "changes": [],
}


def _api_link(members: Sequence[Run], route_a: str, route_b: str, join: str) -> str:
    query = {"runs": ",".join(member.id for member in members)}
    given = {"route_a": route_a, "route_b": route_b, "join": join}
    query |= {name: value for name, value in given.items() if value}
    return f"/eval/compare?{urlencode(query)}"


def _deciding(comparisons: Comparisons, first: Run) -> int:
    """Return the number of the contrast that decides by the first run's document."""
    deciding = stored_document(first).deciding
    of_output = [n for n, each in enumerate(comparisons.contrasts) if each.output == deciding]
    headlines = [n for n, each in enumerate(comparisons.contrasts) if each.headline]
    return next(iter((*of_output, *headlines)), 0)


def _side_names(a: Side, b: Side, letters: Mapping[str, str]) -> tuple[str, str]:
    if a.run == b.run:
        return a.route, b.route
    return f"{a.route} of {letters[a.run]}", f"{b.route} of {letters[b.run]}"


def _contrast(
    contrast: Contrast, info: OutputInfo, letters: Mapping[str, str], link: str
) -> ShownContrast:
    first, second = _side_names(contrast.a, contrast.b, letters)
    row = comparison_of(contrast)
    words = "not measured" if contrast.shared and not contrast.n else verdict(row)
    sentence = {
        "better": f"{first} is better than {second} in {info.name}",
        "worse": f"{first} is worse than {second} in {info.name}",
        "equivalent": f"{first} is equivalent to {second} in {info.name}, within "
        f"±{contrast.margin or 0:g}",
        "not shown": f"{first} is not shown to differ from {second} in {info.name}",
        "not tested": f"{first} was not tested against {second} in {info.name}: the primary score "
        "shows no difference",
        "no samples in common": f"{first} has no samples in common with {second} in {info.name}",
        "not judged": f"{first} differs from {second} in {info.name}, a score without a better "
        "direction",
        "too few labels": f"{first} has too few labels to be compared with {second} in {info.name}",
        "raw": f"{first} and {second}: {info.name} has a corrected score beside it, which decides",
        "not measured": f"{first} and {second} have the same answers in all samples, so nothing "
        f"was measured in {info.name}",
    }[words]
    if words == "not shown" and contrast.detectable is not None:
        least = f"{contrast.detectable:,.{decimals(info, contrast.detectable)}f}"
        sentence += (
            "; these samples show a true difference 4 times in 5 if it is at least about " + least
        )
    if contrast.joined:
        counts = f"{contrast.n:,} {plural('pair', contrast.n)}"
        samples = f"{counts} of samples"
    else:
        counts = f"{contrast.n_a:,} and {contrast.n_b:,}"
        samples = f"{counts} samples, not paired"
    numbers = f"{difference(info, row)}, {samples}"
    if contrast.p_holm is not None:
        numbers += f", p {p_value(contrast.p_holm)}"
    cells = (difference(info, row), p_value(contrast.p_holm), outcomes(info, row), counts)
    kind = words if words in {"better", "worse"} else ""
    return ShownContrast(contrast, (first, second), kind, words, sentence, numbers, cells, link)


def _plot(differences: Floats, info: OutputInfo, shown: ShownContrast) -> Plot:
    contrast = shown.contrast
    mean = Interval(
        estimate=contrast.difference, low=contrast.low, high=contrast.high, n=contrast.n
    )
    return sorted_differences(
        info.name,
        differences,
        shown.sides,
        higher_is_better=info.higher_is_better,
        # The difference of scores of whole corpora is not the mean of their samples'.
        mean=None if info.corpus else mean,
    )


def _movers(  # noqa: PLR0917 - what samples and their links need
    samples: Sequence[str],
    differences: Floats,
    info: OutputInfo,
    contrast: Contrast,
    comparisons: Comparisons,
    letters: Mapping[str, str],
) -> tuple[list[MovedSample], list[MovedSample]]:
    """Return the samples on which the first side is better than the second, and worse, by most."""
    gains = -differences if info.higher_is_better is False else differences
    order = np.argsort(gains, kind="stable")
    order = order[np.isfinite(gains[order])]
    best = [n for n in order[::-1][:MOVERS].tolist() if gains[n] > 0]
    worst = [n for n in order[:MOVERS].tolist() if gains[n] < 0]

    def moved(n: int) -> MovedSample:
        value = float(differences[n])
        links = _sample_links(samples[n], contrast, comparisons, letters)
        return MovedSample(samples[n], signed(value, decimals(info, value)), links)

    return [moved(n) for n in best], [moved(n) for n in worst]


def _sample_links(
    sample_id: str, contrast: Contrast, comparisons: Comparisons, letters: Mapping[str, str]
) -> list[tuple[str, str]]:
    a, b = contrast.a, contrast.b
    query = {"sample": sample_id, "output": contrast.output}
    if a.run == b.run:
        compared = urlencode({**query, "a": a.route, "b": b.route})
        return [("answers", f"/runs/{a.run}/samples?{compared}")]
    sides = [(f"answer of {letters[side.run]}", side) for side in (a, b)]
    # Paired by position, a sample may have another id in the second run.
    shown = sides if comparisons.joined_by == "id" else sides[:1]
    return [
        (name, f"/runs/{side.run}/samples?{urlencode({**query, 'a': side.route})}")
        for name, side in shown
    ]


def _sorted_link(contrast: Contrast) -> str:
    """Return the address of all samples, sorted; "" where they are of two runs."""
    a, b = contrast.a, contrast.b
    if a.run != b.run:
        return ""
    query = {"output": contrast.output, "a": a.route, "b": b.route, "sort": "-gain"}
    return f"/runs/{a.run}/samples?{urlencode(query)}"


def _changes(first: Run, second: Run) -> list[ChangedValue]:
    """Return what differs between the documents, datasets, metrics and versions of two runs."""
    ours, theirs = _values(first), _values(second)
    changes = []
    for name in dict.fromkeys([*ours, *theirs]):
        before, after = ours.get(name), theirs.get(name)
        if before == after and (name in ours) == (name in theirs):
            continue
        texts = [
            "" if name not in values else _text(values[name])[:_MAX_VALUE]
            for values in (ours, theirs)
        ]
        pieces: Sequence[DiffPiece] = ()
        if isinstance(before, str) and isinstance(after, str) and before and after:
            pieces = word_diff(*texts)
        changes.append(ChangedValue(name, texts[0], texts[1], pieces))
    return changes


def _values(run: Run) -> dict[str, Any]:
    try:
        document = msgspec.to_builtins(stored_document(run))
    except EvalrouterError:
        # Another version wrote it; what it has can be compared all the same.
        document = run.document
    values = dict(_flattened("", document))
    for name in ("name", "notes", "tags", "experiment"):
        values.pop(name, None)
    values["sha256 of the dataset"] = run.dataset_hash
    values["samples"] = run.dataset_rows
    values |= {f"metric {name}": signature for name, signature in run.metrics.items()}
    return values | {f"version of {name}": version for name, version in run.versions.items()}


def _flattened(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the values of nested objects, and of lists of objects, each with its path."""
    if isinstance(value, dict):
        return [
            item
            for key, inner in value.items()
            for item in _flattened(f"{name}.{key}" if name else str(key), inner)
        ]
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [item for n, inner in enumerate(value) for item in _flattened(f"{name}[{n}]", inner)]
    return [(name, value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
