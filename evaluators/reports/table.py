"""A report for people: `rich` tables that also read well as plain text, where no colour is seen.

console.print(to_table(report, width=console.width))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from evaluators.reports.cells import (
    ABSENT,
    MARKS,
    STYLES,
    caveats,
    difference,
    empty_table,
    grid,
    heading,
    outcomes,
    output_title,
    p_value,
    plain,
    plural,
    printable,
    verdict_of,
    verdict_words,
)
from evaluators.reports.report import Report, RouteReport, cost_text
from evaluators.reports.scores import OutputInfo, RouteScore, decimals
from evaluators.stats.comparison import Comparison, Verdict

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import Group, RenderableType
    from rich.text import Text

_ROUTE_WIDTH = 32  # longer route names are folded


def to_table(report: Report, *, width: int = 100) -> Group:
    """Draw scores, what they took, differences from the baseline, caveats and signatures.

    Args:
        report: from `summarise`.
        width: columns to fit; many outputs are split over several tables.
    """
    from rich.console import Group  # noqa: PLC0415  (see TYPE_CHECKING above)

    parts: list[RenderableType] = []
    parts += _scores(report, width)
    parts += _repeats(report)
    parts += _confusions(report)
    parts += _taken(report)
    parts += _differences(report, width)
    parts += caveats(report.warnings)
    parts += _signatures(report)
    return Group(*parts)


def _scores(report: Report, width: int) -> Iterable[RenderableType]:
    counted = f"{report.samples:,} {plural('sample', report.samples)}"
    clusters = max(
        (score.clusters or 0 for route in report.routes for score in route.scores), default=0
    )
    if clusters:
        counted += f" in {clusters:,} {plural('cluster', clusters)}"
    if not report.outputs:
        yield heading(f"{counted}, not scored", "`eval rescore` scores them and asks nothing again")
        return
    verdicts = {
        (compared.route, compared.output): compared.verdict for compared in report.comparisons
    }
    legend = "mean or corpus score [95% interval]; ↑ higher is better, ↓ lower is better"
    if report.baseline is not None and len(report.routes) > 1:
        legend += f"; ▲ better / ▼ worse than {report.baseline} (p < 0.05, see below)"
        if "equivalent" in verdicts.values():
            legend += "; ≈ equivalent"
    yield heading(f"Scores over {counted}", legend)

    columns: list[tuple[OutputInfo, list[Text]]] = []
    for index, output in enumerate(report.outputs):
        marks = [verdicts.get((route.route, output.name)) for route in report.routes]
        marked = any(MARKS[verdict].strip() for verdict in marks)
        cells = [
            _score_cell(output, route.scores[index], MARKS[verdict] if marked else "", verdict)
            for route, verdict in zip(report.routes, marks, strict=True)
        ]
        columns.append((output, cells))
    names = [_route_name(route.route, report.baseline) for route in report.routes]
    longest = max((line.cell_len for name in names for line in name.split()), default=5)
    left = min(longest, _ROUTE_WIDTH)
    for chosen in _fitting(columns, width - left):
        table = empty_table()
        table.add_column("route", overflow="fold", max_width=_ROUTE_WIDTH)
        for output, _ in chosen:
            table.add_column(output_title(output), justify="right", no_wrap=True)
        for row, name in enumerate(names):
            table.add_row(name, *(cells[row] for _, cells in chosen))
        yield table
        yield plain("")


def _fitting(
    columns: Sequence[tuple[OutputInfo, list[Text]]], room: int
) -> Iterable[list[tuple[OutputInfo, list[Text]]]]:
    """Group neighbouring columns that fit side by side; each group has at least one."""
    chosen: list[tuple[OutputInfo, list[Text]]] = []
    used = 0
    for output, cells in columns:
        lines = [line.cell_len for cell in cells for line in cell.split("\n")]
        needed = max([len(output_title(output)), *lines]) + 2  # the gap between columns
        if chosen and used + needed > room:
            yield chosen
            chosen, used = [], 0
        chosen.append((output, cells))
        used += needed
    if chosen:
        yield chosen


def _score_cell(output: OutputInfo, score: RouteScore, mark: str, verdict: Verdict | None) -> Text:
    text = plain(ABSENT)
    if score.estimate is not None:
        digits = decimals(output, score.estimate)
        text = plain(f"{score.estimate:,.{digits}f}")
        if score.low is not None and score.high is not None:
            text.append(f" [{score.low:,.{digits}f}, {score.high:,.{digits}f}]")
    if mark:
        text.append(f" {mark}", style=STYLES[verdict])
    if score.people is not None and score.labelled:
        of_people = f"\npeople {score.people:,.{decimals(output, score.people)}f}"
        text.append(f"{of_people} ({score.labelled:,} {plural('label', score.labelled)})", "dim")
    if score.scored < score.expected:
        below_mark = "  " if mark else ""
        text.append(f"\n{score.scored:,} of {score.expected:,}{below_mark}", "dim")
    return text


def _repeats(report: Report) -> Iterable[RenderableType]:
    """Show how much of a score's spread lies between repeats of one sample."""
    lines = []
    for route in report.routes:
        shares = [
            f"{score.output} {score.variance.share_of_repeats:.0%}"
            for score in route.scores
            if score.variance is not None and score.variance.share_of_repeats is not None
        ]
        if shares:
            lines.append(plain(f"{route.route}: {', '.join(shares)}"))
    if lines:
        yield heading(
            "Repeats", "share of a score's variance that is between repeats of one sample"
        )
        yield from lines
        yield plain("")


def _confusions(report: Report) -> Iterable[RenderableType]:
    """Draw a confusion matrix for each route with labels."""
    for route in report.routes:
        for confusion in route.confusions:
            legend = "rows: the label that was due; columns: the label that was given"
            yield heading(f"Labels of {route.route}", legend)
            table = empty_table()
            table.add_column("", overflow="fold", max_width=_ROUTE_WIDTH)
            for label in confusion.labels:
                table.add_column(printable(label), justify="right", overflow="fold")
            for label, counts in zip(confusion.labels, confusion.counts, strict=False):
                table.add_row(plain(label, "bold"), *(f"{count:,.4g}" for count in counts))
            yield table
            yield plain("")


def _taken(report: Report) -> Iterable[RenderableType]:
    yield heading("What it took", "time to the last byte: median / 95th percentile, in seconds")
    any_cached = any(route.cached for route in report.routes)
    table = empty_table()
    table.add_column("route", overflow="fold", min_width=12, max_width=_ROUTE_WIDTH)
    table.add_column("answered", justify="right")
    if any_cached:
        table.add_column("cached", justify="right")
    for title in ("time", "tokens in / out", "cost"):
        table.add_column(title, justify="right")
    for route in report.routes:
        table.add_row(
            _route_name(route.route, report.baseline),
            f"{route.answered:,} of {route.expected:,}",
            *([f"{route.cached:,}"] if any_cached else []),
            _times(route),
            _tokens(route),
            cost_text(route.cost),
        )
    yield table
    for route in report.routes:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in route.targets.items())
        if len(route.targets) > 1 or (route.targets and route.route not in route.targets):
            yield plain(f"{route.route} was answered by {shares}")
        for error in route.errors:
            example = f", for example: {error.example}" if error.example else ""
            times = plural("time", error.count)
            yield plain(
                f"{route.route} failed {error.count:,} {times} with {error.code}{example}", "red"
            )
    yield plain("")


def _times(route: RouteReport) -> str:
    p50, p95 = route.times.p50_s, route.times.p95_s
    if p50 is None or p95 is None:
        return ABSENT
    return f"{_seconds(p50)} / {_seconds(p95)}"


def _seconds(value: float) -> str:
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _tokens(route: RouteReport) -> str:
    if route.tokens.unknown == route.answered:
        return ABSENT
    sign = "≥ " if route.tokens.unknown else "≈ " if route.tokens.estimated else ""
    return f"{sign}{route.tokens.prompt:,} / {route.tokens.completion:,}"


def _differences(report: Report, width: int) -> Iterable[RenderableType]:
    if not report.comparisons:
        return
    outputs = {output.name: output for output in report.outputs}
    yield heading(
        f"Differences from {report.baseline}",
        "sample by sample [95% interval]; p is corrected for the number of comparisons",
    )
    for route in report.routes:
        comparisons = [compared for compared in report.comparisons if compared.route == route.route]
        if not comparisons:
            continue
        table = empty_table()
        yield plain(route.route, "bold")
        table.add_column("output", overflow="fold", min_width=12)
        table.add_column("difference", justify="right", min_width=22)
        table.add_column("better/\nsame/worse", justify="right", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("p\n(Holm)", justify="right", no_wrap=True)
        table.add_column("verdict")
        for compared in comparisons:
            output = outputs[compared.output]
            table.add_row(
                output_title(output),
                difference(output, compared),
                outcomes(output, compared),
                f"{compared.n:,}",
                p_value(compared.p_holm),
                verdict_of(compared, in_full=width >= 96),
            )
        yield table
        yield plain(_in_words(route.route, report.baseline or "", comparisons))
        yield plain("")


def _in_words(route: str, baseline: str, compared: Sequence[Comparison]) -> str:
    outputs: dict[str, list[str]] = {"better": [], "worse": []}
    for comparison in compared:
        if comparison.verdict is not None:
            outputs.setdefault(verdict_words(comparison), []).append(comparison.output)
    unshown = outputs.pop("not shown", [])
    clauses = [f"{words} on {', '.join(names)}" for words, names in outputs.items() if names]
    if unshown:
        clauses.append(f"no difference shown on {', '.join(unshown)}")
    elif not clauses:
        # Outputs such as a length: a difference, but neither direction is better.
        undecided = [comparison.output for comparison in compared if comparison.n]
        clauses += [f"no verdict on {', '.join(undecided)}"] if undecided else []
    return f"{route} against {baseline}: {'; '.join(clauses) or 'nothing could be compared'}."


def _signatures(report: Report) -> Iterable[RenderableType]:
    yield heading("How it was measured", "")
    table = grid()
    for name, signature in report.signatures.items():
        table.add_row(plain(name, "dim"), plain(signature, "dim"))
    table.add_row(plain("statistics", "dim"), plain(report.method, "dim"))
    yield table


def _route_name(route: str, baseline: str | None) -> Text:
    text = plain(route, "bold")
    if route == baseline:
        text.append("\n(baseline)", "dim")
    return text
